"""`farm import`: what comes of it in every command, and the published case."""

import csv
import json
from pathlib import Path

import pytest

from farm.queue.unreadable import find_flaws
from farm.record.store import Store
from farm.study.study import Study

from .conftest import ROOT, Farm

LOSSES = """arm,machine,init_seed,train_seed,test_loss,hours,usd
baseline,cpu,42,23,3.69,2,1.5
baseline,cpu,22,23,3.66,2,
remove-dropout,cpu,42,23,3.60,1,0.5
remove-dropout,cpu,22,23,3.57,1,0.5
"""


@pytest.fixture
def farm(farm: Farm) -> Farm:
    """A farm that has been up, so that its storage is there."""
    farm.serve()
    return farm


PUBLISHED = ROOT / "examples" / "published" / "losses.csv"


def imported(farm: Farm, text: str = LOSSES, *words: str) -> Path:
    path = farm.folder / "losses.csv"
    path.write_text(text, encoding="utf-8")
    assert farm("import", str(path), *words).code == 0
    return path


def table(farm: Farm, study: str) -> list[dict]:
    return json.loads(farm("table", study, "--json").out)["data"]


def test_imported_losses_are_marked_wherever_they_show(farm: Farm) -> None:
    imported(farm)
    for row in table(farm, "losses"):
        assert (row["imported"], row["evaluation"], row["init_hash"], row["same_init"]) == (
            True,
            "imported",
            None,
            None,
        )
    rows = {row["arm"]: row for row in table(farm, "losses")}
    assert (rows["remove-dropout"]["verdict"], rows["remove-dropout"]["method"]) == ("better", "paired")
    assert (rows["remove-dropout"]["usd"], rows["baseline"]["usd"]) == (0.5, None), "unknown of one run: unknown"
    assert {row["imported"] for row in farm("table", "losses").rows} == {"True"}
    assert "remove-dropout (imported)" in farm("table", "losses", "--format", "md").out
    assert "imported: 2 rows, trained elsewhere" in farm("table", "losses").err
    listed = json.loads(farm("runs", "losses", "--json").out)["data"]
    assert {(row["imported"], row["state"]) for row in listed} == {(True, "imported")}
    assert len(json.loads(farm("runs", "--arm", "baseline", "--json").out)["data"]) == 2
    shown = json.loads(farm("show", listed[0]["run"], "--json").out)["data"]
    assert (shown["imported"], shown["test_loss"], shown["tokens"]) == (True, 3.69, None)
    assert "imported: trained elsewhere" in farm("show", listed[0]["run"]).out
    assert "imported" in {row["evaluation"] for row in farm("noise", "losses").rows}
    assert "study losses" in farm("table").err, "it is a study like another"


def test_losses_that_were_rounded_until_they_show_no_noise_are_said_to_be(farm: Farm) -> None:
    """Both pairs above differ by 0.09, which no two trainings do."""
    imported(farm)
    told = "rounded: the imported losses of remove-dropout on cpu have 2 decimals, and their SD"
    assert told in farm("table", "losses").err
    assert {row["arm"]: row["decimals"] for row in table(farm, "losses")} == {"baseline": None, "remove-dropout": 2}
    finer = LOSSES.replace("3.57,", "3.5694871,").replace("3.69,", "3.6913,")
    imported(farm, finer, "--study", "finer")
    assert {row["decimals"] for row in table(farm, "finer")} == {None}
    assert "rounded:" not in farm("table", "finer").err
    alike = "".join(f"baseline,cpu,{seed},23,3.7,,\n" for seed in (42, 22, 67))
    imported(farm, LOSSES.splitlines()[0] + "\n" + alike, "--study", "alike")
    assert [row["decimals"] for row in table(farm, "alike")] == [1], "an SD of 0"


def test_one_imported_row_is_one(farm: Farm) -> None:
    imported(farm, "\n".join(LOSSES.splitlines()[:2]) + "\n")
    assert "imported: 1 row, trained elsewhere; such rows are ranked among themselves" in farm("table", "losses").err


def test_twice_is_once_and_a_second_loss_of_one_run_is_a_conflict(farm: Farm) -> None:
    path = imported(farm)
    again = json.loads(farm("import", str(path), "--json").out)
    assert {row["now"] for row in again["data"]} == {"known"}
    assert again["study_file_is"] == "there already"
    assert len(farm.queue.studies.imported("losses").runs) == 4
    path.write_text(LOSSES.replace("3.57", "3.58"), encoding="utf-8")
    answer = farm("import", str(path))
    assert (answer.code, len(farm.queue.studies.imported("losses").runs)) == (6, 4)
    assert "test_loss is 3.57 by" in answer.err


def test_what_is_wrong_is_refused_whole_with_a_line_for_each_fault(farm: Farm) -> None:
    path = farm.folder / "bad.csv"
    path.write_text(LOSSES.replace("3.66", "low").replace("3.57", "nan"), encoding="utf-8")
    answer = farm("import", str(path))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines() == [
        f"error: {path}:3: column test_loss: 'low' is not a number.",
        f"error: {path}:5: column test_loss: nan is not finite. More: docs/published.md#what-farm-import-takes",
    ]
    assert not farm.queue.studies.imported("bad").runs
    assert not (farm.folder / "bad.toml").exists()
    assert farm("import", str(path), "--study", "No Name").code == 2


def test_a_study_file_that_was_edited_stays(farm: Farm) -> None:
    path = imported(farm)
    assert Study.load(farm.folder / "losses.toml").name == "losses"
    (farm.folder / "losses.toml").write_text("mine", encoding="utf-8")
    assert "already exists and differs, so it was kept" in farm("import", str(path)).err
    assert (farm.folder / "losses.toml").read_text(encoding="utf-8") == "mine"
    assert farm("import", str(path), "--output", str(farm.folder / "other.toml")).code == 0
    assert Study.load(farm.folder / "other.toml").name == "losses"


def test_they_survive_a_reindex_and_a_damaged_record_is_named(farm: Farm) -> None:
    imported(farm)
    farm.queue.redis.flushdb()
    assert farm("reindex").code == 0
    assert len(farm.queue.studies.imported("losses").runs) == 4
    record = farm.store.root / "imported" / "losses.json"
    record.write_text(record.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    answer = farm("reindex")
    assert answer.code == 1
    assert f"{record} is damaged" in answer.err


def test_they_are_never_ranked_with_runs_of_the_farm_nor_taken_for_them(farm: Farm) -> None:
    farm.put(name="losses", init=(42, 22))
    imported(farm)
    farm.finish_all()
    before = len(farm.queue.listing.statuses())
    rows = table(farm, "losses")
    assert [(row["arm"], row["rank"]) for row in rows if row["imported"]] == [("remove-dropout", 1), ("baseline", 2)]
    own = [row for row in rows if not row["imported"]]
    assert {row["arm"] for row in own} == {"baseline", "remove-dropout", "gradient-clipping"}
    alone = rows[:3]
    farm("forget", "losses", "-y")
    assert own == alone, "the farm's rows come first"
    assert farm.queue.listing.put_count() == before, "an import queues nothing"


def test_an_error_rate_of_their_own(farm: Farm) -> None:
    """What is imported does not widen the intervals of the farm's own runs."""
    farm.put(name="losses", init=(42, 22))
    farm.finish_all()
    before = table(farm, "losses")
    imported(farm)
    assert [row for row in table(farm, "losses") if not row["imported"]] == before
    answer = farm("table", "losses")
    assert "for all 2 comparisons at once, and for all 1 of imported losses" in answer.err


def test_they_are_forgotten_for_good(farm: Farm) -> None:
    imported(farm)
    assert farm("forget", "losses").code == 7, "it asks first"
    gone = farm("forget", "losses", "--arm", "baseline", "-y")
    assert {row["was"] for row in gone.rows} == {"imported"}
    assert {run.arm for run in farm.queue.studies.imported("losses").runs} == {"remove-dropout"}
    assert farm("forget", "losses", "-y").code == 0
    assert farm("reindex").code == 0
    assert farm("table", "losses").code == 3
    assert not (farm.store.root / "imported" / "losses.json").exists()


def test_where_their_record_is_not_seen_they_are_not_forgotten(farm: Farm) -> None:
    imported(farm)
    farm.environment["FARM_STORAGE"] = str(farm.folder / "elsewhere")
    answer = farm("forget", "losses", "-y")
    assert (answer.code, "cannot be reached from this machine: nothing was changed" in answer.err) == (5, True), (
        answer.err
    )
    assert farm.queue.studies.imported("losses") == farm.store.studies.imported("losses")


def test_the_start_of_several_ids_shows_none(farm: Farm) -> None:
    imported(farm)
    answer = farm("show", "imported-")
    assert (answer.code, "imported runs begin with 'imported-'" in answer.err, answer.out) == (6, True, "")


def test_a_storage_that_is_not_seen_from_here_is_refused(farm: Farm) -> None:
    path = farm.folder / "losses.csv"
    path.write_text(LOSSES, encoding="utf-8")
    farm.environment["FARM_STORAGE"] = str(farm.folder / "elsewhere")
    answer = farm("import", str(path))
    assert (answer.code, farm.queue.studies.imported("losses").runs) == (5, ())
    assert "cannot be reached from this machine" in answer.err


def test_the_noise_of_an_imported_baseline_plans_a_study(farm: Farm) -> None:
    imported(farm, LOSSES, "--study", "earlier")
    rows = json.loads(farm("plan", farm.file(), "--noise", "earlier", "--json").out)["data"]
    assert rows[1]["noise"] == pytest.approx(0.03 / 2**0.5)
    assert farm("effects", "earlier").code == 3


def test_imported_losses_that_cannot_be_read_are_named_and_passed_over(farm: Farm) -> None:
    imported(farm)
    farm.queue.redis.hset("farm:imported", "losses", "{")
    assert farm("table", "losses").code == 1
    assert farm.queue.studies.all_imported() == {}
    (flaw,) = find_flaws(farm.queue.scripts)
    assert "imported into 'losses'" in str(flaw)
    assert farm("reindex").code == 0
    assert len(farm.queue.studies.imported("losses").runs) == 4


# The published series


def test_the_published_case_reads_as_its_author_should_have_read_it(farm: Farm) -> None:
    """Seven baselines, eight single interventions once each, three of which stand out."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    assert farm("import", str(PUBLISHED), "--study", "published").code == 0
    rows = {(row["arm"], row["machine"]): row for row in table(farm, "published")}
    baseline = rows["baseline", "8xa100m40"]
    assert (baseline["n"], round(baseline["test_loss_mean"], 6), round(baseline["test_loss_sd"], 6)) == (
        7,
        3.674103,
        0.012339,
    )
    assert round(baseline["one_run_resolves"], 4) == 0.0323
    words = {key: row["verdict"] for key, row in rows.items()}
    single = ("weight-tying", "weight-decay-cerebras", "gradient-clipping", "qkv-bias", "weight-decay-gpt2")
    single += ("remove-dropout", "schedule-learning-rate")
    assert {arm: words[arm, "8xa100m40"] for arm in single if words[arm, "8xa100m40"] != "unresolved"} == {
        "weight-tying": "worse",
        "weight-decay-cerebras": "worse",
        "schedule-learning-rate": "better",
    }, "three of the eight; the eighth, no-amp, was trained where there is no baseline"
    assert {words[f"stacked-{k}", "8xa100m40"] for k in (1, 2, 3)} == {"better"}
    assert len({rows[f"stacked-{k}", "8xa100m40"]["rank"] for k in (1, 2, 3)}) == 1, "which of them is best is noise"
    lone = rows["no-amp", "8xa100m80"]
    assert (lone["verdict"], lone["delta"], lone["p"]) == (None, None, None)
    assert words["stacked", "1xrtx3090"] == "unresolved", "one run against one run tells no noise"
    remarks = farm("table", "published").err
    assert "no baseline on 8xa100m80: nothing to compare no-amp on 8xa100m80 with" in remarks
    assert "SD 0.0123 over 7 runs; one more of its runs lies within 0.0323 of its mean in 95 of 100 cases" in remarks


def test_the_published_seeds_tell_the_noise_of_the_first_weights(farm: Farm) -> None:
    """0.008529, of which the series published the root of an undivided sum, 0.012062."""
    assert farm("import", str(PUBLISHED), "--study", "published").code == 0
    answer = farm("noise", "published")
    rungs = {row["rung"]: row for row in answer.rows}
    assert float(rungs["init seed"]["sd"]) == pytest.approx(0.008529, abs=1e-6)
    assert "16 of 20 losses lack a seed" in answer.err
    assert isinstance(Store(farm.store.root).studies.imported("published").runs[0].source, str)


@pytest.mark.parametrize("command", ["watch", "cancel", "retry", "eval", "effects", "resolve", "seeds"])
def test_a_command_on_runs_says_that_these_are_imported(farm: Farm, command: str) -> None:
    imported(farm)
    more = {"resolve": ("losses", "--usd", "5"), "seeds": ("add", "losses", "remove-dropout", "--to", "3")}
    answer = farm(command, *more.get(command, ("losses",)))
    assert answer.code == 3
    assert "study 'losses' has imported losses only" in answer.err
    assert "farm table losses" in answer.err


def test_a_command_on_a_run_says_that_this_one_is_imported(farm: Farm) -> None:
    imported(farm)
    run_id = table(farm, "losses")[0]["runs"][0]
    for words in (("compare", run_id, run_id), ("logs", run_id), ("export", run_id, "out"), ("cancel", run_id)):
        answer = farm(*words)
        assert (answer.code, f"{run_id} is an imported loss" in answer.err) == (3, True), words
        assert f"farm show {run_id}" in answer.err
