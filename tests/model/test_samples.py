"""Samples while training: after which steps, of what, and what they say where there is no tokenizer.

That they change no bit of a training, and that each is there once after any stop, is in test_train_bits.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import BATCH, CONTEXT, attempt, planned, sampled, stop_after, tiny

from farm.study.planner import Plan
from farm.study.run import Run
from farm.study.samples import Samples
from model import samples as samples_
from model.corpus.text import BUILTIN
from model.meter import Signal

STEPS = 25
TENTHS = [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25]


def longer(tokens: Path) -> Run:
    return tiny(tokens, train={"tokens": STEPS * BATCH * CONTEXT}, evaluation={"every": 0})


def save_after(step: int) -> Callable[[int], Signal]:
    return lambda seen: Signal.SAVE if seen == step - 1 else Signal.CONTINUE


def whole(run: Run) -> Plan:
    """A step in one microbatch, since nothing here is about more."""
    return planned(run, 1, BATCH)


def steps_of(run: Run, folder: Path, **asked: object) -> list[int]:
    """After which steps the model was sampled from; it is saved after step 7, which is no tenth of the run."""
    samples = Samples.model_validate({"tokens": 2} | asked)
    _, told = attempt(run, whole(run), folder, samples=samples, signals=save_after(7))
    assert [step for step, _, _ in told.saved] == [7, STEPS]
    return [one.step for one in sampled(folder)]


def test_by_default_each_checkpoint_is_sampled_from_and_each_tenth_of_the_run(tokens, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(samples_, "SHARE", 2.0)  # however long they take
    assert steps_of(longer(tokens), tmp_path) == sorted([*TENTHS, 7])


def test_checkpoints_are_passed_over_once_samples_have_taken_their_share(tokens, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(samples_, "SHARE", 0.0)
    assert steps_of(longer(tokens), tmp_path) == TENTHS


@pytest.mark.parametrize(("every", "expected"), [(10, [0, 10, 20, 25]), (0.5, [0, 13, 25]), (0, [])])
def test_every_says_after_which_steps_and_checkpoints_then_do_not_count(every, expected, tokens, tmp_path) -> None:
    assert steps_of(longer(tokens), tmp_path, every=every) == expected


def test_each_prompt_is_gone_on_from_in_the_words_of_the_tokenizer(tmp_path) -> None:
    built_in = {"data": {"source": BUILTIN}, "model": {"vocab": 257}}
    run = tiny(tmp_path, **built_in)
    asked = Samples(prompts=("def ", "Ελλάδα"), every=1.0, tokens=5, top_k=300)
    _, told = attempt(run, whole(run), tmp_path / "run", samples=asked)
    found = sampled(tmp_path / "run")
    assert [(one.step, one.prompt) for one in found][:4] == [(0, "def "), (0, "Ελλάδα"), (1, "def "), (1, "Ελλάδα")]
    for one in found:
        assert (one.tokenizer, one.top_k, one.seed, len(one.tokens)) == ("bytes", 300, 0, 5)
        spelled = [bytes([token]) if token < 256 else b"<|endoftext|>" for token in one.tokens]
        assert one.text == b"".join(spelled).decode(errors="replace")
    assert told.notes == []


def test_without_a_tokenizer_prompts_and_samples_are_token_ids_and_text_is_token_0(tokens, tmp_path) -> None:
    run = tiny(tokens)
    asked = Samples(prompts=("7 66", "Every effort", "67"), every=4.0, tokens=3)
    _, told = attempt(run, whole(run), tmp_path, samples=asked)
    found = sampled(tmp_path)
    assert [(one.step, one.prompt) for one in found] == [(0, "7 66"), (0, "0"), (4, "7 66"), (4, "0")]
    assert all(one.text == " ".join(map(str, one.tokens)) and one.tokenizer is None for one in found)
    ((event, detail),) = told.notes
    assert event == "samples-without-tokenizer"
    assert f"67 tokens are not GPT-2's: use the tokenizer that made {tokens}" in detail


def test_a_tokenizer_that_is_not_there_ends_no_training(tokens, tmp_path) -> None:
    run = tiny(tokens, data={"tokenizer": str(tmp_path / "gone.json")})
    outcome, told = attempt(run, whole(run), tmp_path / "run", samples=Samples(every=4.0))
    assert outcome.finished
    assert "gone.json: No such file or directory" in told.notes[0][1]
    assert [one.prompt for one in sampled(tmp_path / "run")] == ["0", "0"]


def test_a_training_that_is_not_sampled_from_reads_no_tokenizer(tokens, tmp_path) -> None:
    run = tiny(tokens, data={"tokenizer": str(tmp_path / "gone.json")})
    outcome, told = attempt(run, whole(run), tmp_path / "run", samples=Samples(every=0))
    assert outcome.finished
    assert told.notes == []


def test_samples_of_a_stopped_training_are_not_taken_again(tokens, tmp_path) -> None:
    """A stop leaves a checkpoint after a step that nothing else asks a sample of."""
    run, asked = longer(tokens), Samples(every=10, tokens=2)
    stopped, _ = attempt(run, whole(run), tmp_path, signals=stop_after(10), samples=asked)
    assert stopped.step == 10
    attempt(run, whole(run), tmp_path, resume=tmp_path / "1" / str(stopped.checkpoint), epoch=2, samples=asked)
    assert [one.step for one in sampled(tmp_path)] == [0, 10, 20, 25]
