"""`farm forget`, and what a submit says of what it replaced, adopted, found failed elsewhere, or left over."""

import json
import os
import pty
import select
import subprocess
import sys

import pytest
from redis import Redis
from results import result, study_text

from farm.study.run import Attempt, State

from .conftest import ROOT, Farm


def submit(farm: Farm, name: str = "tiny", *changes: tuple[str, str], words: tuple[str, ...] = ()) -> str:
    """Submit a tiny study of one seed with `changes` to its text; what was said."""
    text = study_text(name, init=(42,))
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = farm.folder / f"{name}.toml"
    path.write_text(text)
    farm.store.mark()
    answer = farm("submit", str(path), *words)
    assert answer.code == 0, answer.err
    return answer.err


MENDED = ("offset = 0", "offset = 1")
RENAMED = ("remove-dropout", "no-drop")
SHRUNK = ("[interventions.gradient-clipping]\ntrain.clip_grad_norm = 3.5\n", "")


def recorded(farm: Farm) -> None:
    """All runs of the tiny study, failed, their directories there."""
    submit(farm)
    while farm.queue.listing.backlog():
        claim = farm.claim()
        farm.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
        farm.fail(claim, "bad-corpus", "no such file")


# A failed first try


def test_a_failed_first_try_does_not_burn_the_name(farm: Farm, redis: Redis) -> None:
    recorded(farm)
    said = submit(farm, "tiny", MENDED)
    assert "tiny: of 3 runs 3 queued" in said
    assert "replaced: 3 runs of another recipe, none with a result (1 of baseline, 1 of remove-dropout" in said
    farm.finish_all()
    assert len(farm("table", "tiny").rows) == 3
    assert {row["state"] for row in farm("runs", "tiny").rows} == {"succeeded"}
    redis.flushdb()
    assert farm("reindex").rows[0]["brought_back"] == "3", "the first try is on record, and stays there"


def test_a_dry_run_says_what_would_be_replaced(farm: Farm) -> None:
    submit(farm)
    assert "would be replaced: 3 runs" in submit(farm, "tiny", MENDED, words=("--dry-run",))
    assert farm.queue.listing.counts()[State.QUEUED] == 3


def test_with_results_the_conflict_names_the_way_out(farm: Farm) -> None:
    farm.serve()
    submit(farm)
    farm.finish_all()
    path = farm.folder / "tiny.toml"
    path.write_text(path.read_text().replace("model.dropout = 0.0", "model.dropout = 0.2"))
    answer = farm("submit", str(path))
    assert (answer.code, answer.err.count("\n")) == (6, 1)
    assert "or drop those results: farm forget tiny --arm remove-dropout" in answer.err
    assert farm("forget", "tiny", "--arm", "remove-dropout", "-y").code == 0
    assert "2 already finished, 1 queued" in farm("submit", str(path)).err


# forget


def test_forgetting_needs_a_yes_and_says_of_what(farm: Farm) -> None:
    recorded(farm)
    answer = farm("forget", "tiny")
    assert answer.code == 7
    assert "this would forget 3 runs of tiny, 0 with a result; their files stay. Confirm with -y." in answer.err
    assert farm.queue.listing.put_count() == sum(farm.queue.listing.counts().values()) == 3


def test_on_a_terminal_it_asks(farm: Farm) -> None:
    recorded(farm)
    assert "Forget 3 runs of tiny" in at_a_terminal(farm, "n\n", "forget", "tiny")
    assert farm.queue.listing.counts()[State.FAILED] == 3
    at_a_terminal(farm, "y\n", "forget", "tiny")
    assert farm.queue.listing.forgotten_count() == 3


def at_a_terminal(farm: Farm, typed: str, *words: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", *words],
        env=os.environ | farm.environment | {"PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said = b""
        while b"]: " not in said:
            assert select.select([ours], [], [], 60)[0], said
            said += os.read(ours, 1000)
        os.write(ours, typed.encode())
        assert process.wait(timeout=60) == (0 if typed == "y\n" else 130)
    os.close(ours)
    return said.decode()


def test_what_is_queued_must_be_cancelled_first(farm: Farm) -> None:
    submit(farm)
    answer = farm("forget", "tiny", "-y")
    assert (answer.code, "farm cancel tiny" in answer.err) == (6, True)
    assert farm("cancel", "tiny").code == 0
    answer = farm("forget", "tiny", "-y", "--json")
    told = json.loads(answer.out)
    assert (told["schema"], told["study_gone"], len(told["data"])) == ("farm.forget/1", True, 3)
    assert "tiny has no runs any more, so the study is gone" in answer.err
    assert farm("table", "tiny").code == 3


@pytest.mark.parametrize("files", [False, True])
def test_the_files_stay_unless_they_are_meant(farm: Farm, redis: Redis, files: bool) -> None:
    """Either way no reindex brings the runs back, and a run submitted again begins anew or finds its result."""
    submit(farm)
    claim = farm.claim()
    farm.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
    farm.store.runs.record(result(claim.run, 3.25))
    farm.finish(claim, 3.25)
    assert farm("forget", claim.run.id, "-y", *(["--files"] if files else [])).code == 0
    assert (farm.store.runs.result(claim.run.id) is None) == files
    redis.flushdb()
    assert farm("reindex").rows[0]["brought_back"] == "2"
    assert "1 run was forgotten before: what their directories hold counts" in submit(farm)
    redis.flushdb()
    farm("reindex")
    assert farm.queue.listing.status(claim.run.id).state == (State.QUEUED if files else State.SUCCEEDED)


def test_a_whole_study_forgotten_with_its_files_leaves_no_record(farm: Farm, redis: Redis) -> None:
    recorded(farm)
    assert farm("forget", "tiny", "-y", "--files").code == 0
    assert farm.store.records.names("studies") == []
    redis.flushdb()
    assert farm("reindex").rows[0]["runs"] == "0"


# The same under another name


def test_a_renamed_arm_is_not_trained_again(farm: Farm, redis: Redis) -> None:
    submit(farm)
    farm.finish_all()
    said = submit(farm, "next", RENAMED)
    assert "next: of 3 runs 2 already finished, 1 known under another name, 0 queued" in said
    assert "1 run has the result of remove-dropout of study tiny: the same recipe, seeds and machine" in said
    rows = {row["arm"]: row for row in farm("table", "next").rows}
    assert "no-drop" in rows
    shown = {row["what"]: row["value"] for row in farm("show", rows["no-drop"]["runs"]).rows}
    assert "remove-dropout" in shown["result of"]
    assert {row["now"] for row in farm("submit", str(farm.folder / "next.toml")).rows} == {"succeeded"}


def test_forgetting_the_files_spares_those_of_adopted_results(farm: Farm, redis: Redis) -> None:
    submit(farm)
    while farm.queue.listing.backlog():
        claim = farm.claim()
        farm.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
        farm.store.runs.record(result(claim.run, 3.25))
        farm.finish(claim, 3.25)
    submit(farm, "next", RENAMED)
    answer = farm("forget", "tiny", "--files", "-y")
    assert answer.code == 0
    assert "the results and files that no-drop of next adopted from them stay" in answer.err
    (row,) = [row for row in farm("runs", "next").rows if "no-drop" in row["run"]]
    redis.flushdb()
    farm("reindex")
    adopted = farm.queue.listing.status(row["run"]).result
    assert adopted is not None
    assert adopted.checkpoint.startswith(f"runs/{adopted.adopted}/")
    assert farm.store.runs.result(adopted.adopted or ""), "where its checkpoint is"


def test_what_is_queued_under_another_name_is_said(farm: Farm) -> None:
    submit(farm)
    said = submit(farm, "next", RENAMED)
    assert "1 run is queued or running as remove-dropout of study tiny, too: trained twice, unless" in said


def test_whose_failure_it_is_is_said(farm: Farm) -> None:
    recorded(farm)
    said = submit(farm, "next")
    assert "0.00 h ago" not in said
    assert " ago for study tiny: bad-corpus: no such file" in said
    assert "failed runs stay failed until: farm retry next" in said


# Cancelled, and left over


def test_a_cancelled_study_can_be_queued_again(farm: Farm) -> None:
    submit(farm)
    farm.fail(farm.claim())
    farm("cancel", "tiny")
    assert "2 cancelled runs stay so until: farm retry tiny --cancelled" in submit(farm)
    retried = farm("retry", "tiny", "--cancelled")
    assert [(row["was"], row["now"]) for row in retried.rows] == [("cancelled", "queued")] * 2
    assert (farm.queue.listing.counts()[State.FAILED], farm.queue.listing.counts()[State.QUEUED]) == (1, 2)
    assert "2 cancelled" not in farm("retry", "tiny").err


def test_a_study_that_shrank_says_what_is_left_of_it(farm: Farm) -> None:
    farm.serve()
    submit(farm)
    said = submit(farm, "tiny", SHRUNK)
    assert "1 run of an earlier form of tiny (gradient-clipping x 1) is still queued or running" in said
    assert "farm cancel tiny --dropped" in said
    assert [row["now"] for row in farm("cancel", "tiny", "--dropped").rows] == ["cancelled"]
    assert farm.queue.listing.counts()[State.QUEUED] == 2
    assert "(gradient-clipping x 1) stays in its tables until: farm forget tiny --dropped" in submit(
        farm, "tiny", SHRUNK
    )
    assert farm("forget", "tiny", "--dropped", "-y").code == 0
    assert "earlier form" not in submit(farm, "tiny", SHRUNK)
