"""Training is exact to the bit: resumed as never stopped, and on any number of workers where that is promised."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from training import whole
from waiting import wait_until
from worlds import (
    BATCH,
    CONTEXT,
    SOME_TOKENS,
    STEPS,
    attempt,
    canonical,
    in_world,
    planned,
    sampled,
    shared,
    stop_after,
    timeless,
    tiny,
)

from farm.errors import BadCorpus, DoesNotFit
from farm.record.ledger import Line, read
from farm.study.recipe import Recipe
from farm.study.run import Policy, Run
from farm.study.samples import Samples
from model import reduce
from model.checkpoint import newest_valid, verify
from model.meter import Signal

SAMPLES = Samples(prompts=("3 1 4",), every=1, tokens=12)  # more than the context holds


def stopped_everywhere(run: Run, unwatched: Run, world: int, folder: Path) -> list[Any]:
    """Where a run that is stopped after each step and resumed says something else than one that is not; and where
    either, validated after step 2 and the last and sampled from after each, trains to other bits than one that is never
    watched."""
    reduce.BUCKET_MIB = 0.002  # many buckets: DDP regroups them after its first backward pass
    plan = planned(run, world, run.recipe.train.canonical_microbatch or BATCH // world // 2)
    never, told = attempt(run, plan, folder / "never", samples=SAMPLES)
    plain, trained = attempt(unwatched, plan, folder / "unwatched")
    unlike: list[Any] = []
    if [one.step for one in sampled(folder / "never")] != list(range(STEPS + 1)):
        unlike.append("not sampled")
    if (plain.fingerprints, trained.timeless) != (never.fingerprints, without_validations(told.timeless)):
        unlike.append("validated")
    if told.lines and [line.step for line in told.lines if line.validation] != [2, STEPS]:
        unlike.append("not validated")
    for step in range(1, STEPS):
        home = folder / f"after-{step}"
        stopped, before = attempt(run, plan, home, signals=stop_after(step), samples=SAMPLES)
        checkpoint = home / "1" / str(stopped.checkpoint)
        resumed, after = attempt(run, plan, home, resume=checkpoint, epoch=2, samples=SAMPLES)
        facts = [(o.fingerprints, o.test_loss, o.test_tokens) for o in (resumed, never)]
        if sampled(home) != sampled(folder / "never"):
            unlike.append(("sampled", step))
        if before.timeless + after.timeless != told.timeless or facts[0] != facts[1] or stopped.step != step:
            unlike.append((step, facts))
    return unlike


def without_validations(lines: list[Line]) -> list[Line]:
    return [line._replace(validation=None) for line in lines]


def every(run: Run, steps: int) -> Recipe:
    return run.recipe.with_patch({"evaluation": {"every": steps}})


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", [tiny, canonical])
def test_a_run_stopped_after_any_step_and_resumed_ends_on_the_same_bits(kind, world, tokens, tmp_path):
    run = kind(tokens, train={"clip_grad_norm": 0.5, "schedule": {"kind": "warmup-cosine", "warmup": 0.5}})
    watched, unwatched = (Run(**dict(run) | {"recipe": every(run, steps)}) for steps in (2, 0))
    assert run.recipe.model.dropout > 0
    assert in_world(world, stopped_everywhere, watched, unwatched, world, tmp_path) == [[]] * world


def test_one_worker_that_accumulates_twice_as_often_has_the_losses_of_two(tokens, tmp_path):
    run = tiny(tokens, model={"dropout": 0.0})
    one = in_world(1, whole, run, tmp_path, 1, 2)[0]
    two = in_world(2, whole, run, tmp_path, 2, 2)[0]
    assert one["told"].losses == pytest.approx(two["told"].losses, rel=1e-6)
    assert one["outcome"].test_loss == pytest.approx(two["outcome"].test_loss, rel=1e-6)
    assert max(one["told"].losses) - min(one["told"].losses) > 1e-3, "it learns, so that the losses could differ"


def test_canonical_gives_the_same_bits_on_1_2_4_and_8_workers(tokens, tmp_path):
    run = canonical(tokens, train={"clip_grad_norm": 0.5})
    found = [in_world(world, whole, run, tmp_path, world)[0] for world in (1, 2, 4, 8)]
    for other in found[1:]:
        assert other["told"].timeless == found[0]["told"].timeless
        assert other["outcome"].fingerprints == found[0]["outcome"].fingerprints
        assert other["outcome"].test_loss == found[0]["outcome"].test_loss


def all_of(run: Run, splits: list[tuple[int, ...]], folder: Path, checkpoint: Path) -> list[Any]:
    """Train under each split: from the start, and from a checkpoint that was saved under another."""
    found = []
    for shares in splits:
        home = folder / "+".join(map(str, shares))
        outcome, told = attempt(run, shared(run, *shares), home)
        later, rest = attempt(run, shared(run, *shares), home, resume=checkpoint, epoch=2)
        found += [(outcome, told.timeless), (later, rest.timeless)]
    return found


def test_canonical_gives_the_same_bits_under_any_shares_and_goes_on_under_others(tokens, tmp_path):
    run = canonical(tokens, train={"clip_grad_norm": 0.5})
    one, told = attempt(run, planned(run, 1), tmp_path / "one")
    stopped, _ = in_world(2, until_stopped_under, run, (6, 2), tmp_path / "home")[0]
    checkpoint = tmp_path / "home/1" / stopped.checkpoint
    for splits in ([(8,)], [(4, 4), (6, 2), (5, 3), (1, 7)], [(3, 3, 2)]):
        ends = in_world(len(splits[0]), all_of, run, splits, tmp_path, checkpoint)[0]
        assert {(end.fingerprints, end.test_loss) for end, _ in ends} == {(one.fingerprints, one.test_loss)}
        assert [lines for _, lines in ends] == [told.timeless, told.timeless[2:]] * len(splits)


def until_stopped_under(run: Run, shares: tuple[int, ...], folder: Path) -> Any:
    return attempt(run, shared(run, *shares), folder, signals=stop_after(2))


def test_fast_under_unequal_shares_resumes_to_the_same_bits(tokens, tmp_path):
    run = tiny(tokens)
    never, told = in_world(2, attempt, run, shared(run, 5, 3), tmp_path / "never")[0]
    stopped, _ = in_world(2, until_stopped_under, run, (5, 3), tmp_path / "home")[0]
    (_, (outcome, rest)) = in_world(2, all_of, run, [(5, 3)], tmp_path, tmp_path / "home/1" / stopped.checkpoint)[0]
    assert (outcome.fingerprints, rest) == (never.fingerprints, told.timeless[2:])


def test_fast_does_not_give_the_same_bits_on_1_and_4_workers(tokens, tmp_path):
    """Otherwise the test above would prove nothing."""
    run = tiny(tokens, model={"dropout": 0.0})
    one, four = (in_world(world, whole, run, tmp_path, world)[0]["outcome"].fingerprints.final for world in (1, 4))
    assert one != four


def resumed(run: Run, world: int, folder: Path, checkpoint: Path) -> Any:
    return attempt(run, planned(run, world), folder, resume=checkpoint, epoch=2)


@pytest.mark.parametrize(("before", "after"), [(4, 1), (1, 8), (2, 4)])
def test_canonical_goes_on_with_another_number_of_workers_to_the_same_bits(before, after, tokens, tmp_path):
    run = canonical(tokens)
    never, told = in_world(1, attempt, run, planned(run, 1), tmp_path / "never")[0]
    in_world(before, until_stopped, run, before, tmp_path / "home", 2)
    checkpoint = newest_valid([tmp_path / "home/1/checkpoints"], run, planned(run, after))
    outcome, later = in_world(after, resumed, run, after, tmp_path / "home", checkpoint.path)[0]
    assert outcome.fingerprints == never.fingerprints
    assert later.timeless == told.timeless[2:]


def until_stopped(run: Run, world: int, folder: Path, step: int) -> None:
    attempt(run, planned(run, world), folder, signals=stop_after(step))


def test_fast_does_not_go_on_with_another_number_of_workers(tokens, tmp_path):
    run = tiny(tokens)
    stopped, _ = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    assert newest_valid([tmp_path / "1/checkpoints"], run, planned(run, 2)) is None
    with pytest.raises(AssertionError, match=r"CheckpointInvalid.*saved by 1 workers"):
        in_world(2, resumed, run, 2, tmp_path, tmp_path / "1" / stopped.checkpoint)


def killed(run: Run, world: int, folder: Path, at: int) -> None:
    """Save after every step, and die by SIGKILL before step `at` begins, some checkpoint being on the disk."""
    plan = planned(run, world)

    def signals(seen: int) -> Signal:
        if seen == at - 1:
            wait_until(lambda: newest_valid([folder / "1/checkpoints"], run, plan), "a checkpoint has landed")
            os.kill(os.getpid(), signal.SIGKILL)
        return Signal.SAVE

    attempt(run, plan, folder, signals=signals)


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_whose_worker_was_killed_goes_on_from_its_newest_checkpoint_to_the_same_bits(world, tokens, tmp_path):
    run = tiny(tokens)
    never, told = in_world(world, attempt, run, planned(run, world), tmp_path / "never")[0]
    with pytest.raises(AssertionError, match=r"died|Connection"):
        in_world(world, killed, run, world, tmp_path / "home", STEPS)
    checkpoint = newest_valid([tmp_path / "home/1/checkpoints"], run, planned(run, world))
    assert checkpoint is not None
    outcome, later = in_world(world, resumed, run, world, tmp_path / "home", checkpoint.path)[0]
    assert outcome.fingerprints == never.fingerprints
    assert later.timeless == told.timeless[checkpoint.step :]
    assert [timeless(line) for line in read(tmp_path / "home")] == told.timeless


def saving(run: Run, world: int, folder: Path) -> Any:
    return attempt(run, planned(run, world), folder, signals=lambda seen: Signal.SAVE)


def test_every_rank_hears_of_every_checkpoint_after_the_same_step_and_the_two_newest_are_kept(tokens, tmp_path):
    run = tiny(tokens, train={"tokens": 30 * BATCH * CONTEXT})
    results = in_world(2, saving, run, 2, tmp_path)
    heard = [told.saved for _, told in results]
    assert heard[0] == heard[1]
    steps = [step for step, _, _ in heard[0]]
    assert len(steps) > 2
    assert steps == sorted(set(steps))
    kept = sorted(folder.name for folder in (tmp_path / "1/checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in steps[-2:]]
    assert results[0][0].checkpoint == f"checkpoints/step-{30:08d}"
    assert all(verify(path)["step"] == step for step, path, _ in heard[0][-2:])


def test_a_checkpoint_is_made_when_the_last_is_old(tokens, tmp_path):
    run = tiny(tokens).model_copy(update={"policy": Policy(checkpoint_seconds=1e-9)})
    _, told = attempt(run, planned(run, 1), tmp_path)
    assert [step for step, _, _ in told.saved][-1] == STEPS
    assert len(told.saved) > 1


def abandoned(run: Run, world: int, folder: Path) -> Any:
    return attempt(run, planned(run, world), folder, signals=lambda seen: (Signal.CONTINUE, Signal.ABANDON)[seen])


def test_a_run_that_lost_its_lease_stops_on_every_rank_and_writes_nothing_more(tokens, tmp_path):
    run = tiny(tokens)
    results = in_world(2, abandoned, run, 2, tmp_path)
    assert [(outcome.finished, outcome.step) for outcome, _ in results] == [(False, 1)] * 2
    assert [told.saved for _, told in results] == [[], []]
    assert not (tmp_path / "1/checkpoints").exists()
    assert [line.step for line in read(tmp_path)] == [1]


def test_sums_go_on_over_a_resume(tokens, tmp_path):
    run = tiny(tokens)
    stopped, before = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    outcome, after = attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2)
    sums = json.loads((tmp_path / "2" / outcome.checkpoint / "state.json").read_text())["sums"]
    lines = before.lines + after.lines
    assert sums["tokens"] == sum(line.tokens for line in lines) == STEPS * BATCH * CONTEXT
    assert sums["loss_sum"] == pytest.approx(sum(line.loss_sum for line in lines), rel=1e-15)
    assert sums["seconds"] == pytest.approx(sum(line.seconds for line in lines))


def test_the_best_step_is_remembered_over_a_resume(tokens, tmp_path):
    """A rate that ruins the weights: the first step was the best."""
    run = tiny(tokens, train={"learning_rate": 3.0})
    stopped, before = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    outcome, after = attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2)
    losses = before.losses + after.losses
    assert (outcome.best_step, outcome.best_loss) == (1, losses[0])
    assert losses[0] < min(losses[1:])


def test_a_run_does_not_go_on_with_other_data(tokens, tmp_path):
    run = tiny(tokens)
    stopped, _ = attempt(run, planned(run, 1), tmp_path, signals=stop_after(1))
    for which, split in (("trained", "train"), ("tested", "validation")):
        other = SOME_TOKENS.model_copy(update={which: "1" * 64})
        with pytest.raises(BadCorpus, match=f"the {split} split of .* has changed since the checkpoint at step 1"):
            attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2, tokens=other)


def test_a_plan_for_another_number_of_workers_is_refused(tokens, tmp_path):
    run = tiny(tokens)
    with pytest.raises(DoesNotFit, match="plan is for 2 workers, but the process group has 1"):
        attempt(run, planned(run, 2), tmp_path)
