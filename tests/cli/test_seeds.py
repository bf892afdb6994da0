"""`farm seeds add` and `farm resolve`: what is queued, what is said, and what is refused."""

import json

import pytest
from results import study_text
from waiting import wait_until

from farm.errors import Changed
from farm.study.recipe import Seeds
from farm.study.run import State
from farm.study.seeding import widen

from .conftest import Farm


def test_seeds_add_queues_only_what_is_missing_and_nothing_twice(farm: Farm) -> None:
    farm.put(init=(42, 22))
    farm.finish_all()
    answer = farm("seeds", "add", "remove-dropout", "--to", "4")
    assert answer.code == 0
    assert [(row["arm"], row["seeds"], row["why"]) for row in answer.rows] == [
        ("remove-dropout", "43.23", "new pair"),
        ("remove-dropout", "44.23", "new pair"),
        ("baseline", "43.23", "new pair"),
        ("baseline", "44.23", "new pair"),
    ]
    assert farm.queue.listing.counts()[State.QUEUED] == 4
    assert "remove-dropout = [[43, 23], [44, 23]]" in answer.err
    again = farm("seeds", "add", "tiny", "remove-dropout", "--to", "4")
    assert (again.code, again.rows) == (0, [])
    assert "remove-dropout has 4 seed pairs already" in again.err
    other = farm("seeds", "add", "tiny", "gradient-clipping", "--to", "3", "--json")
    assert json.loads(other.out)["data"] == [{"arm": "gradient-clipping", "seeds": "43.23", "why": "baseline has it"}]
    assert farm.queue.listing.counts()[State.QUEUED] == 5


def test_a_dry_run_of_seeds_queues_nothing(farm: Farm) -> None:
    farm.put()
    answer = farm("seeds", "add", "tiny", "remove-dropout", "--to", "4", "--dry-run")
    assert (answer.code, len(answer.rows), farm.queue.listing.put_count()) == (0, 2, 9)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["remove-dropuot", "--to", "4"], 3, "no arm 'remove-dropuot'"),
        (["nope", "baseline", "--to", "4"], 3, "no study 'nope'"),
        (["tiny", "baseline", "more", "--to", "4"], 2, "name a study and one of its arms"),
        (["baseline", "--to", "0"], 2, "--to"),
        (["baseline", "--to", "many"], 2, "--to"),
        (["baseline"], 2, "--to"),
    ],
)
def test_seeds_refuses_by_name(farm: Farm, words: list[str], code: int, says: str) -> None:
    farm.put()
    answer = farm("seeds", "add", *words)
    assert (answer.code, says in answer.err) == (code, True), answer.err


def test_without_any_study_there_is_nothing_to_give_seeds_to(farm: Farm) -> None:
    answer = farm("seeds", "add", "baseline", "--to", "4")
    assert (answer.code, "no study yet" in answer.err) == (3, True)


def test_more_seeds_than_the_limit_allows_need_a_yes(farm: Farm) -> None:
    path = farm.folder / "poor.toml"
    path.write_text(
        study_text(init=(42,))
        + "[policy]\nusd_limit = 0.01\n[machines.cpu]\nusd_per_hour = 100.0\ntokens_per_second = 9.0\n"
    )
    assert farm("submit", str(path), "-y").code == 0
    words = ("seeds", "add", "tiny", "remove-dropout", "--to", "40")
    assert (farm(*words).code, farm.queue.listing.put_count()) == (7, 3)
    assert farm(*words, "-y").code == 0
    again = farm(*words)
    assert (again.code, "has 40 seed pairs already" in again.err) == (0, True), "nothing to add costs nothing"


def test_seeds_that_no_machine_can_train_are_refused_before_anything_is_queued(farm: Farm) -> None:
    farm.put(machines=("nowhere",))
    answer = farm("seeds", "add", "tiny", "remove-dropout", "--to", "4")
    assert (answer.code, "'nowhere'" in answer.err, farm.queue.listing.put_count()) == (2, True, 9), answer.err


def test_what_was_added_stays_with_the_study_when_its_file_is_submitted_again(farm: Farm) -> None:
    farm.put()
    farm("seeds", "add", "tiny", "remove-dropout", "--to", "5")
    answer = farm("submit", farm.file())
    assert "of 13 runs 13 already queued or running, 0 queued" in answer.err
    assert len(farm.queue.studies.one("tiny").more_seeds["remove-dropout"]) == 2


def test_resolve_looks_and_adds_and_is_called_again(farm: Farm) -> None:
    farm.put()
    early = farm("resolve", "tiny", "--runs", "12", "--no-wait")
    assert (early.code, "9 runs are not done" in early.err) == (1, True)
    farm.finish_all()
    done = farm("resolve", "tiny", "--runs", "12", "--no-wait", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [(row["look"], row["arm"], row["word"]) for row in told["data"]] == [
        (1, "remove-dropout", "better"),
        (1, "gradient-clipping", "worse"),
    ]
    assert told["looks"][0]["decision"] == "resolved"
    assert "look 1: resolved: all 2 comparisons are resolved" in done.err
    table = json.loads(farm("table", "tiny", "--json").out)["data"]
    assert {row["method"] for row in table if row["arm"] != "baseline"} == {"sequential"}
    assert "hold over all looks" in farm("table", "tiny").err


def test_resolve_waits_for_what_it_added_and_ends_when_the_budget_is_spent(farm: Farm) -> None:
    farm.put()
    for claim in [farm.claim() for _ in range(9)]:
        farm.finish(claim, 3.7 + (len(claim.run.arm) * claim.run.seeds.init % 17) / 1000)
    with farm.start("resolve", "tiny", "--runs", "6") as process:
        for _ in range(2):
            wait_until(
                lambda: farm.queue.listing.backlog().get("cpu") or process.poll() is not None,
                "more runs are queued",
                90,
            )
            for _ in range(farm.queue.listing.backlog().get("cpu", 0)):
                claim = farm.claim()
                farm.finish(claim, 3.7 + (len(claim.run.arm) * claim.run.seeds.init % 17) / 1000)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    looks = farm.queue.studies.one("tiny").looks
    assert looks is not None
    assert 0 < looks.runs <= 6
    assert looks.looks[-1].decision == "spent"
    assert out.splitlines()[0].startswith("look\tarm\t")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "resolve needs a budget"),
        (["--usd", "nan"], "--usd = nan is not a budget"),
        (["--usd", "-5"], "--usd = -5 is not a budget"),
        (["--hours", "0"], "--hours = 0 is not a budget"),
        (["--runs", "-1"], "--runs = -1 is not a budget"),
        (["--usd", "fifty"], "Invalid value for '--usd'"),
    ],
)
def test_a_budget_that_is_none_is_refused_by_name(farm: Farm, words: list[str], says: str) -> None:
    farm.put()
    answer = farm("resolve", "tiny", *words)
    assert (answer.code, says in answer.err) == (2, True), answer.err
    assert farm("resolve", "nope", "--usd", "5").code == 3


def test_resolve_says_which_classes_a_budget_does_not_see(farm: Farm) -> None:
    path = farm.folder / "blind.toml"
    path.write_text(study_text(machines=("attic",)) + "[machines.attic]\n")
    assert farm("submit", str(path)).code == 0
    assert "attic: no usd_per_hour is declared" in farm("resolve", "tiny", "--usd", "5", "--no-wait").err


def test_a_look_is_not_kept_over_what_another_command_changed(farm: Farm) -> None:
    study = farm.put(init=(42, 22))
    before = farm.queue.studies.edition("tiny")
    assert farm("seeds", "add", "tiny", "remove-dropout", "--to", "3").code == 0
    with pytest.raises(Changed, match="was changed by another command meanwhile: nothing was queued"):
        farm.queue.put(widen(study, {"gradient-clipping": (Seeds(init=7),)}), since=before)
    assert farm.queue.studies.one("tiny").more_seeds.keys() == {"baseline", "remove-dropout"}
    kept = farm.queue.studies.one("tiny")
    assert not farm.queue.put(kept, since=before).new, "the same form once more is no change"
    farm.queue.put(kept.model_copy(update={"more_seeds": {}}), since=farm.queue.studies.edition("tiny"))
    assert farm.queue.studies.edition("nothing") == ""


def test_what_is_typed_wrong_is_told_in_plain_words(farm: Farm) -> None:
    answer = farm("seeds", "give", "baseline", "--to", "4")
    assert answer.err == "error: Invalid value for 'add': 'give' is not one of 'add'. Try 'farm seeds --help'.\n"
    answer = farm("seeds", "add", "baseline", "--to", "four")
    assert answer.err == "error: Invalid value for '--to': must be a valid integer. Try 'farm seeds --help'.\n"
