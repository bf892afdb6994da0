"""The [samples] table: after which steps, what cannot be, and that it changes no run's id."""

import pytest
from results import study_text

from farm.errors import BadStudy
from farm.study.samples import Samples
from farm.study.study import Study

TEXT = study_text()


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [
        (None, 100, [*range(0, 101, 10)]),
        (None, 7, [0, 1, 2, 3, 4, 5, 6, 7]),
        (None, 25, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25]),
        (0.3, 10, [0, 3, 6, 9, 10]),
        (4.0, 10, [0, 4, 8, 10]),
        (1000.0, 10, [0, 10]),
        (0.0, 10, []),
    ],
)
def test_samples_are_due_before_the_first_step_at_even_distances_and_after_the_last(every, steps, due) -> None:
    asked = Samples(every=every)
    assert [step for step in range(steps + 1) if asked.is_due(step, steps)] == due
    assert asked.with_checkpoints == (every is None)


def test_a_study_has_the_series_prompt_and_may_say_more() -> None:
    assert Study.parse(TEXT).samples == Samples()
    assert Samples().model_dump() == {
        "prompts": ("Every effort moves you",),
        "every": None,
        "tokens": 20,
        "temperature": 1.0,
        "top_k": 25,
        "seed": 0,
    }
    more = Study.parse(TEXT + '[samples]\nprompts = ["a", "[b]"]\nevery = 50\ntemperature = 0\n').samples
    assert (more.prompts, more.every, more.temperature) == (("a", "[b]"), 50.0, 0.0)
    assert Study.parse(TEXT + '[samples]\nevery = "none"').samples.every is None


def test_samples_are_no_part_of_a_runs_id_or_of_a_run() -> None:
    plain, watched = (Study.parse(TEXT + more).runs() for more in ("", '[samples]\nprompts = ["a"]\nevery = 0.5\n'))
    assert plain == watched


def test_a_study_with_samples_survives_its_way_through_the_queue() -> None:
    study = Study.parse(TEXT + '[samples]\nprompts = ["a\\nb", "🙂"]\n')
    assert Study.model_validate_json(study.model_dump_json()) == study


FAULTS = {
    "prompts = []": "samples.prompts: must name at least 1.",
    'prompts = "Every effort"': "samples.prompts: must be a list of prompts, not 'Every effort';"
    ' write prompts = ["Every effort"].',
    'prompts = ["a", ""]': "samples.prompts.1: must not be empty, not ''.",
    'prompts = ["a", "a"]': "samples.prompts: names one twice.",
    f'prompts = ["{"a" * 10_001}"]': "samples.prompts.0: has 10,001 characters; at most 10,000 are read",
    "prompts = [3]": "samples.prompts.0: must be text, not 3.",
    "top_k = 0": "samples.top_k: must be at least 1, not 0.",
    "temperature = -0.5": "samples.temperature: must be at least 0, not -0.5.",
    "temperature = inf": "samples.temperature: must be a finite number, not inf.",
    "temperature = nan": "samples.temperature: must be a finite number, not nan.",
    "tokens = 0": "samples.tokens: must be at least 1, not 0.",
    "tokens = 10001": "samples.tokens: must be at most 10,000, not 10001.",
    "every = 1.5": "samples: samples.every = 1.5 must be a share below 1 or a whole number of steps.",
    "every = -1": "samples.every: must be at least 0, not -1.",
    "seed = -1": "samples.seed: must be at least 0, not -1.",
    "topk = 5": "samples.topk: unknown key; did you mean 'top_k'?",
    'prompt = "a"': "samples.prompt: unknown key; did you mean 'prompts'?",
}


@pytest.mark.parametrize("line", FAULTS)
def test_what_cannot_be_is_named_with_the_right_form(line: str) -> None:
    with pytest.raises(BadStudy) as caught:
        Study.parse(f"{TEXT}[samples]\n{line}\n", "s.toml")
    assert caught.value.lines[0].removeprefix("s.toml: ").startswith(FAULTS[line].rstrip("."))


def test_the_table_by_another_name() -> None:
    with pytest.raises(BadStudy, match=r"did you mean \[samples\]\?"):
        Study.parse(f"{TEXT}[sampling]\ntop_k = 5\n")
