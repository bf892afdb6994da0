"""The loop: one loss on any number of workers, and a run that was stopped ends as if it never had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F
from waiting import wait_until
from worlds import (
    BATCH,
    CONTEXT,
    SOME_TOKENS,
    STEPS,
    TINY,
    attempt,
    canonical,
    corpus,
    in_world,
    planned,
    shared,
    stop_after,
    timeless,
    tiny,
)

from farm.errors import BadCorpus, DoesNotFit, NoCompiler, Nonfinite
from farm.record.ledger import Line, read
from farm.record.result import Outcome
from farm.study.recipe import FurtherEvaluation, Recipe
from farm.study.run import Policy, Run
from model import precision, reduce
from model.checkpoint import newest_valid, verify
from model.corpus.checks import exams_of
from model.corpus.sources import open_split
from model.data import Batches
from model.group import join
from model.init import initialise
from model.meter import Signal
from model.optim import learning_rate
from model.train import Trainer


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


def whole(run: Run, folder: Path, world: int, microbatch: int = 1) -> dict[str, Any]:
    outcome, told = attempt(run, planned(run, world, microbatch), folder / f"world-{world}")
    return {"outcome": outcome, "told": told}


def stopped_everywhere(run: Run, unwatched: Run, world: int, folder: Path) -> list[Any]:
    """Where a run that is stopped after each step and resumed says something else than one that is not; and where
    either, validated after step 2 and the last, trains to other bits than one that is never validated."""
    reduce.BUCKET_MIB = 0.002  # many buckets: DDP regroups them after its first backward pass
    plan = planned(run, world)
    never, told = attempt(run, plan, folder / "never")
    plain, trained = attempt(unwatched, plan, folder / "unwatched")
    unlike: list[Any] = []
    if (plain.fingerprints, trained.timeless) != (never.fingerprints, without_validations(told.timeless)):
        unlike.append("validated")
    if told.lines and [line.step for line in told.lines if line.validation] != [2, STEPS]:
        unlike.append("not validated")
    for step in range(1, STEPS):
        home = folder / f"after-{step}"
        stopped, before = attempt(run, plan, home, signals=stop_after(step))
        resumed, after = attempt(run, plan, home, resume=home / "1" / str(stopped.checkpoint), epoch=2)
        facts = [(o.fingerprints, o.test_loss, o.test_tokens) for o in (resumed, never)]
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


def test_the_ledger_holds_what_was_observed(tokens, tmp_path):
    run = tiny(tokens)
    outcome, told = attempt(run, planned(run, 1), tmp_path)
    assert read(tmp_path) == told.lines
    assert [line.step for line in told.lines] == list(range(1, STEPS + 1))
    assert {line.tokens for line in told.lines} == {BATCH * CONTEXT}
    state = json.loads((tmp_path / "1" / outcome.checkpoint / "state.json").read_text())
    assert state["sums"]["tokens"] == STEPS * BATCH * CONTEXT
    assert state["sums"]["loss_sum"] == pytest.approx(sum(line.loss_sum for line in told.lines), rel=1e-15)


def exploding(run: Run, world: int, folder: Path) -> Any:
    try:
        attempt(run, planned(run, world), folder)
    except Nonfinite as error:
        return error.fields["step"], str(error)


def test_a_loss_that_is_not_a_number_ends_the_run_on_every_rank_and_is_not_in_the_ledger(tokens, tmp_path):
    run = tiny(tokens, train={"learning_rate": 1e30})
    results = in_world(2, exploding, run, 2, tmp_path)
    assert {step for step, _ in results} == {2}
    assert "nan" in results[0][1]
    assert [line.step for line in read(tmp_path)] == [1]


def test_fp16_skips_an_overflow_and_counts_it_while_the_schedule_goes_on(tokens, tmp_path):
    schedule = {"kind": "warmup-linear", "warmup": 0.5}
    run = tiny(tokens, train={"precision": "fp16", "learning_rate": 1e30, "schedule": schedule})
    outcome, told = attempt(run, planned(run, 1), tmp_path, signals=stop_after(STEPS))
    assert [line.skipped for line in told.lines] == [False, True, True, True]
    assert [line.lr for line in told.lines] == [learning_rate(run.recipe, step) for step in range(1, STEPS + 1)]
    state = json.loads((tmp_path / "1" / outcome.checkpoint / "state.json").read_text())
    assert state["loss_scale"]["scale"] == 2.0**13
    assert state["sums"]["skipped"] == 3
    assert [line.skipped for line in read(tmp_path)] == [False, True, True, True]


def test_fp16_resumes_to_the_same_bits_after_a_skipped_step(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "LOSS_SCALE", 2.0**20)  # too much for the first two steps
    run = tiny(tokens, train={"precision": "fp16"})
    never, told = attempt(run, planned(run, 1), tmp_path / "never")
    assert [line.skipped for line in told.lines] == [True, True, False, False]
    home = tmp_path / "home"
    stopped, before = attempt(run, planned(run, 1), home, signals=stop_after(STEPS - 1))
    outcome, after = attempt(run, planned(run, 1), home, resume=home / "1" / stopped.checkpoint, epoch=2)
    assert before.timeless + after.timeless == told.timeless
    assert outcome.fingerprints == never.fingerprints
    states = [home / "2" / outcome.checkpoint, tmp_path / "never/1" / never.checkpoint]
    scales = [json.loads((state / "state.json").read_text())["loss_scale"] for state in states]
    assert scales[0] == scales[1]
    assert scales[0]["finite_steps"] == 2


@pytest.mark.parametrize("kind", ["tf32", "fp16", "bf16"])
def test_other_precisions_follow_fp32(kind, tokens, tmp_path):
    run = tiny(tokens, model={"dropout": 0.0})
    _, exact = attempt(run, planned(run, 1), tmp_path / "fp32")
    _, told = attempt(tiny(tokens, model={"dropout": 0.0}, train={"precision": kind}), planned(run, 1), tmp_path / kind)
    assert told.losses == pytest.approx(exact.losses, rel=5e-3)
    assert [line.grad_norm for line in told.lines] == pytest.approx([line.grad_norm for line in exact.lines], rel=0.05)


def first_gradients(checkpoint: Path) -> dict[str, np.ndarray]:
    """What AdamW was given in the first step, from its first moments, which are a tenth of it."""
    moments = load_file(checkpoint / "optimiser.safetensors")
    return {name.removeprefix("exp_avg."): m * 10 for name, m in moments.items() if name.startswith("exp_avg.")}


def norm(gradients: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(gradient.astype(float)).sum() for gradient in gradients.values())))


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_gradients_are_clipped_to_the_limit_and_the_ledger_says_so(kind, tokens, tmp_path):
    free, limited = (tiny(tokens, train={"precision": kind, "clip_grad_norm": c}) for c in (None, 0.01))
    whole, told = attempt(free, planned(free, 1), tmp_path / "free", signals=stop_after(1))
    outcome, clipped = attempt(limited, planned(limited, 1), tmp_path / "limited", signals=stop_after(1))
    assert (told.lines[0].clipped, clipped.lines[0].clipped) == (False, True)
    assert clipped.lines[0].grad_norm == told.lines[0].grad_norm > 0.01
    assert norm(first_gradients(tmp_path / "free/1" / whole.checkpoint)) == pytest.approx(told.lines[0].grad_norm)
    assert norm(first_gradients(tmp_path / "limited/1" / outcome.checkpoint)) == pytest.approx(0.01, rel=1e-4)


def plainly(run: Run, rates: list[float], cache: Path) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Losses, gradient norms and final weights of the loop that anybody would write: torch's parts, a whole batch."""
    recipe = run.recipe
    gpt = initialise(recipe.model, run.seeds.init)
    batches = Batches(open_split(recipe.data, "train", cache), recipe, run.seeds)
    matrices, others = ([p for p in gpt.parameters() if (p.dim() == 2) is wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, foreach=False, fused=False)
    losses, norms = [], []
    for step, rate in enumerate(rates):
        x_BT, y_BT = map(torch.from_numpy, batches.microbatch(step, planned(run, 1, BATCH), 0, 0))
        optimiser.zero_grad()
        loss = F.cross_entropy(gpt.logits(x_BT).flatten(0, 1), y_BT.flatten())
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(gpt.parameters(), recipe.train.clip_grad_norm).item())
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        losses.append(loss.item())
    return losses, norms, {name: parameter.detach().numpy() for name, parameter in gpt.named_parameters()}


def test_losses_norms_and_weights_are_those_of_a_plain_loop(tokens, tmp_path):
    """A rate for each step, two groups of weights, clipping and accumulation included."""
    schedule = {"kind": "warmup-linear", "warmup": 0.5, "floor": 0.2}
    train = {"schedule": schedule, "decay": "matrices", "clip_grad_norm": 0.5, "learning_rate": 0.01}
    run = tiny(tokens, model={"dropout": 0.0}, train=train)
    losses, norms, weights = plainly(run, [0.005, 0.01, 0.006, 0.002], tmp_path)
    outcome, told = attempt(run, planned(run, 1, 2), tmp_path)
    assert told.losses == pytest.approx(losses, rel=1e-5)
    assert [line.grad_norm for line in told.lines] == pytest.approx(norms, rel=1e-4)
    assert max(losses) - min(losses) > 0.01
    assert min(norms) > 0.5, "each was clipped"
    found = load_file(tmp_path / "1" / outcome.checkpoint / "weights.safetensors")
    for name, weight in weights.items():
        np.testing.assert_allclose(found[name], weight, rtol=0, atol=2e-5, err_msg=name)


class Ragged(Batches):
    """The first target of a sequence counts; the others only in the second half of the batch."""

    def microbatch(self, step, plan, rank, turn):
        x_BT, y_BT = super().microbatch(step, plan, rank, turn)
        y_BT = y_BT.copy()
        first = (rank * plan.accumulation + turn) * plan.microbatch
        y_BT[: max(0, BATCH // 2 - first), 1:] = -100
        return x_BT, y_BT


def ragged(run: Run, world: int, folder: Path) -> tuple[Line, dict[str, np.ndarray]]:
    trainer = Trainer(run, planned(run, world), join(planned(run, world)), folder, SOME_TOKENS)
    trainer.batches.__class__ = Ragged
    trainer.make_ready()
    line = trainer.update(trainer.compute(Signal.CONTINUE, False))
    moments = trainer.state().moments
    return line, {name: moments[f"exp_avg.{name}"].numpy() * 10 for name, _ in trainer.gpt.named_parameters()}


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", [tiny, canonical])
def test_gradients_are_those_of_the_mean_over_the_targets_that_count(kind, world, tokens, tmp_path):
    """Not of a mean of means: the ranks and the microbatches have unlike numbers of them."""
    run = kind(tokens, model={"dropout": 0.0})
    x_BT, y_BT = Ragged(open_split(run.recipe.data, "train", tmp_path), run.recipe, run.seeds).microbatch(
        0, planned(run, 1, BATCH), 0, 0
    )
    gpt = initialise(run.recipe.model, run.seeds.init)
    logits_BTV = gpt.logits(torch.from_numpy(x_BT))
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), torch.from_numpy(y_BT).flatten())
    loss.backward()
    found = in_world(world, ragged, run, world, tmp_path) if world > 1 else [ragged(run, world, tmp_path)]
    for line, gradients in found:
        assert line.tokens == BATCH // 2 * (CONTEXT + 1)
        assert line.loss_sum / line.tokens == pytest.approx(loss.item(), rel=1e-6)
        for name, parameter in gpt.named_parameters():
            np.testing.assert_allclose(gradients[name], parameter.grad, rtol=2e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("dropout", "losses"), [(0.0, 1), (0.1, STEPS)])
def test_dropout_masks_are_new_in_every_step(dropout, losses, tmp_path):
    """The same batch again and again, and weights that do not move: only the masks can change the loss."""
    run = tiny(
        corpus(tmp_path, tokens=BATCH * CONTEXT + 1),
        model={"dropout": dropout},
        train={"learning_rate": 1e-30},
        data={"repeat": True},
        evaluation={"sequences": 1},
    )
    _, told = attempt(run, planned(run, 1), tmp_path / "run")
    assert len(set(told.losses)) == losses


def test_sums_go_on_over_a_resume(tokens, tmp_path):
    run = tiny(tokens)
    stopped, before = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    outcome, after = attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2)
    sums = json.loads((tmp_path / "2" / outcome.checkpoint / "state.json").read_text())["sums"]
    lines = before.lines + after.lines
    assert sums["tokens"] == sum(line.tokens for line in lines) == STEPS * BATCH * CONTEXT
    assert sums["loss_sum"] == pytest.approx(sum(line.loss_sum for line in lines), rel=1e-15)
    assert sums["seconds"] == pytest.approx(sum(line.seconds for line in lines))


def test_a_test_loss_that_is_not_a_number_fails_the_run(tokens, tmp_path):
    """The only step had a finite loss, and its update ruined the weights."""
    run = tiny(tokens, train={"tokens": BATCH * CONTEXT, "learning_rate": 1e38})
    with pytest.raises(Nonfinite, match="test loss after step 1 is nan"):
        attempt(run, planned(run, 1), tmp_path)


def test_the_best_step_is_remembered_over_a_resume(tokens, tmp_path):
    """A rate that ruins the weights: the first step was the best."""
    run = tiny(tokens, train={"learning_rate": 3.0})
    stopped, before = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    outcome, after = attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2)
    losses = before.losses + after.losses
    assert (outcome.best_step, outcome.best_loss) == (1, losses[0])
    assert losses[0] < min(losses[1:])


def test_dropout_depends_on_the_train_seed_and_weights_on_the_init_seed(tokens, tmp_path):
    run = tiny(tokens)
    seeds = {
        name: run.model_copy(update={"seeds": run.seeds.model_copy(update={name: 5})}) for name in ("init", "train")
    }
    usual, told = attempt(run, planned(run, 1), tmp_path / "usual")
    other_init, _ = attempt(seeds["init"], planned(run, 1), tmp_path / "init")
    other_train, otherwise = attempt(seeds["train"], planned(run, 1), tmp_path / "train")
    assert other_init.fingerprints.initial != usual.fingerprints.initial
    assert other_train.fingerprints.initial == usual.fingerprints.initial
    assert otherwise.losses != told.losses


def test_the_random_state_of_the_caller_is_left_alone(tokens, tmp_path):
    run = tiny(tokens)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    attempt(run, planned(run, 1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


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


def test_a_lower_rate_at_the_end_is_not_a_warm_restart(tokens, tmp_path):
    run = tiny(tokens, train={"schedule": {"kind": "warmup-cosine", "floor": 0.1}})
    stopped, before = attempt(run, planned(run, 1), tmp_path, signals=stop_after(2))
    _, after = attempt(run, planned(run, 1), tmp_path, resume=tmp_path / "1" / stopped.checkpoint, epoch=2)
    rates = [line.lr for line in before.lines + after.lines]
    assert all(earlier > later for earlier, later in pairwise(rates))
    assert rates[-1] == pytest.approx(3e-4)


def test_the_outcome_says_what_it_took(tokens, tmp_path):
    run = tiny(tokens)
    outcome, _ = attempt(run, planned(run, 1), tmp_path)
    assert outcome.finished
    assert outcome.threads == torch.get_num_threads()
    assert 50e6 < outcome.peak_bytes < 20e9
    assert 0 < outcome.checkpoint_seconds_stalled < 5
    assert outcome.test_tokens == 13 * CONTEXT
    assert np.log(2) < outcome.test_loss < 2 * np.log(67)


ROOT = Path(__file__).parents[2]


def scored(run, plan, folder, exams):
    return attempt(run, plan, folder, exams=exams)[0]


def test_a_model_is_scored_by_further_evaluations_which_change_nothing_else(tokens, tmp_path):
    run = tiny(tokens)
    cache = tmp_path / "cache"
    further = {"late": FurtherEvaluation(offset=1000, sequences=3), "short": FurtherEvaluation(context=4)}
    exams = exams_of(run.recipe, further, cache)
    outcome, told = attempt(run, planned(run, 1), tmp_path / "more", exams=exams)
    alone, before = attempt(run, planned(run, 1), tmp_path / "plain")
    assert told.timeless == before.timeless
    assert (outcome.fingerprints, outcome.test_loss) == (alone.fingerprints, alone.test_loss)
    test, late, short = outcome.scores
    assert alone.scores == (test,)
    assert (test.exam.name, test.value, test.tokens) == ("test_loss", outcome.test_loss, outcome.test_tokens)
    assert (late.exam, len(late.values), late.tokens) == (exams[0], 3, 3 * CONTEXT)
    assert (short.exam, len(short.values), short.tokens) == (exams[1], 13, 13 * 4)
    assert len({test.value, late.value, short.value}) == 3
    two = in_world(2, scored, canonical(tokens), planned(canonical(tokens), 2), tmp_path / "two", exams)
    one = scored(canonical(tokens), planned(canonical(tokens), 1), tmp_path / "one", exams)
    assert [outcome.scores for outcome in two] == [one.scores] * 2, "to the bit on any number of ranks"


def test_a_test_split_that_is_replaced_while_training_does_not_change_what_the_model_is_scored_on(tokens, tmp_path):
    """The record names the tokens that were there when training began."""
    own = Path(shutil.copytree(tokens, tmp_path / "own"))
    run = tiny(own)
    exams = exams_of(run.recipe, {"late": FurtherEvaluation(offset=1000, sequences=3)}, tmp_path / "cache")

    def replaced(seen: int) -> Signal:
        if seen == 1:
            (own / "train.bin").rename(own / "validation.bin")
        return Signal.CONTINUE

    undisturbed, _ = attempt(run, planned(run, 1), tmp_path / "before", exams=exams)
    disturbed, _ = attempt(run, planned(run, 1), tmp_path / "meanwhile", exams=exams, signals=replaced)
    assert not (own / "train.bin").exists()
    assert disturbed.scores == undisturbed.scores


def test_a_further_evaluation_that_its_corpus_cannot_serve_is_refused_before_training(tokens, tmp_path):
    run = tiny(tokens)
    for further, said in (
        (FurtherEvaluation(offset=4000), "Lower evaluation.offset"),
        (FurtherEvaluation(split="train"), "training reads the first 256 tokens"),
        (FurtherEvaluation(source=str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(BadCorpus, match=said):
            exams_of(run.recipe, {"wiki": further}, tmp_path / "cache")


STUDY = """
[study]
name = "by-hand"
machines = ["cpu-x2"]
[baseline.model]
{model}
[baseline.train]
{train}
[baseline.data]
source = "{source}"
[baseline.evaluation]
offset = 0
sequences = 13
[evaluations.late]
offset = 1000
"""


def torchrun(study: Path, folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model"]
    options = [str(study), "cpu-x2-baseline", str(folder), "--cache", str(cache)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_it_runs_under_plain_torchrun_and_goes_on_from_there(tokens, tmp_path):
    tables = {name: "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY[name].items()) for name in ("model", "train")}
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(source=tokens, **tables))
    first = torchrun(study, tmp_path / "run", tmp_path / "cache")
    assert first.returncode == 0, first.stderr
    outcome = Outcome.model_validate_json(first.stdout)
    assert outcome.finished
    assert [scored.exam.name for scored in outcome.scores] == ["test_loss", "late"]
    assert len(read(tmp_path / "run")) == STEPS
    again = Outcome.model_validate_json(torchrun(study, tmp_path / "run", tmp_path / "cache").stdout)
    assert (again.fingerprints, again.test_loss) == (outcome.fingerprints, outcome.test_loss)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["1", "2"]


def test_one_process_that_compiles_nothing_does_not_import_torchs_compiler(tokens, tmp_path):
    """It would take seconds, at the start of every run."""
    tables = {name: "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY[name].items()) for name in ("model", "train")}
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(source=tokens, **tables).replace("cpu-x2", "cpu-x1"))
    code = (
        "import sys; from model.__main__ import main; main(); assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    options = [str(study), "cpu-x1-baseline", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Outcome.model_validate_json(done.stdout).finished


def test_without_a_compiler_a_compiled_run_ends_before_its_first_step_and_for_good(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    run = tiny(tokens, train={"compile": True})
    with pytest.raises(NoCompiler, match=r"has no /nowhere/g\+\+, which CXX names") as caught:
        attempt(run, planned(run, 1, 1), tmp_path)
    assert not caught.value.retryable
    assert not list(tmp_path.rglob("ledger.jsonl"))
