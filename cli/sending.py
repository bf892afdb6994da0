"""What the commands that send to the Hugging Face Hub share: the files as they show, and how it came out."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli import render
from cli.render import Column, say

if TYPE_CHECKING:
    from model.hub import Sent

FILES = (
    Column("file", "file"),
    Column("bytes", "bytes", render.count, is_number=True),
    Column("now", "now"),
)


def hide_bars(as_json: bool) -> None:
    """The progress of huggingface_hub is for a person at a terminal."""
    from huggingface_hub.utils import disable_progress_bars

    if as_json or not sys.stderr.isatty():
        disable_progress_bars()


def say_outcome(
    url: str,
    files: "Sequence[Sent]",
    commit: str | None,
    unanswered: str | None,
    *,
    is_new: bool | None,
    dry_run: bool,
) -> None:
    """What was sent to `url`, or would be; `unanswered` says why the Hub could not be asked what it has."""
    from model.hub import size_of

    if unanswered:
        say(f"dry run: {unanswered} Unless it is there, this would be sent to {url}: {size_of(files)}")
    elif all(one.now in ("unchanged", "kept") for one in files):
        say(f"{url} holds all of it already; nothing {'would be' if dry_run else 'was'} sent")
    elif dry_run:
        say(f"dry run: {size_of(files)} would be sent to {url}{', a new repo' if is_new else ''}")
    else:
        say(f"{url}: {size_of(files)}" + (f", commit {commit}" if commit else ""))
