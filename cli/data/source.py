"""What the commands of `farm data` share: a source as it is typed, and the progress of reading one."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from cli.progress import bars
from cli.render import say
from farm.errors import BadSetting, FarmError, NotFound
from farm.study.recipe import Data

REMOTE = ("hf:", "s3://", "builtin:")
TENTHS = 10  # without a terminal, a line for every tenth of the work
MIB = 2**20
LITTLE_BYTES = 16 * MIB  # of less, no line is written

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A file or folder, hf:OWNER/NAME, s3://BUCKET/PREFIX, or builtin:python-reference."
    ),
]
TokenizerName = Annotated[
    str, typer.Option("--tokenizer", metavar="NAME", help='"gpt2", "bytes", or the path of a tokenizer.json.')
]
TextField = Annotated[
    str, typer.Option("--text-field", metavar="FIELD", help="The column or key that holds a document's text.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REVISION", help="Commit, tag or branch of an hf: source.")
]


def data_of(source: str, tokenizer: str, text_field: str, revision: str | None) -> Data:
    """What is typed as the corpus that a recipe would name.

    Raises: NotFound: no such file or folder. BadSetting
    """
    if source.startswith("hf:"):
        check_installed("huggingface_hub")
    if not source.startswith(REMOTE):
        path = Path(source).expanduser().absolute()
        if not path.exists():
            raise NotFound(
                f"{source} does not exist.", remedy="Name a file or folder, or hf:OWNER/NAME for a repo of the Hub."
            )
        source = str(path)
    if tokenizer not in ("gpt2", "bytes"):
        tokenizer = str(Path(tokenizer).expanduser().absolute())
        if not Path(tokenizer).exists():
            raise NotFound(f"{tokenizer} does not exist.", remedy='Name a tokenizer.json, or "gpt2" or "bytes".')
    try:
        return Data(source=source, tokenizer=tokenizer, text_field=text_field, revision=revision)
    except ValidationError as error:
        raise BadSetting(f"{source}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.") from None


def check_installed(*packages: str) -> None:
    """Raises: FarmError: this is a light client, without the libraries that read text or reach the Hub."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise FarmError(f"{', '.join(missing)} not installed here.", remedy="Try: pip install 'farm[data]'")


@contextmanager
def watching(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """What takes the bytes behind, those of all, and a note: a bar on a terminal, a line for each tenth elsewhere."""
    if not sys.stderr.isatty():
        yield _Tenths(what)
        return
    with bars() as progress:
        bar: Any = progress.add_task(f"{what}, MiB", total=None, note="")

        def show(behind: int, total: int, note: str) -> None:
            progress.update(bar, completed=behind // MIB, total=-(-total // MIB), note=note)

        yield show


class _Tenths:
    """A line on stderr for each tenth of a piece of work, and none of what is over at once."""

    def __init__(self, what: str):
        self.what, self.told = what, 0

    def __call__(self, behind: int, total: int, note: str) -> None:
        tenth = behind * TENTHS // total if total else TENTHS
        if self.told < tenth < TENTHS and total >= LITTLE_BYTES:
            say(f"{self.what}: {behind / MIB:,.0f} of {total / MIB:,.0f} MiB{', ' if note else ''}{note}")
        self.told = tenth
