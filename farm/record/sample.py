"""The samples of models in training: a JSON line each, appended beside the ledger of their attempt.

`<run folder>/<epoch>/samples.jsonl` begins, as the ledger does, with the attempt and the step that this one goes on
from. So the attempts form a chain, and reading it gives each sample once, however often the run was resumed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from farm.record.lines import JsonLines
from farm.stats import thin_out
from farm.study.recipe import Frozen

SCHEMA = "farm.samples/1"
FILE = "samples.jsonl"


class Sample(Frozen):
    """How a model went on from a prompt after a step. Prompt and text are foreign text: markup in them means nothing.

    Without a tokenizer both are token ids with blanks between them.
    """

    step: int = Field(ge=0, description="0: before the first")
    prompt: str
    text: str = Field(description="what follows the prompt")
    tokens: tuple[int, ...] = Field(description="its tokens; fewer than asked for if a prediction is not finite")
    tokenizer: str | None = Field(description="that made text of them; None: there is none")
    temperature: float
    top_k: int
    seed: int
    seconds: float = Field(ge=0, description="that training waited for it")


class SampleHeader(Frozen):
    """The first line of a file of samples."""

    farm: Literal["farm.samples/1"] = Field(alias="schema")
    epoch: int = Field(ge=1)
    from_epoch: int | None
    from_step: int = Field(ge=0)


class SampleFile(NamedTuple):
    """The samples of one attempt, up to the first line that cannot be read: it may have been killed in the middle."""

    header: SampleHeader
    samples: list[Sample]


class SampleWriter(JsonLines):
    """Appends to the samples of one attempt: see `JsonLines`."""

    def __init__(self, path: Path, epoch: int, from_epoch: int | None = None, from_step: int = 0):
        super().__init__(path)
        self.write({"schema": SCHEMA, "epoch": epoch, "from_epoch": from_epoch, "from_step": from_step})

    def append(self, sample: Sample) -> None:
        """Add one sample."""
        self.write(sample.model_dump(mode="json"))


def parse(content: bytes) -> SampleFile | None:
    """A file of samples; None where its first line cannot be read."""
    first, *rest = content.split(b"\n")
    try:
        header = SampleHeader.model_validate_json(first)
    except ValidationError:
        return None
    return SampleFile(header, list(_whole(rest)))


def _whole(lines: Sequence[bytes]) -> Iterator[Sample]:
    for line in lines:
        try:
            yield Sample.model_validate_json(line)
        except ValidationError:
            return


def chain(files: Mapping[int, SampleFile]) -> list[Sample]:
    """The samples of a run as its newest attempt knows them: its own, behind those of the attempts that it goes on
    from, each up to where the next took over. A file that is missing ends the chain: samples are only to be looked at.
    """
    rest, found = dict(files), list[Sample]()
    epoch, until = max(files, default=None), None
    while epoch in rest:
        header, samples = rest.pop(epoch)  # once each, whatever a damaged header says
        found = [one for one in samples if until is None or one.step <= until] + found
        epoch, until = header.from_epoch, header.from_step if until is None else min(until, header.from_step)
    return found


def thin(samples: Sequence[Sample], prompt: str, count: int) -> list[Sample]:
    """At most `count` samples of one prompt, from the first to the last at even distances: how it became coherent."""
    return thin_out([one for one in samples if one.prompt == prompt], count)
