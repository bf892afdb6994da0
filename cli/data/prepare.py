"""`farm data prepare SOURCE FOLDER`"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render
from cli.data.source import Revision, Source, TextField, TokenizerName, check_installed, data_of, watching
from cli.options import Json
from cli.render import Column, Sheet, say
from farm.site.settings import Settings
from farm.study.processor import cores

if TYPE_CHECKING:
    from model.corpus.preparing import Done

Out = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of tokens to make.", show_default=False)]
Validation = Annotated[
    str | None,
    typer.Option(
        "--validation",
        metavar="SHARE|TOKENS",
        help="Hold out this much: 0.01, 1% or 1_000_000. Default: the source's own validation split, else 1%.",
    ),
]
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", min=1, help="Processes at work; default: one for each core.")
]

COLUMNS = (
    Column("part", "part"),
    Column("tokens", "tokens", render.count, is_number=True),
    Column("documents", "documents", render.count, is_number=True),
    Column("fingerprint", "fingerprint", lambda value: value[:12]),
    Column("file", "file", render.text),
)


def prepare(
    source: Source,
    folder: Out,
    validation: Validation = None,
    tokenizer: TokenizerName = "gpt2",
    text_field: TextField = "text",
    revision: Revision = None,
    processes: Processes = None,
    as_json: Json = False,
) -> None:
    """Make a folder of tokens from text or from tokens in another format.

    Parquet, JSON lines and text (also .gz and .zst), numpy arrays, and shards of tokens become train.safetensors and
    validation.safetensors, with one vector of uint16 each, and a manifest with the fingerprints of inputs, tokenizer
    and outputs. Whole documents from all over the source are held out, or its end if it has fewer than 100. After an
    interruption, the same command goes on where it was, with the same result to the byte; after it has finished, it
    does nothing.
    """
    check_installed("pyarrow", "tiktoken")
    from model.corpus.holdout import parse
    from model.corpus.preparing import prepare as make

    data, folder = data_of(source, tokenizer, text_field, revision), folder.expanduser().absolute()
    asked = None if validation is None else parse(validation)
    began, first = time.monotonic(), -1
    with watching("tokens") as show:

        def watch(done: "Done") -> None:
            nonlocal first
            if done.note != "tokens":
                return show(done.bytes, done.total, done.note)
            first = done.tokens if first < 0 else first
            speed = (done.tokens - first) / max(1e-9, time.monotonic() - began)
            return show(done.bytes, done.total, f"{done.tokens:,} tokens, {speed:,.0f} a second")

        cache = Settings.load(through_tunnel=False).home / "cache"
        try:
            outcome = make(data, asked, folder, cache, processes or cores(), watch)
        except KeyboardInterrupt:
            say("interrupted; the same command goes on where it was")
            raise
    seconds = time.monotonic() - began
    parts = outcome.manifest.parts
    rows: list[dict[str, Any]] = [{"part": split} | made.model_dump(mode="json") for split, made in parts.items()]
    more = {"folder": str(folder), "outcome": outcome.why, "seconds": seconds, "key": outcome.manifest.key}
    render.emit(Sheet("farm.data-prepare/1", COLUMNS, rows, more=more), as_json=as_json)
    for remark in outcome.remarks:
        say(f"data: {remark}")
    total = sum(made.tokens for made in parts.values())
    if outcome.why == "there already":
        say(f"{folder} holds these tokens already; nothing was done")
    else:
        said = {"made": "made", "went on": "went on where it was"}.get(outcome.why, outcome.why)
        say(f"{folder}: {said}, {total:,} tokens in {render.duration(seconds)}")
    if not as_json:
        render.say_next(f"farm data show {folder}", f"farm data push {folder} OWNER/NAME")
