"""Validation while training: it changes no bit of the training, and is the same number on any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import CONTEXT, SOME_TOKENS, attempt, corpus, planned, stop_after, tiny

from farm.errors import BadCorpus
from farm.study.recipe import Recipe
from model.corpus.checks import prepare, validation_slice
from model.corpus.look import look
from model.corpus.sources import open_split
from model.evaluate import evaluate
from model.group import Group
from model.init import initialise
from model.validation import Validator

ALONE = Group(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))


def test_a_run_may_go_on_without_it_to_the_same_bits(tokens: Path, tmp_path: Path) -> None:
    """As after a change of `evaluation.every`, which makes no other run of it. test_train_bits.py holds the rest."""
    on, off = (tiny(tokens, evaluation={"every": every}) for every in (2, 0))
    assert on.id == off.id
    plan = planned(on, 1)
    never, _ = attempt(on, plan, tmp_path / "never")
    stopped, before = attempt(on, plan, tmp_path / "home", signals=stop_after(2))
    known = SOME_TOKENS.model_copy(update={"validated": None})
    at = tmp_path / "home/1" / str(stopped.checkpoint)
    resumed, after = attempt(off, plan, tmp_path / "home", resume=at, epoch=2, tokens=known)
    assert resumed.fingerprints.final == never.fingerprints.final
    assert [line.step for line in before.lines + after.lines if line.validation] == [2]


def test_its_loss_is_that_of_the_tokens_behind_the_test(tokens: Path, tmp_path: Path) -> None:
    run = tiny(tokens, evaluation={"every": 1, "validation_sequences": 11})
    _, told = attempt(run, planned(run, 1), tmp_path)
    held_out = open_split(run.recipe.tested_data, "validation", tmp_path)
    start = 13 * CONTEXT  # the test reads 13 sequences from 0, and one token more to predict
    gpt = initialise(run.recipe.model, 1)
    one = Validator(run.recipe, held_out, "e" * 64, ALONE, 4).after(3, gpt, lambda: None)
    test = run.recipe.with_patch({"evaluation": {"offset": start, "sequences": 11}})
    expected = evaluate(gpt, test, held_out, ALONE, 4)
    assert one
    assert one.loss_sum / one.tokens == pytest.approx(expected.loss, rel=1e-15)
    assert (one.slice, one.tokens) == ("e" * 12, expected.tokens)
    assert gpt.training
    losses = [line.validation.loss_sum / line.validation.tokens for line in told.lines if line.validation]
    assert losses[-1] < losses[0], "it learns"
    assert all(0 < line.validation.seconds < 10 for line in told.lines if line.validation)


def test_a_loss_that_is_not_a_number_is_on_record_and_training_goes_on(tokens: Path) -> None:
    run = tiny(tokens)
    gpt = initialise(run.recipe.model, 1)
    with torch.no_grad():
        gpt.tokens.weight.fill_(float("nan"))
    found = Validator(run.recipe, np.zeros(4000, np.uint16), "e" * 64, ALONE, 4).after(1, gpt, lambda: None)
    assert found
    assert found.loss_sum != found.loss_sum


@pytest.mark.parametrize(
    ("evaluation", "tokens", "expected"),
    [
        ({"offset": 0, "sequences": 13}, 4000, range(104, 104 + 65)),
        ({"offset": 0, "sequences": 13, "validation_sequences": 2}, 104 + 17, range(104, 104 + 17)),
        ({"offset": 80, "sequences": 13}, 185, range(16, 16 + 65)),  # the split ends there: before it
        ({"offset": 80, "sequences": 13, "validation_sequences": 10}, 185, range(81)),
        ({"offset": 24, "sequences": 13}, 129, range(25)),  # room for three alone, and none were asked for
        ({"offset": 0, "sequences": 13}, 105, None),
        ({"offset": 0, "sequences": 13, "every": 0}, 4000, None),
        ({"offset": 80, "sequences": 13, "validation_sequences": 11}, 185, None),
    ],
)
def test_the_slice_lies_behind_the_test_or_before_it(
    evaluation: dict[str, Any], tokens: int, expected: range | None
) -> None:
    recipe = tiny(Path("/nowhere")).recipe.with_patch({"evaluation": evaluation})
    assert validation_slice(recipe, tokens) == expected


def test_no_token_is_trained_on_or_tested_and_validated() -> None:
    """Each token is predicted by one of the three at most, wherever the test lies in the file that is trained on."""
    recipe = tiny(Path("/nowhere")).recipe.with_patch({"data": {"split": "all"}, "evaluation": {"split": "all"}})
    learnt = recipe.steps * recipe.tokens_per_step
    for offset in range(learnt, learnt + 120, 7):
        for behind in (0, 8, 100):
            size = offset + 13 * CONTEXT + 1 + behind
            found = validation_slice(recipe.with_patch({"evaluation": {"offset": offset}}), size)
            if found is None:
                assert offset - learnt < CONTEXT > behind
                continue
            predicted = set(found[1:])
            assert not predicted & set(range(1, learnt + 1))
            assert not predicted & set(range(offset + 1, offset + 13 * CONTEXT + 1))
            assert max(predicted) < size


def test_prepare_says_which_tokens_are_validated_on_and_refuses_what_has_no_room(tmp_path: Path) -> None:
    source, cache = corpus(tmp_path, 400), tmp_path / "cache"
    run = tiny(source)
    found = prepare(run.recipe, cache)
    assert found.validated not in (None, found.tested, found.trained)
    off = prepare(run.recipe.with_patch({"evaluation": {"every": 0}}), cache)
    assert off == found.model_copy(update={"validated": None})
    many = run.recipe.with_patch({"evaluation": {"validation_sequences": 37}})
    with pytest.raises(BadCorpus, match=r"no.*room for evaluation.validation_sequences = 37.*Lower it to 36") as caught:
        prepare(many, cache)
    assert [str(fault) for fault in look(many, cache, trains_here=True).faults] == [str(caught.value)]
    crowded = run.recipe.with_patch({"evaluation": {"sequences": 49}})
    assert prepare(crowded, cache).validated is None, "none was asked for, and the test leaves no room"
    assert not look(crowded, cache, trains_here=True).faults


def test_another_name_of_the_file_that_is_trained_on_is_found_out(tmp_path: Path) -> None:
    (corpus(tmp_path, 600) / "validation.bin").unlink()
    (tmp_path / "validation.bin").symlink_to(tmp_path / "train.bin")
    recipe: Recipe = tiny(tmp_path).recipe.with_patch({"evaluation": {"offset": 495}})
    with pytest.raises(BadCorpus, match=r"training reads the first 256 tokens.*that a validation reads from token"):
        prepare(recipe.with_patch({"evaluation": {"validation_sequences": 40}}), tmp_path / "cache")
