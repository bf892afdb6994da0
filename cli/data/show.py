"""`farm data show SOURCE`"""

from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.data.source import Revision, Source, TextField, check_installed, data_of, watching
from cli.options import Json
from cli.render import Column, Sheet, say
from farm.site.settings import Settings

TokenizerOrOwn = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="NAME",
        help='"gpt2", "bytes", or the path of a tokenizer.json. Default: what the folder says, else gpt2.',
    ),
]

COLUMNS = (
    Column("split", "part"),
    Column("tokens", "tokens", render.count, is_number=True),
    Column("documents", "documents", render.count, is_number=True),
    Column("vocabulary", "vocabulary", render.count, is_number=True),
    Column("largest", "largest token", render.count, is_number=True, is_spare=True),
    Column("fingerprint", "fingerprint", render.or_unknown(lambda value: value[:12])),
    Column("first_words", "first words", render.text, is_prose=True),
)


def show(
    source: Source,
    tokenizer: TokenizerOrOwn = None,
    text_field: TextField = "text",
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Show how many tokens and documents a source has, their fingerprint, and how it begins.

    What is remote is fetched, and up to 64 MiB of text is tokenised, as a run that trains on it would do. The
    fingerprint is the sha256 of all tokens of the part, whatever file or files they lie in. The vocabulary is the
    tokenizer's.
    """
    check_installed("pyarrow", "tiktoken")
    from model.corpus import token_folder
    from model.corpus.contents import contents

    folder = Path(source).expanduser()
    manifest = token_folder.read(folder) if folder.is_dir() else None
    made_by = manifest.tokenizer if manifest and tokenizer is None else None
    named = made_by.name if made_by and made_by.sha256 is None else "gpt2"
    data, cache = (
        data_of(source, tokenizer or named, text_field, revision),
        Settings.load(through_tunnel=False).home / "cache",
    )
    own = made_by if made_by and made_by.sha256 else None
    with watching("reading") as progress:
        shown = contents(data, cache, lambda behind, total: progress(behind, total, ""), own)
    rows = [one._asdict() | {"vocabulary": shown.vocabulary} for one in shown.splits]
    more = {"source": data.source, "manifest": manifest}
    render.emit(Sheet("farm.data-show/1", COLUMNS, rows, more=more), as_json=as_json)
    for remark in shown.remarks:
        say(f"data: {remark}")
