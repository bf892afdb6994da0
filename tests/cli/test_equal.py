"""`farm table --at` and `--target`: how arms at equal cost are shown."""

import csv
import io
import json
import subprocess
import sys

import pytest
from results import result, study_text

from farm.record.result import Validated
from farm.study.study import Study

from .conftest import Farm

ENDS = {"baseline": 3.0, "remove-dropout": 2.8, "gradient-clipping": 3.1}


def trained(farm: Farm, init: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """A study whose runs lose 0.1 a step, two steps a point, on their way to their arm's loss; an hour a step."""
    farm.put(init=init)
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        run = claim.run
        hours = 0.5 if run.arm == "remove-dropout" else 1.0
        end = ENDS[run.arm] + (run.seeds.init * len(run.arm) * 7919 % 21 - 10) / 1000
        curve = tuple(
            Validated(step=step, tokens=step * 256, seconds=step * 3600 * hours, loss=end + (10 - step) / 10)
            for step in range(2, 11, 2)
        )
        told = {"validation": curve, "train_seconds": 36000 * hours, "usd": 3.6, "seconds": 3600.0}
        farm.queue.finish(claim.lease, result(run, end, epoch=claim.lease.epoch, **told))


def test_a_budget_ranks_and_says_who_never_got_there(farm: Farm) -> None:
    trained(farm)
    answer = farm("table", "tiny", "--at", "hours=7")
    assert [row["arm"] for row in answer.rows][-1] == "remove-dropout"
    assert [row["rank"] for row in answer.rows][-1] == ""
    assert "never reached 7 h of training: remove-dropout on cpu: cpu-remove-dropout-s1.23-" in answer.err
    assert "and 1 more" in answer.err
    told = json.loads(farm("table", "tiny", "--at", "hours=4", "--json").out)
    assert told["schema"] == "farm.table-at/1"
    assert told["at"] == {"kind": "hours", "amount": 4.0}
    assert told["data"][0] | {"arm": "remove-dropout", "rank": 1, "verdict": "better", "n": 4} == told["data"][0]
    shown = farm("table", "tiny", "--at", "hours=4", "--format", "md").out
    assert shown.startswith("| # | arm | machine | n | validation loss | SD | vs baseline | verdict | p |")
    assert "- ± is the half-width of a 95 % interval, for all 2 comparisons at once" in shown
    assert "- method: paired differences" in shown
    assert "| 1 | remove-dropout | cpu | 4 | " in shown


def test_a_target_shows_costs_bounds_and_the_speed_up(farm: Farm) -> None:
    trained(farm)
    answer = farm("table", "tiny", "--target", "3.3", "--format", "md")
    shown = answer.out
    assert answer.code == 0, answer.err
    assert "| arm | machine | n | reached | steps | tokens | time | $ | speed-up | verdict |" in shown
    row = next(line for line in shown.splitlines() if "remove-dropout" in line)
    assert " h | " in row
    assert "x (" in row
    assert "| better |" in row
    assert "in brackets is a 95 % interval of the speed-up" in shown
    never = farm("table", "tiny", "--target", "2.9", "--format", "md").out
    assert next(line for line in never.splitlines() if line.startswith("| baseline")).count(r"\> ") == 4
    assert next(line for line in never.splitlines() if line.startswith("| remove-dropout")).count(r"| \> ") == 1
    assert "never reached it: 4 of 4 seed pairs of baseline on cpu" in never
    assert "no interval for remove-dropout on cpu" in never
    told = json.loads(farm("table", "tiny", "--target", "2.9", "--json").out)
    assert (told["schema"], told["target"]) == ("farm.table-target/1", 2.9)
    rows = {row["arm"]: row for row in told["data"]}
    assert rows["baseline"]["hours"]["value"] is None
    assert rows["baseline"]["hours"]["at_least"] > 9.9
    flat = csv.DictReader(io.StringIO(farm("table", "tiny", "--target", "2.9", "--format", "csv").out))
    assert {row["arm"]: row["hours_value"] for row in flat}["baseline"] == ""
    assert {row["arm"]: row["pareto"] for row in farm("table", "tiny").rows}["remove-dropout"] == "True"


def test_without_curves_it_says_so_and_without_runs_it_is_empty(farm: Farm) -> None:
    assert json.loads(farm("table", "--at", "usd=1", "--json").out)["data"] == []
    farm.put(init=(42,))
    assert farm("table", "tiny", "--at", "usd=1").rows == []
    farm.finish(farm.claim(), 3.69)
    for words in (("--at", "usd=1"), ("--target", "3")):
        answer = farm("table", "tiny", *words)
        assert answer.code == 0
        assert "not compared: baseline on cpu: no validation curve: evaluation.every was 0" in answer.err
        assert "2 runs without a result are not in it" in answer.err


def test_it_imports_neither_torch_nor_ray(farm: Farm) -> None:
    trained(farm, init=(1, 2))
    code = (
        "import sys\nfrom cli.main import app\n"
        "try: app(['table', 'tiny', '--target', '3.3'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'ray'} & sys.modules.keys()"
    )
    environment = farm.environment | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, "remove-dropout" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("question", [("--at", "hours=4"), ("--target", "3.3")])
@pytest.mark.parametrize("score", [("--score", "test_loss"), ("--scores", "all")])
def test_a_score_is_no_part_of_a_question_of_cost(
    farm: Farm, question: tuple[str, str], score: tuple[str, str]
) -> None:
    trained(farm)
    answer = farm("table", "tiny", *question, *score)
    assert (answer.code, answer.out) == (2, "")
    assert f"{question[0]} uses the validation loss" in answer.err
    assert f"Leave out {score[0]}, or {question[0]}." in answer.err


def test_a_study_with_another_score_is_told_that_cost_goes_by_the_validation_loss(farm: Farm) -> None:
    wiki = '[study]\nscore = "wiki"\nmargin = 5.0'
    farm.queue.put(Study.parse(study_text().replace("[study]", wiki, 1) + "[evaluations.wiki]\noffset = 8\n"))
    trained(farm)
    farm.queue.put(
        Study.parse(study_text(init=(1, 2, 3, 4)).replace("[study]", wiki, 1) + "[evaluations.wiki]\noffset = 8\n")
    )
    answer = farm("table", "tiny", "--at", "hours=4")
    assert "by the validation loss, not by wiki, and without study.margin, which is for that score" in answer.err
    assert {row["verdict"] for row in answer.rows if row["arm"] != "baseline"} <= {"better", "worse", "unresolved"}


def test_after_resolve_has_looked_equal_cost_has_the_verdicts_of_all_looks(farm: Farm) -> None:
    """Wider than those of a single look, and with their method."""
    trained(farm)
    for words in (("--at", "hours=4"), ("--target", "3.3")):
        once = {row["arm"]: row for row in json.loads(farm("table", "tiny", *words, "--json").out)["data"]}
        assert once["remove-dropout"]["method"] != "sequential"
    before = json.loads(farm("table", "tiny", "--at", "hours=4", "--json").out)["data"]
    looked = farm("resolve", "tiny", "--runs", "1", "--no-wait")
    assert "look 1: " in looked.err
    after = json.loads(farm("table", "tiny", "--at", "hours=4", "--json").out)["data"]
    one, other = ({row["arm"]: row for row in rows}["remove-dropout"] for rows in (before, after))
    assert (other["method"], other["delta"]) == ("sequential", pytest.approx(one["delta"]))
    assert other["ci_high"] - other["ci_low"] > one["ci_high"] - one["ci_low"]
    sooner = {row["arm"]: row for row in json.loads(farm("table", "tiny", "--target", "3.3", "--json").out)["data"]}
    assert sooner["remove-dropout"]["method"] == "sequential"


def test_imported_losses_have_no_curves(farm: Farm) -> None:
    file = farm.folder / "losses.csv"
    farm.store.root.mkdir()
    file.write_text("arm,machine,init_seed,train_seed,test_loss\nbaseline,cpu,1,1,3.0\n", encoding="utf-8")
    assert farm("import", str(file), "--study", "old").code == 0
    answer = farm("table", "old", "--at", "hours=4")
    assert (answer.code, "has imported losses only, and this needs runs that the farm trained" in answer.err) == (
        3,
        True,
    )
