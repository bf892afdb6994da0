"""The [samples] table of a study: the prompts that a model in training goes on from, how, and after which steps."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from farm.study.recipe import MAX_TOKENS, Frozen, Seed, Unset, is_due

PROMPT = "Every effort moves you"
LONGEST = 10_000  # characters of a prompt
MOST_PROMPTS, MOST_TOKENS = 32, 10_000
TENTH = 0.1  # of a run, where `every` is unset: ten samples and that of step 0, however short the run is


def _prompt(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text):,} characters; at most {LONGEST:,} are read")
    if any("\ud800" <= character <= "\udfff" for character in text):  # as Python keeps bytes that are not UTF-8
        raise ValueError("must be UTF-8")
    return text


def _prompts(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("must be a list of prompts")
    if isinstance(value, list):
        if len(set(map(str, value))) < len(value):
            raise ValueError("names one twice")
        return tuple(value)
    return value


Prompt = Annotated[str, AfterValidator(_prompt)]


class Samples(Frozen):
    """The samples that are taken of a model, and when. None of it changes a bit of the training, or a run's id."""

    prompts: Annotated[tuple[Prompt, ...], BeforeValidator(_prompts)] = Field(
        (PROMPT,), min_length=1, max_length=MOST_PROMPTS, description="texts that the model goes on from"
    )
    every: Annotated[float | None, Unset] = Field(
        None,
        ge=0,
        le=MAX_TOKENS,
        description="how often: a share of the run (below 1), or a number of steps; also before the first step and"
        " after the last. 0: never. Unset: ten times in a run, and with each checkpoint as long as samples take less"
        " than 1 % of the time",
    )
    tokens: int = Field(20, ge=1, le=MOST_TOKENS, description="how many tokens follow each prompt")
    temperature: float = Field(
        1.0,
        ge=0,
        description="logits are divided by it: below 1, likely tokens become likelier; 0: always the likeliest",
    )
    top_k: int = Field(
        25, ge=1, description="draw from this many of the likeliest tokens; from all if there are no more"
    )
    seed: Seed = Field(0, description="seed of the draws; each prompt has its own generator")

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.every is not None and self.every >= 1 and self.every != int(self.every):
            raise ValueError(f"samples.every = {self.every:g} must be a share below 1 or a whole number of steps")
        return self

    @property
    def with_checkpoints(self) -> bool:
        """Whether a checkpoint that is made while training goes on is sampled from, too."""
        return self.every is None

    def is_due(self, step: int, steps: int) -> bool:
        """Whether a model is sampled from after optimiser step `step`, 0 being before the first."""
        every = TENTH if self.every is None else self.every
        return every > 0 if step == 0 else is_due(every, step, steps)
