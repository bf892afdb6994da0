"""`farm sample RUN`"""

import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cli import render
from cli.access import queue, run_of
from cli.network import check_torch, network
from cli.options import Json, RunName
from cli.render import Column, Sheet, say
from farm.errors import BadCorpus, BadSetting, NotFound, Unreadable
from farm.record.store import open_store
from farm.site.settings import Settings
from farm.study.faults import explain
from farm.study.run import Run
from farm.study.samples import PROMPT, Samples

if TYPE_CHECKING:
    from model.corpus.reader import Reader

MOST_BYTES = 2**20  # of a file of prompts
REMEDIES = {
    "prompts": f'Write a text to go on from: --prompt "{PROMPT}"',
    "tokens": "Write how many tokens are to follow: --tokens 20",
    "temperature": "Write --temperature 1 for the model's own probabilities, or 0 for the likeliest token each time.",
    "top_k": "Write --top-k 25 to draw from the 25 likeliest tokens, or the size of the vocabulary to draw from all.",
    "seed": "Write a whole number from 0 on: --seed 1",
}
COLUMNS = (
    Column("run", "run", is_spare=True),
    Column("step", "step", render.count, is_number=True),
    Column("prompt", "prompt", render.text, is_prose=True),
    Column("text", "goes on", render.text, is_prose=True),
)
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="Go on from this; repeatable. Default: the study's."),
]
PromptFile = Annotated[
    Path | None,
    typer.Option("--prompts", metavar="FILE", help="Go on from each line of this file; - is standard input."),
]
Tokens = Annotated[int | None, typer.Option("--tokens", help="How many tokens follow. Default: the study's.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="0: always the likeliest token. Default: the study's.")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw from so many tokens. Default: the study's.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the draws. Default: the study's.")]
Step = Annotated[
    int | None, typer.Option("--checkpoint", metavar="STEP", help="The step of a kept checkpoint. Default: the last.")
]


def sample(
    run: RunName,
    prompt: Prompts = None,
    prompts: PromptFile = None,
    tokens: Tokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    seed: Seed = None,
    checkpoint: Step = None,
    as_json: Json = False,
) -> None:
    """Have a run's model go on from a prompt, on this machine's CPU.

    The final weights; for a run that has none yet, those of its newest intact checkpoint. Options that are left out
    take the values of the study's [samples], so that without any this repeats the last sample of the training.
    `farm show` shows the samples of the training.
    """
    given = [*(prompt or ()), *(_lines(prompts) if prompts else ())]
    asked: dict[str, Any] = {"tokens": tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
    asked["prompts"] = tuple(dict.fromkeys(given)) if prompt or prompts else None
    asked = {name: value for name, value in asked.items() if value is not None}
    _check(asked)
    settings, how = Settings.load(), Samples()
    with queue(settings) as open_queue:
        status = run_of(open_queue, run)
        with suppress(NotFound, Unreadable):  # the study was forgotten, or is spoilt: its runs are not
            how = open_queue.studies.one(status.study).samples
    how = how.model_copy(update=asked)
    check_torch("Sample where the farm trains: pip install farm[node].")
    by = _reader(status.run)
    starts = [_start(by, one, is_asked="prompts" in asked) for one in how.prompts]
    with open_store(settings.storage) as store:
        found = network(store, status, checkpoint)
    from model.samples import take

    taken = [take(found.gpt, by, start, how, found.step) for start in starts]
    rows = [{"run": status.id} | one.model_dump(mode="json") for one in taken]
    render.emit(Sheet("farm.sample/1", COLUMNS, rows), as_json=as_json)
    if not found.is_final:
        say(f"{status.id} is {status.state}: this is step {found.step:,} of {status.run.recipe.steps:,}")
    context = status.run.recipe.model.context
    for start in (start for start in starts if len(start) > context):
        say(f"a prompt of {len(start):,} tokens: the model reads the last {context:,} of them")
    if by.missing:
        say(f"no tokenizer: {by.missing}; prompts and samples are token ids")


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not empty.

    Raises: BadSetting: it cannot be read, is not UTF-8, or has none.
    """
    remedy = "Name a text file in UTF-8 with a prompt on each line."
    try:
        with (
            nullcontext(sys.stdin.buffer if sys.stdin else BytesIO())
            if file == Path("-")
            else file.open("rb") as source
        ):
            content = source.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise BadSetting(f"--prompts {file} has more than {MOST_BYTES:,} bytes.", remedy=remedy)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise BadSetting(f"--prompts {file}: {error.strerror}.", remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise BadSetting(f"--prompts {file} is not UTF-8: byte {error.start:,} is not.", remedy=remedy) from None
    if lines := [line for line in text.replace("\r\n", "\n").split("\n") if line]:
        return lines
    raise BadSetting(f"--prompts {file} holds no prompt.", remedy=remedy)


def _check(asked: dict[str, Any]) -> None:
    """Raises: BadSetting: a line for each option that cannot be."""
    try:
        Samples.model_validate(asked)
    except ValidationError as error:
        first, *more = _faults(error)
        raise BadSetting(first, also=tuple(more)) from None


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in explain(error, Samples):
        field = str(fault.place[0])
        option = "--prompt" if field == "prompts" else f"--{field.replace('_', '-')}"
        yield f"{option}: {fault.line.partition(': ')[2]}. {REMEDIES[field]}"


def _reader(run: Run) -> "Reader":
    """Raises: BadCorpus, Unreachable"""
    from model.corpus.reader import reader

    try:
        return reader(run.recipe)
    except BadCorpus as error:
        raise BadCorpus(
            f"the tokenizer of {run.id} is not available here: {error.message}",
            remedy="Copy it here under that name, or run this where the farm trains.",
        ) from None


def _start(by: "Reader", prompt: str, *, is_asked: bool) -> list[int]:
    """The tokens of a prompt. Where there is no tokenizer, those of the study may be text: then it is one token.

    Raises: BadSetting
    """
    try:
        return by.tokens(prompt)
    except ValueError as error:
        if is_asked:
            raise BadSetting(f"--prompt: {error}.", remedy=f"This run has no tokenizer: {by.missing}.") from None
        return [by.start]
