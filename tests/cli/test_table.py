"""`farm table`: the forms it takes, and what stands below the rows."""

import csv
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from results import reference, result, score, study_text

from farm.record.imported import Imported, ImportedRun
from farm.record.reference import References
from farm.stats import mean
from farm.study.looks import Looks
from farm.study.machine import Price
from farm.study.run import Evaluating
from farm.study.study import Study
from farm.verdict import memory
from farm.verdict import ranking as farm_ranking

from .conftest import ROOT, Answer, Farm


def test_an_empty_store_is_no_error_and_says_what_to_do(farm: Farm) -> None:
    answer = farm("table")
    assert (answer.code, answer.rows) == (0, [])
    assert answer.out.startswith("rank\tarm\t")
    assert "farm submit" in answer.err
    assert json.loads(farm("table", "--json").out)["data"] == []


def test_json_has_the_schema_and_every_field(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    told = json.loads(farm("table", "tiny", "--json").out)
    assert told["schema"] == "farm.table/1"
    wanted = {"arm", "machine", "n", "test_loss_mean", "test_loss_sd", "delta", "verdict", "tokens_per_second"}
    wanted |= {"hours", "init_hash", "runs", "ci_low", "ci_high", "p", "method", "margin", "needs_seeds", "needs_usd"}
    for row in told["data"]:
        assert row.keys() >= wanted
        assert (row["n"], len(row["runs"])) == (3, 3)
    assert [row["verdict"] for row in told["data"]] == ["better", None, "worse"]
    assert [row["arm"] for row in told["data"]] == ["remove-dropout", "baseline", "gradient-clipping"]
    assert told["data"][0]["delta"] == pytest.approx(-0.05)
    assert farm("table", "tiny", "--format", "json").out == farm("table", "tiny", "--json").out


def test_a_table_says_whose_prices_its_dollars_are(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    price = Price(usd_per_hour=2.0, source="farm.toml", date="2026-11-20")
    farm.queue.finish(claim.lease, result(claim.run, 3.5, usd=0.02, prices=(price,)))
    answer = farm("table", "tiny")
    assert "$ of cpu: $2.00/h by farm.toml of 2026-11-20" in answer.err
    (row,) = json.loads(farm("table", "tiny", "--json").out)["data"]
    assert row["prices"] == [price.model_dump()]


def test_no_argument_takes_the_newest_study_and_says_which(farm: Farm) -> None:
    farm.put(name="older")
    farm.put(name="newer", init=(1,))
    answer = farm("table")
    assert "study newer (others: older)" in answer.err
    assert "newer: no run has finished yet" in answer.err


def test_what_has_no_result_is_listed_with_its_cause(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.69)
    farm.fail(farm.claim(), "does-not-fit", "it needs\n7.4 GiB")
    answer = farm("table", "tiny")
    assert [row["arm"] for row in answer.rows] == ["baseline"]
    assert "at step 5/10: does-not-fit: it needs 7.4 GiB" in answer.err
    assert "queued: 1 of gradient-clipping on cpu" in answer.err
    unfinished = json.loads(farm("table", "tiny", "--json").out)["unfinished"]
    assert [run["state"] for run in unfinished] == ["failed", "queued"]


def test_a_study_of_which_every_run_failed_has_none_to_wait_for(farm: Farm) -> None:
    farm.put(init=(42,))
    for _ in range(3):
        farm.fail(farm.claim())
    for command in ("table", "noise"):
        assert "tiny: no run has succeeded" in farm(command, "tiny").err


def test_markdown_and_latex_carry_the_remarks_and_escape_what_others_wrote(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.69)
    farm.fail(farm.claim(), "worker-died", "a|b *c* \x1b[31mred\x1b[0m & 50%")
    markdown = farm("table", "tiny", "--format", "md").out
    assert markdown.startswith("| # | arm | machine | n | test loss |")
    assert "| 1 | baseline | cpu | 1 | 3.6900 | - |" in markdown
    assert r"- failed: cpu-remove-dropout" in markdown
    assert r"a\|b \*c\* red & 50%" in markdown
    latex = farm("table", "tiny", "--format", "latex").out
    assert latex.startswith("\\begin{tabular}")
    assert "\\#" in latex
    assert "% failed: cpu-remove-dropout" in latex


def test_csv_is_read_back_as_it_was_with_full_precision(farm: Farm) -> None:
    farm.put(init=(42, 22))
    farm.finish_all()
    rows = list(csv.DictReader(io.StringIO(farm("table", "tiny", "--format", "csv").out)))
    told = json.loads(farm("table", "tiny", "--json").out)["data"]
    assert [float(row["test_loss_mean"]) for row in rows] == [row["test_loss_mean"] for row in told]
    assert float(rows[0]["delta"]) == told[0]["delta"] < 0, "a negative number is not taken for a formula"


def test_hardware_twins_have_a_line_of_their_own(farm: Farm) -> None:
    farm.put(machines=("cpu-x1", "cpu-x2"), init=(42,))
    farm.finish_all("cpu-x1")
    farm.finish_all("cpu-x2", shift=4e-6)
    answer = farm("table", "tiny")
    assert "hardware twins: cpu-x1 and cpu-x2, 3 pairs of runs: agree to 1e-5 (max |Δ| 4e-06)" in answer.err
    (twins,) = json.loads(farm("table", "tiny", "--json").out)["twins"]
    assert twins["max_difference"] == pytest.approx(4e-6)
    assert len(twins["pairs"]) == 3
    assert "remove-dropout s42.23" not in answer.err
    assert "  remove-dropout s42.23: cpu-x2 - cpu-x1 = +4e-06" in farm("table", "tiny", "-v").err


def test_the_hardware_stands_below_what_failed(farm: Farm) -> None:
    farm.put(machines=("cpu-x1", "cpu-x2"), init=(42,))
    farm.fail(farm.claim("cpu-x1"))
    farm.finish_all("cpu-x1")
    farm.finish_all("cpu-x2")
    said = farm("table", "tiny").err
    assert said.index("failed: ") < said.index("hardware twins: ")


def test_tsv_is_rounded_to_what_is_meant(farm: Farm) -> None:
    farm.put(init=(42, 22))
    farm.finish_all(shift=1 / 3)
    for row in farm("table", "tiny").rows:
        assert all(len(row[key].partition(".")[2]) <= 6 for key in ("test_loss_sd", "delta", "ci_low"))
        assert len(row["p"].lstrip("0.").partition("e")[0].replace(".", "")) <= 4
        assert row["tokens_per_second"] == "1000"
        assert bool(row["ci_low"]) == bool(row["p"]) == bool(row["method"]) == (row["arm"] != "baseline")


def test_fewer_seeds_than_asked_are_said(farm: Farm) -> None:
    farm.put(init=(42, 22))
    farm.fail(farm.claim())
    farm.finish_all()
    rows = {row["arm"]: row for row in farm("table", "tiny").rows}
    assert (rows["baseline"]["n"], rows["baseline"]["asked"]) == ("1", "2")
    assert (rows["remove-dropout"]["n"], rows["remove-dropout"]["pairs"]) == ("2", "1")
    shown = farm("table", "tiny", "--format", "md").out
    assert "| baseline | cpu | 1 of 2 |" in shown
    assert "+0.0000" not in shown
    assert "-0.0000" not in shown


def test_rows_that_saw_other_tokens_are_named_with_the_reason(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.69)
    claim = farm.claim()
    prints = result(claim.run, 2.9).fingerprints
    tokens = prints.tokens.model_copy(update={"tested": "9" * 64})
    strange = result(claim.run, 2.9, fingerprints=prints.model_copy(update={"tokens": tokens}))
    farm.queue.finish(claim.lease, strange)
    answer = farm("table", "tiny")
    assert [(row["arm"], row["rank"]) for row in answer.rows] == [("baseline", "1"), ("remove-dropout", "")]
    assert (
        "not ranked: remove-dropout on cpu: the validation split of builtin:python-reference held other" in answer.err
    )
    assert "999999999999 (1970-01-01), not eeeeeeeeeeee (1970-01-01)" in answer.err
    compared = farm("compare", "cpu-baseline", "cpu-remove").err
    assert "the test losses cannot be compared: the validation split of" in compared


def put_noisy(farm: Farm, init: tuple[int, ...], name: str = "tiny") -> None:
    """Finish a study whose arms differ by -0.05 and 0.004, with a noise of about 0.01."""
    farm.put(name=name, init=init)
    shift = {"baseline": 0.0, "remove-dropout": -0.05, "gradient-clipping": 0.004}
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        run = claim.run
        noise = (run.seeds.init * len(run.arm) * 7919 % 21 - 10) / 1000
        farm.finish(claim, 3.69 + shift[run.arm] + noise)


def test_people_read_the_interval_the_verdict_the_method_and_what_is_missing(farm: Farm) -> None:
    put_noisy(farm, (1, 2, 3, 4, 5))
    shown = farm("table", "tiny", "--format", "md").out
    rows = json.loads(farm("table", "tiny", "--json").out)["data"]
    arm = next(row for row in rows if row["arm"] == "remove-dropout")
    half = arm["ci_high"] - arm["delta"]
    assert arm["verdict"] == "better"
    assert f"| {arm['delta']:+.4f} ± {half:.4f} | better |" in shown
    assert "- ± is the half-width of a 95 % interval, for all 2 comparisons at once" in shown
    assert "- method: paired differences" in shown
    other = next(row for row in rows if row["arm"] == "gradient-clipping")
    assert (other["verdict"], other["margin"]) == ("unresolved", None)
    assert f"gradient-clipping on cpu: {other['needs_seeds']:,} more seed pairs would show" in shown
    assert f"{other['needs_runs']:,} runs" in shown


def test_a_margin_in_the_study_makes_arms_the_same(farm: Farm) -> None:
    text = study_text(init=(1, 2, 3)).replace('name = "tiny"', 'name = "tiny"\nmargin = 0.2')
    farm.queue.put(Study.parse(text))
    shift = {"baseline": 0.0, "remove-dropout": -0.01, "gradient-clipping": 0.01}
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        farm.finish(claim, 3.69 + shift[claim.run.arm] + claim.run.seeds.init * len(claim.run.arm) / 1e4)
    rows = json.loads(farm("table", "tiny", "--json").out)["data"]
    assert {(row["rank"], row["verdict"], row["margin"]) for row in rows if row["arm"] != "baseline"} == {
        (1, "same", 0.2)
    }


@pytest.mark.parametrize("margin", ["-0.1", "0.0", "nan", "inf", '"small"'])
def test_a_margin_that_is_none_is_refused_by_name(farm: Farm, margin: str) -> None:
    text = study_text().replace('name = "tiny"', f'name = "tiny"\nmargin = {margin}')
    answer = farm("plan", "-", reads=text)
    assert (answer.code, "study.margin" in answer.err) == (2, True)


def test_a_single_run_says_what_one_run_resolves(farm: Farm) -> None:
    farm.put(init=(1, 2, 3))
    claims = [farm.claim() for _ in range(9)]
    for claim in claims:
        if claim.run.arm == "baseline" or claim.run.seeds.init == 1:
            farm.finish(claim, 3.69 + claim.run.seeds.init / 100)
    said = farm("table", "tiny").err
    assert "method: one run against a set of runs: a prediction interval" in said
    assert "baseline on cpu: SD 0.0100 over 3 runs; one more of its runs lies within 0.0497 of its mean" in said


EVALUATIONS = """
[evaluations.wiki]
offset = 8
"""
WIKI = {"baseline": 5.0, "remove-dropout": 5.5, "gradient-clipping": 4.5}


def scored(
    farm: Farm, text: str = study_text(init=(42, 22)) + EVALUATIONS, spread: float = 1e-5, **changes: Any
) -> None:
    """A study whose runs have finished, each with a score by `wiki` that ranks the arms the other way, and where an
    init seed moves it by `spread` for each whole number; the test loss by 1e-5.
    """
    study = Study.parse(text)
    farm.queue.put(study)
    while claim := farm.queue.claim("cpu", "worker", 60):
        run = claim.run
        found = result(run, LOSSES[run.arm] + run.seeds.init / 1e5)
        own = run.recipe.with_test(study.evaluations["wiki"])
        values = [WIKI[run.arm] + run.seeds.init * spread + i for i in (-1, 0, 1)]
        made = {"evaluation": own.evaluation_id("wiki"), "definition": own.tested} | changes
        own_scores = [score(found, [found.test_loss]), score(found, values, "wiki", **made)]
        farm.queue.finish(claim.lease, found, own_scores)


LOSSES = {"baseline": 3.0, "remove-dropout": 2.5, "gradient-clipping": 3.5}


def test_the_table_ranks_by_the_studys_score_and_by_any_other_that_is_asked_for(farm: Farm) -> None:
    scored(farm, study_text(init=(42, 22)).replace("[study]", '[study]\nscore = "wiki"', 1) + EVALUATIONS)
    by_wiki, by_loss = farm("table", "tiny"), farm("table", "tiny", "--score", "test_loss")
    assert [row["arm"] for row in by_wiki.rows] == ["gradient-clipping", "baseline", "remove-dropout"]
    assert [row["arm"] for row in by_loss.rows] == ["remove-dropout", "baseline", "gradient-clipping"]
    assert (by_wiki.rows[0]["score"], by_wiki.rows[0]["mean"]) == ("wiki", "4.50032")
    assert by_wiki.rows[0]["test_loss_mean"] == by_loss.rows[2]["test_loss_mean"] == "3.50032"
    (row, *_) = json.loads(farm("table", "tiny", "--json").out)["data"]
    assert (row["score"], row["direction"], row["scores"]["wiki"]["n"]) == ("wiki", "lower", 2)
    assert row["scores"]["test_loss"]["mean"] == row["test_loss_mean"]
    refused = farm("table", "tiny", "--score", "wikki")
    assert (refused.code, "no evaluation 'wikki'; did you mean 'wiki'?" in refused.err) == (3, True)


@pytest.mark.parametrize("command", ["noise", "effects"])
def test_what_else_is_concluded_is_of_the_studys_score_too(farm: Farm, command: str) -> None:
    scored(farm, study_text(init=(42, 22)).replace("[study]", '[study]\nscore = "wiki"', 1) + EVALUATIONS)
    rows = json.loads(farm(command, "tiny", "--json").out)["data"]
    assert rows
    assert all(row["evaluation"].startswith("wiki@") for row in rows)
    assert "by wiki, in nats per token: lower is better" in farm(command, "tiny").err


def test_runs_that_the_studys_score_lacks_are_named_where_it_concludes_from_the_others(farm: Farm) -> None:
    text = study_text(init=(42, 22)).replace("[study]", '[study]\nscore = "wiki"', 1) + EVALUATIONS
    scored(farm, text)
    study = Study.parse(text.replace("init = [42, 22]", "init = [42, 22, 67]"))
    farm.queue.put(study)
    farm.finish_all()
    for command in ("noise", "effects"):
        said = farm(command, "tiny").err
        assert "3 runs without a score by wiki left out; to score them: farm eval tiny wiki" in said


def by_wiki(farm: Farm) -> str:
    """A study that is ranked by wiki, and the other way round by its test loss."""
    text = study_text(init=(42, 22)).replace("[study]", '[study]\nscore = "wiki"', 1) + EVALUATIONS
    scored(farm, text, spread=1e-4)
    return text


def test_the_plans_noise_is_that_of_the_studys_score(farm: Farm) -> None:
    text, file = by_wiki(farm), farm.folder / "by_wiki.toml"
    file.write_text(text.replace("init = [42, 22]", "init = [42, 22, 67]"), encoding="utf-8")

    def noise(*more: str) -> set[float | None]:
        answer = farm("plan", str(file), "--json", *more)
        assert answer.code == 0, answer.err
        return {row["noise"] and round(row["noise"], 12) for row in json.loads(answer.out)["data"]}

    expected = statistics.stdev([mean([5.0 + seed * 1e-4 + i for i in (-1, 0, 1)]) for seed in (42, 22)])
    assert noise() == noise("--noise", "tiny") == {round(expected, 12)}
    file.write_text(file.read_text(encoding="utf-8").replace("offset = 8", "offset = 16"), encoding="utf-8")
    assert noise() == {None}, "no run has a score by the evaluation of today"
    assert (
        "effects in wiki: unknown until two seeds of the baseline have a score by wiki" in farm("plan", str(file)).err
    )


def test_the_noise_of_a_study_without_the_score_is_refused(farm: Farm) -> None:
    scored(farm)
    file = farm.folder / "by_web.toml"
    text = study_text("other").replace("[study]", '[study]\nscore = "web"', 1)
    file.write_text(text + "[evaluations.web]\noffset = 16\n", encoding="utf-8")
    answer = farm("plan", str(file), "--noise", "tiny")
    assert (answer.code, "it has no score by web, and the planned study ranks by web" in answer.err) == (
        2,
        True,
    )
    assert "--sd" in answer.err


def test_two_runs_are_compared_by_the_studys_score_too(farm: Farm) -> None:
    by_wiki(farm)
    runs = Study.parse(study_text(init=(42, 22))).runs()
    ids = [run.id for run in runs[:2]]
    rows = {row["what"]: row for row in farm("compare", *ids).rows}
    row = rows["wiki, nats per token, lower is better"]
    assert (row["first"], row["second"], float(row["difference"])) == ("5.0042", "5.5042", pytest.approx(0.5))
    assert rows["test loss"]["difference"].startswith("-0.5")
    data = json.loads(farm("compare", *ids, "--json").out)["data"]
    assert (data["ranked_by"], [one["evaluation"] for one in data["scores"]]) == (["wiki"], ["wiki"])


def test_a_compared_run_without_the_studys_score_says_how_to_have_it(farm: Farm) -> None:
    farm.queue.put(Study.parse(study_text(init=(42,)).replace("[study]", '[study]\nscore = "wiki"', 1) + EVALUATIONS))
    farm.finish_all()
    first, second = (run.id for run in Study.parse(study_text(init=(42,))).runs()[:2])
    said = farm("compare", first, second).err
    assert f"no score by wiki, which their study ranks by: {first}, {second}" in said
    assert "farm eval RUN wiki" in said


def test_other_scores_are_columns(farm: Farm) -> None:
    scored(farm)
    assert farm("table", "tiny", "--scores", "all").rows[0]["score:wiki"].startswith("5.5003")
    assert farm("table", "tiny", "--scores", "wiki").rows[0]["score:wiki"].startswith("5.5003")
    shown = farm("table", "tiny", "--scores", "all", "--format", "md").out
    assert "| verdict | wiki |" in shown
    assert "| 5.5003 |" in shown


def test_a_score_that_is_out_of_date_is_set_off_and_says_why_and_how_to_mend_it(farm: Farm) -> None:
    text = study_text(init=(42, 22)) + EVALUATIONS
    scored(farm, text)
    farm.queue.put(Study.parse(text.replace("offset = 8", "offset = 9")))
    answer = farm("table", "tiny", "--scores", "all", "--format", "md")
    assert "| (5.5003) |" in answer.out
    assert "out of date: wiki of" in answer.out
    assert "offset was 8, is 9 now" in answer.out
    assert "farm eval tiny --stale" in answer.out
    ranked = farm("table", "tiny", "--score", "wiki")
    assert {row["stale"] for row in ranked.rows} == {"offset was 8, is 9 now"}


def test_runs_that_an_evaluation_has_not_scored_are_named(farm: Farm) -> None:
    scored(farm)
    farm.queue.put(Study.parse(study_text(init=(42, 22)) + EVALUATIONS + "[evaluations.web]\noffset = 16"))
    answer = farm("table", "tiny", "--score", "web")
    assert "no run has a score by web yet" in answer.err
    assert "no score by web: 2 of baseline on cpu" in answer.err
    assert "farm eval tiny web" in answer.err


def test_show_lists_the_scores_of_a_run(farm: Farm) -> None:
    scored(farm)
    run_id = Study.parse(study_text(init=(42, 22))).runs()[0].id
    said = farm("show", run_id).out
    assert "5.000420 ± 0.5774 nats per token (wiki@" in said
    told = json.loads(farm("show", run_id, "--json").out)["data"]["scores"]
    assert [one["name"] for one in told] == ["test_loss", "wiki"]


def test_the_larger_error_is_named_where_it_is_the_test_sets(farm: Farm) -> None:
    farm.put(init=(42, 22, 67))
    while claim := farm.queue.claim("cpu", "worker", 60):
        run = claim.run
        found = result(run, LOSSES[run.arm] + run.seeds.init / 1e5)
        values = [found.test_loss + (run.arm == "remove-dropout") * (-1) ** i for i in range(8)]
        farm.queue.finish(claim.lease, found, [score(found, values, value=found.test_loss)])
    answer = farm("table", "tiny")
    assert "test set: of remove-dropout on cpu, the difference is uncertain by 0.3780" in answer.err
    assert "test set: of gradient-clipping" not in answer.err
    rows = {row["arm"]: row for row in json.loads(farm("table", "tiny", "--json").out)["data"]}
    assert rows["remove-dropout"]["test_set_error"] > rows["remove-dropout"]["seed_error"]
    assert rows["gradient-clipping"]["test_set_error"] == pytest.approx(0.0, abs=1e-12)


FORMS = ([], ["--json"], ["--format", "md"], ["--format", "csv"], ["--format", "latex"], ["-v"], ["--scores", "all"])


@pytest.fixture
def kept(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what is remembered, also where a checkout is young."""
    monkeypatch.setattr(memory, "SETTLED_SECONDS", -1e9)
    return farm.folder / "home" / "cache" / "verdicts"


def told(farm: Farm, kept: Path, forms: Sequence[list[str]]) -> list[Answer]:
    """A table in these forms from memory, which is that without one."""

    def ask() -> list[Answer]:
        return [farm("table", "tiny", *form) for form in forms]

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("it was ranked again")

    first, there = ask(), {file: file.read_bytes() for file in kept.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(farm_ranking, "ranking_of", refuse)
        again = ask()
    assert {file: file.read_bytes() for file in kept.iterdir()} == there
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SETTLED_SECONDS", 1e12)  # as if every source had just changed: nothing is remembered
        computed = ask()
    assert again == first == computed
    return computed


def test_a_table_from_memory_is_the_computed_one_whatever_has_changed(farm: Farm, kept: Path) -> None:
    farm.put(machines=("cpu", "cpu-x2"))
    farm.finish_all()
    seen = [told(farm, kept, FORMS)]
    farm.finish(farm.claim("cpu-x2"), 3.61)
    seen.append(told(farm, kept, FORMS))
    farm.queue.cancel(farm.claim("cpu-x2").run.id)
    seen.append(told(farm, kept, FORMS))
    farm.finish_all("cpu-x2", shift=0.01)
    seen.append(told(farm, kept, FORMS))
    study = farm.queue.studies.one("tiny")
    farm.queue.put(study.model_copy(update={"study": study.study.model_copy(update={"margin": 0.2})}))
    seen.append(told(farm, kept, FORMS))
    for one, other in itertools.pairwise(seen):
        assert all(before != after for before, after in zip(one, other, strict=True))


def changes(farm: Farm) -> Iterator[str]:
    """What may happen to a study, and what of it; its table by wiki tells of all, or that of the test loss."""
    queue, text = farm.queue, study_text(init=(42, 22), machines=("cpu", "cpu-x2")) + EVALUATIONS
    scored(farm, text)
    yield "scores by another evaluation"
    claim = farm.claim("cpu-x2")
    yield "a run that trains"
    queue.renew(claim.lease, 2)
    yield "a step of it"
    found = result(claim.run, 2.9, epoch=claim.lease.epoch)
    queue.finish(claim.lease, found)
    yield "a result without a score"
    own = claim.run.recipe.with_test(queue.studies.one("tiny").evaluations["wiki"])
    by = {"evaluation": own.evaluation_id("wiki"), "definition": own.tested}
    queue.index.keep_scores(found.run_id, [score(found, [5.2, 5.4], "wiki", **by)])
    yield "its score"
    fields = {field: getattr(claim.run, field) for field in type(claim.run).model_fields} | {"recipe": own}
    job = Evaluating(**fields, of=found.run_id, evaluation="wiki", weights=found.fingerprints.final)
    queue.evaluations.put("tiny", [job])
    yield "an evaluation that was asked for"
    queue.put(Study.parse(text.replace("offset = 8", "offset = 9")))
    yield "another form of the evaluation"
    study = queue.studies.one("tiny")
    seeds = tuple(dict.fromkeys(run.seeds for run in study.runs()))
    looks = Looks(first={"remove-dropout@cpu": 2, "gradient-clipping@cpu": 2}, order=seeds, usd=0.0, hours=0.0)
    queue.put(study.model_copy(update={"looks": looks}))
    yield "looks of farm resolve"
    losses = {"baseline": (3.5, 3.52, 3.49), "a": (3.4, 3.38, 3.41)}
    lines = [
        ImportedRun(arm=arm, machine="there", init_seed=seed, train_seed=1, test_loss=loss, source="a:1")
        for arm, of in losses.items()
        for seed, loss in enumerate(of)
    ]
    queue.studies.bring(Imported(study="tiny", runs=tuple(lines)))
    yield "imported losses"
    queue.studies.refer(References(study="tiny", models=(reference(claim.run, "other", 2.0),)))
    yield "a reference"
    queue.redis.hset(f"{queue.prefix}scores:{found.run_id}", own.evaluation_id("wiki"), "{")
    yield "a score that cannot be read"
    queue.redis.set(f"{queue.prefix}result:{found.run_id}", "{")
    yield "a run that cannot be read"


def test_a_table_is_ranked_again_for_whatever_it_follows_from_and_for_nothing_else(farm: Farm, kept: Path) -> None:
    forms = (["--format", "md", "--scores", "all"], ["--score", "wiki", "--json"])
    seen = {what: told(farm, kept, forms) for what in changes(farm)}
    for (_, before), (what, after) in itertools.pairwise(seen.items()):
        assert before != after, what
    assert [answer.code for answer in seen["a reference"]] == [0, 0]
    assert [answer.code for answer in seen["a run that cannot be read"]] == [1, 1]
    farm.queue.redis.hset(f"{farm.queue.prefix}references", "tiny", "{")
    for _ in range(2):  # a refusal is not remembered, and no memory hides one
        assert "a reference model of 'tiny': " in farm("table", "tiny").err
        assert "did you mean 'wiki'?" in farm("table", "tiny", "--score", "wikki").err
        assert "no study 'tin'; did you mean 'tiny'?" in farm("table", "tin").err
    farm.queue.redis.hdel(f"{farm.queue.prefix}references", "tiny")
    assert farm("table", "tiny").code == 1


def test_a_table_seen_before_needs_neither_numpy_nor_scipy(farm: Farm) -> None:
    farm.put(machines=("cpu", "cpu-x2"), init=tuple(range(7)))
    for machine in ("cpu", "cpu-x2"):
        while farm.queue.listing.backlog().get(machine):
            claim = farm.claim(machine)
            shift = {"baseline": 0.0, "remove-dropout": -0.05, "gradient-clipping": 0.002}[claim.run.arm]
            farm.finish(claim, 3.6 + shift + claim.run.seeds.init * 7919 % 13 / 1e3)
    script = """
import sys
from farm.verdict import memory
memory.SETTLED_SECONDS = -1e9
from cli.main import app
try:
    app(["table", "tiny", "--json"])
finally:
    print(*sorted({"numpy", "scipy"} & sys.modules.keys()), file=sys.stderr)
"""
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT)}

    def typed() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )

    first, again = typed(), typed()
    assert first.stdout == again.stdout
    assert [first.stderr.splitlines()[-1], again.stderr.splitlines()[-1]] == ["numpy scipy", ""]
