"""`farm compare`: two runs by name, their ledgers in the run directories, and what may be missing."""

import json

import pytest
from results import result

from farm.queue.values import Claim
from farm.record.ledger import Line, Writer
from farm.study.run import Checkpoint

from .conftest import Farm


def train(farm: Farm, *losses: float) -> Claim:
    """Lease the next run and leave a ledger as its training would."""
    claim = farm.claim()
    folder = farm.store.attempt_folder(claim.run.id, claim.lease.epoch)
    folder.mkdir(parents=True)
    with Writer(folder / "ledger.jsonl", claim.lease.epoch) as ledger:
        for step, loss in enumerate(losses, start=1):
            ledger.append(Line(step, 256, loss * 256, 1e-3, 1.0, clipped=False, skipped=False, seconds=0.1))
    return claim


def by_what(farm: Farm, *words: str) -> dict[str, dict[str, str]]:
    answer = farm("compare", *words)
    assert answer.code == 0, answer.err
    return {row["what"]: row for row in answer.rows}


def test_two_finished_runs_are_told_apart_step_by_step(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(train(farm, 9.0, 8.0, 7.0), 3.25)
    farm.finish(train(farm, 9.0, 8.0 + 1e-9, 6.5), 3.0)
    rows = by_what(farm, "cpu-base", "cpu-remove")
    assert rows["initial weights"]["difference"] == rows["tokens tested on"]["difference"] == "same"
    assert (rows["model.dropout"]["first"], rows["model.dropout"]["second"]) == ("0.1", "0.0")
    assert float(rows["losses diverge at step 2"]["difference"]) == pytest.approx(1e-9, rel=1e-6)
    assert rows["by more than 1e-05 at step 3"]["difference"] == "-0.5"
    assert rows["loss at step 3"]["difference"] == "-0.5"
    assert rows["test loss"]["difference"] == "-0.25"
    said = farm("compare", "cpu-base", "cpu-remove").err
    assert said == "from the same weights, on the same data, losses that diverge at step 2, by -0.5 at step 3\n"


def test_json_holds_everything(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(train(farm, 9.0, 8.0), 3.25)
    run_id = farm.queue.listing.statuses()[0].id
    told = json.loads(farm("compare", run_id, run_id, "--json").out)
    assert told["schema"] == "farm.compare/1"
    assert (told["data"]["first"], told["data"]["first_steps"]) == (run_id, 2)
    assert (told["data"]["differences"], told["data"]["parted"]) == ([], None)
    assert "the same loss to the bit at each of 2 steps" in farm("compare", run_id, run_id).err


def test_a_run_that_trains_is_known_by_its_checkpoint(farm: Farm) -> None:
    farm.put(init=(42,))
    finished = train(farm, 9.0, 8.0)
    farm.finish(finished, 3.25)
    trains = train(farm, 9.0)
    path = f"runs/{trains.run.id}/1/checkpoints/step-00000001"
    prints = result(finished.run, 3.25).fingerprints
    (farm.store.root / path).mkdir(parents=True)
    progress = {
        "initial_fingerprint": prints.initial,
        "tokens": {"head": "c" * 64, "trained": "d" * 64, "tested": "0" * 64},
    }
    (farm.store.root / path / "state.json").write_text(json.dumps(progress))
    farm.queue.checkpoint(trains.lease, Checkpoint(step=1, epoch=1, path=path, sha256="0" * 64))
    rows = by_what(farm, "cpu-base", "cpu-remove")
    assert rows["initial weights"]["difference"] == "same"
    assert rows["tokens trained on"]["difference"] == "same"
    assert rows["tokens tested on"]["difference"] == "differs"
    assert rows["final weights"]["difference"] == "unknown for at least one run"
    assert "loss at step 1" in rows


def test_a_ledger_that_is_not_seen_from_here_is_said(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.25)
    farm.finish(train(farm, 9.0), 3.25)
    answer = farm("compare", "cpu-base", "cpu-remove")
    assert answer.code == 0
    assert "no common steps recorded" in answer.err
    assert "no ledger of cpu-baseline" in answer.err
    assert "no ledger of cpu-remove" not in answer.err


def test_a_run_that_is_unknown_or_ambiguous_is_refused(farm: Farm) -> None:
    farm.put()
    for words, code, says in (
        (("cpu-base", "nope"), 6, "3 runs begin with 'cpu-base'"),
        (("nope", "cpu-base"), 3, "no run 'nope'"),
    ):
        answer = farm("compare", *words)
        assert (answer.code, answer.out) == (code, "")
        assert says in answer.err
