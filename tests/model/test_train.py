"""The loop: one loss on any number of workers, and a run that was stopped ends as if it never had been."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional as F
from worlds import (
    BATCH,
    CONTEXT,
    SOME_TOKENS,
    STEPS,
    attempt,
    canonical,
    corpus,
    in_world,
    planned,
    stop_after,
    tiny,
)

from farm.errors import Nonfinite
from farm.record.ledger import Line, read
from farm.study.run import Run
from model import precision
from model.corpus.sources import open_split
from model.data import Batches
from model.group import join
from model.init import initialise
from model.meter import Signal
from model.optim import learning_rate
from model.train import Trainer


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


def test_a_test_loss_that_is_not_a_number_fails_the_run(tokens, tmp_path):
    """The only step had a finite loss, and its update ruined the weights."""
    run = tiny(tokens, train={"tokens": BATCH * CONTEXT, "learning_rate": 1e38})
    with pytest.raises(Nonfinite, match="test loss after step 1 is nan"):
        attempt(run, planned(run, 1), tmp_path)


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
