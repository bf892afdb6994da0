"""The learning rate is a pure function of the step, and AdamW is torch's."""

import pytest
import torch

from farm.study.recipe import Model, Recipe
from model import optim
from model.init import initialise
from model.optim import adamw, learning_rate

TINY = Model(vocab=67, context=8, width=16, layers=2, heads=2, dropout=0.0)


def recipe(steps: int = 10, **schedule) -> Recipe:
    train = {"batch": 2, "tokens": steps * 16, "learning_rate": 1.0, "schedule": schedule}
    return Recipe(model=TINY).with_patch({"train": train})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, [1.0] * 10),
        ({"warmup": 0.25}, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1]),  # ceil(2.5) = 3 steps
        ({"kind": "warmup-linear"}, [1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9, 0]),
        (
            {"kind": "warmup-linear", "warmup": 0.2, "floor": 0.2},
            [0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2],
        ),
        (
            {"kind": "warmup-cosine", "warmup": 0.2, "floor": 0.1},
            [0.5, 1, 0.9657457896, 0.8681980515, 0.7222075445, 0.55, 0.3777924555, 0.2318019485, 0.1342542104, 0.1],
        ),
        ({"kind": "warmup-cosine", "warmup": 1.0}, [i / 10 for i in range(1, 11)]),
    ],
)
def test_the_rate_of_every_step_is_this(schedule, expected):
    steps = recipe(**schedule)
    assert [learning_rate(steps, step) for step in range(1, 11)] == pytest.approx(expected, abs=1e-10)


def test_the_peak_is_reached_at_the_share_of_the_steps_that_was_written():
    hundred = recipe(steps=100, warmup=0.07)
    assert [learning_rate(hundred, step) for step in (1, 6, 7, 8)] == pytest.approx([1 / 7, 6 / 7, 1, 1])


def test_a_run_of_one_step_takes_it_at_the_peak():
    for kind in ("constant", "warmup-cosine", "warmup-linear"):
        assert learning_rate(recipe(steps=1, kind=kind), 1) == 1.0


def test_all_tensors_decay_or_only_matrices():
    gpt = initialise(TINY, 1)
    (everything,) = adamw(gpt, recipe().train).param_groups
    assert len(everything["params"]) == len(list(gpt.parameters()))
    matrices, spared = adamw(gpt, recipe().train.model_copy(update={"decay": "matrices"})).param_groups
    assert (matrices["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in spared["params"]} == {1}
    assert len(matrices["params"]) + len(spared["params"]) == len(everything["params"])


def test_its_updates_are_those_of_torchs_plain_adamw():
    fused, plain = initialise(TINY, 1), initialise(TINY, 1)
    train = recipe().train.model_copy(update={"learning_rate": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.3})
    ours = adamw(fused, train)
    theirs = torch.optim.AdamW(
        plain.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.3, foreach=False, fused=False
    )
    for step in range(3):
        for gpt, optimiser in ((fused, ours), (plain, theirs)):
            x_BT = torch.arange(16).view(2, 8) + step
            gpt(x_BT, x_BT + 1).backward()
            optimiser.step()
            optimiser.zero_grad()
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_moments_that_were_put_back_go_on_to_the_same_bits(decay):
    train = recipe().train.model_copy(update={"learning_rate": 1e-2, "decay": decay})

    def step(gpt, optimiser, number):
        x_BT = torch.arange(16).view(2, 8) + number
        gpt(x_BT, x_BT + 1).backward()
        optimiser.step()
        optimiser.zero_grad()

    gpt = initialise(TINY, 1)
    optimiser = adamw(gpt, train)
    for number in range(3):
        step(gpt, optimiser, number)
    copy = initialise(TINY, 2)
    copy.load_state_dict(gpt.state_dict())
    restored = adamw(copy, train)
    kept = {name: moment.clone().numpy() for name, moment in optim.state(gpt, optimiser).items()}
    optim.restore(copy, restored, kept, updates=3)
    for number in range(3, 6):
        step(gpt, optimiser, number)
        step(copy, restored, number)
    assert all(torch.equal(one, other) for one, other in zip(gpt.parameters(), copy.parameters(), strict=True))
