"""`farm data push FOLDER OWNER/NAME`"""

from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.data.source import check_installed
from cli.options import Json
from cli.render import Sheet
from cli.sending import FILES, hide_bars, say_outcome
from farm.site.settings import Settings

Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder that farm data prepare made.", show_default=False)
]
Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The dataset repo, made if need be.")]


def push(
    folder: Folder,
    repo: Repo,
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; show what would be sent.")] = False,
    as_json: Json = False,
) -> None:
    """Send a folder of tokens to the Hugging Face Hub, as a dataset repo that farm and others can read.

    The token (HF_TOKEN, or that of hf auth login) and the folder are checked before anything is sent, also with
    --dry-run, which shows every file where it cannot ask the Hub what is there. Only what changed is sent, as one
    commit: all of it shows, or nothing. A README.md in the folder is sent along; without one, a new repo gets a page
    that says what the tokens are.
    """
    check_installed("huggingface_hub")
    from model.corpus.push import push as send

    hide_bars(as_json)
    cache = Settings.load(through_tunnel=False).home / "cache"
    pushed = send(folder.expanduser().absolute(), repo, cache, private=private, dry_run=dry_run)
    more = pushed._asdict() | {"dry_run": dry_run}
    rows = [one._asdict() for one in more.pop("files")]
    render.emit(Sheet("farm.data-push/1", FILES, rows, more=more), as_json=as_json)
    say_outcome(pushed.url, pushed.files, pushed.commit, pushed.unanswered, is_new=pushed.is_new, dry_run=dry_run)
    if pushed.commit and not as_json:
        render.say_next(f"farm data show hf:{repo}")
