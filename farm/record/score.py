"""A trained model's score by one evaluation: a number that can be ranked, and what it was made from.

A score lies beside the result of its run. It says by which evaluation it was made (the id covers the code, the slice,
the precision and the checkpoint rule), of which weights it is, and how sure it is; the values of its items lie beside
it, so that two models can be compared item by item.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from farm.record.result import Hardware
from farm.stats import mean, sd
from farm.study.recipe import Frozen, Precision
from farm.study.run import Name

if TYPE_CHECKING:
    import numpy as np

Direction = Literal["lower", "higher"]
MOST_BLOCKS = 256  # an error from so many has one of 4 % itself, and Redis keeps them: 5 kB a score
NATS = "nats per token"


class Score(Frozen):
    """Written once, when all of its items are scored. Never changes after."""

    run_id: str = Field(description="the run that trained the model")
    name: Name = Field(description="of the evaluation, as the study calls it")
    evaluation: str = Field(description="id of the evaluation: only scores that agree in it may be compared")
    definition: dict[str, Any] = Field(description="all that the id stands for")
    value: float
    unit: str = NATS
    direction: Direction = Field("lower", description="which is better")
    count: int = Field(ge=1, description="items; of a slice of tokens its sequences")
    standard_error: float | None = Field(
        None, ge=0, description="of the value, if the items are a sample of many; None for a single one"
    )
    blocks: tuple[float, ...] = Field(
        min_length=1, max_length=MOST_BLOCKS, description="mean of each of the blocks of consecutive items"
    )
    items: str = Field(description="sha256 of what was scored, such as the tokens of a slice")
    weights: str = Field(description="sha256 of the weights that were scored, as the result has it")
    values: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the file with the value of each item")
    code: str = Field(description="sha256 over the installed sources of farm, model and workers")
    hardware: Hardware
    precision: Precision
    when: float = Field(description="Unix seconds")
    epoch: int = Field(ge=0, description="of the lease under which it was computed")

    @model_validator(mode="after")
    def _has_a_block_for_so_many(self) -> Self:
        if len(self.blocks) != min(self.count, MOST_BLOCKS):
            raise ValueError(f"{len(self.blocks)} blocks of {self.count} items; must be {min(self.count, MOST_BLOCKS)}")
        return self

    @property
    def file(self) -> str:
        """The name of its file, without the end: an evaluation's id as every file system and bucket takes it."""
        return self.evaluation.replace("@", "-")


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of `values`, if they are a sample of many; None for a single one."""
    spread = sd(values)
    return None if spread is None else spread / sqrt(len(values))


def blocks(values: Sequence[float]) -> tuple[float, ...]:
    """The means of at most MOST_BLOCKS blocks of consecutive values, as equal in length as can be.

    Block i of two models holds the same items, so the difference of two models can be judged from them. Neighbours are
    often parts of one document, which makes them alike: their mean counts as one observation, as it should.
    """
    count = min(len(values), MOST_BLOCKS)
    edges = [len(values) * i // count for i in range(count + 1)]
    return tuple(mean(values[first:last]) for first, last in pairwise(edges))


def block_sizes(count: int) -> list[int]:
    """How many of `count` items each block holds."""
    many = min(count, MOST_BLOCKS)
    return [count * (i + 1) // many - count * i // many for i in range(many)]


def pack(values: Sequence[float]) -> bytes:
    """The values of the items as a safetensors file: one float64 each, under the name `values`."""
    import numpy as np
    from safetensors.numpy import save

    return save({"values": np.asarray(values, dtype=np.float64)})


def unpack(content: bytes) -> "np.ndarray":
    """The values in a file that `pack` made. Raises: ValueError: it did not make this."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(content)["values"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"not the values of a score: {error}") from None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
