"""`farm data push FOLDER OWNER/NAME`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.data.source import check_installed
from cli.options import Json
from cli.render import Column, Sheet, say
from farm.site.settings import Settings

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder that farm data prepare made.", show_default=False)
]
Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The dataset repo, made if need be.")]

COLUMNS = (
    Column("file", "file"),
    Column("bytes", "bytes", render.count, is_number=True),
    Column("now", "now"),
)


def push(
    folder: Folder,
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; show what would be sent.")] = False,
    as_json: Json = False,
) -> None:
    """Send a folder of tokens to the Hugging Face Hub, as a dataset repo that farm and others can read.

    The token (HF_TOKEN, or that of hf auth login) and the folder are checked before anything is sent, also with
    --dry-run. Only what changed is sent, as one commit: all of it shows, or nothing. A README.md in the folder is sent
    along; without one, a new repo gets a page that says what the tokens are.
    """
    check_installed("huggingface_hub")
    from huggingface_hub.utils import disable_progress_bars

    from model.corpus.push import push as send
    from model.hub import size_of

    if as_json or not sys.stderr.isatty():
        disable_progress_bars()
    cache = Settings.load(through_tunnel=False).home / "cache"
    pushed = send(folder.expanduser().absolute(), repo, cache, private=private, dry_run=dry_run)
    rows = [one._asdict() for one in pushed.files]
    more = {
        "repo": pushed.repo,
        "is_new": pushed.is_new,
        "commit": pushed.commit,
        "url": pushed.url,
        "dry_run": dry_run,
    }
    render.emit(Sheet("farm.data-push/1", COLUMNS, rows, more=more), as_json=as_json)
    size = size_of(pushed.files)
    if all(one.now == "unchanged" for one in pushed.files):
        say(f"{pushed.url} holds all of it already; nothing {'would be' if dry_run else 'was'} sent")
    elif dry_run:
        say(f"dry run: {size} would be sent to {pushed.url}{', a new repo' if pushed.is_new else ''}")
    else:
        say(f"{pushed.url}: {size}, commit {pushed.commit}")
        if not as_json:
            render.say_next(f"farm data show hf:{repo}")
