"""`farm logs RUN [-f]`"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.access import queue, run_of
from cli.options import Json, RunName
from cli.render import clean, say
from farm.errors import NotFound
from farm.files import plain
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record import layout
from farm.record.store import Store, open_store
from farm.site.settings import Settings

POLL_SECONDS = 0.5
CHUNK_BYTES = 2**20


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow until the run is final.")] = False,
    as_json: Json = False,
) -> None:
    """Show the log of a run's newest attempt."""
    settings = Settings.load()
    with queue(settings) as open_queue, open_store(settings.storage) as store:
        status = run_of(open_queue, run)
        newest = newest_log(store, status)
        if newest is None and not follow:
            raise no_log(status, store.uri)
        if follow:
            follow_log(open_queue, store, status, as_json)
        elif newest is not None:
            Tail(newest, as_json).drain(final=True)


def no_log(status: Status, storage: str) -> NotFound:
    """That a run has no log, and why."""
    if status.epoch == 0:
        return NotFound(f"{status.run.id} is {status.state} and was never started.", remedy="Try: farm runs")
    return NotFound(
        f"there is no log of {status.run.id} under {storage}.", remedy="Is FARM_STORAGE the farm's storage?"
    )


def newest_log(store: Store, status: Status) -> Path | None:
    """The log of the newest attempt that wrote one."""
    for epoch in range(status.epoch, 0, -1):
        if log := store.copies.log(status.run.id, epoch):
            return log
    return None


class Tail:
    """A log as far as it has been printed. An unfinished line is held back until it ends."""

    def __init__(self, path: Path, as_json: bool):
        self.path, self.as_json, self.position = path, as_json, 0

    def drain(self, final: bool = False) -> None:
        """Print what is new; with `final`, also a last line without an end."""
        with plain(self.path) as file:
            file.seek(self.position)
            while chunk := file.read(CHUNK_BYTES):
                whole = chunk if len(chunk) == CHUNK_BYTES and b"\n" not in chunk else chunk[: chunk.rfind(b"\n") + 1]
                if not whole and final:
                    whole = chunk
                if not whole:
                    break
                self.position += len(whole)
                file.seek(self.position)
                self._print(whole.decode(errors="replace"))
        sys.stdout.flush()

    def _print(self, text: str) -> None:
        for line in text.splitlines():
            sys.stdout.write(self._form(line) + "\n")

    def _form(self, line: str) -> str:
        if self.as_json:
            data = {"epoch": layout.epoch_of(self.path), "line": line}
            return json.dumps({"schema": "farm.logs/1", "data": data})
        return clean(line)  # in a pipe, too: what reads it may be a terminal


def follow_log(queue: Queue, store: Store, status: Status, as_json: bool = False) -> None:
    """Print the log of a run as it is written, over all attempts, until the run is final."""
    tail: Tail | None = None
    if status.epoch == 0:
        say(f"{status.run.id} is {status.state}; its log follows when it starts")
    while True:
        newest = newest_log(store, status)
        if newest is not None and (tail is None or tail.path != newest):
            if tail is not None:
                tail.drain(final=True)
                say(f"attempt {layout.epoch_of(newest)} takes over")
            tail = Tail(newest, as_json)
        is_final = status.state.is_final
        if tail is not None:
            tail.drain(final=is_final)
        if is_final:
            say(f"{status.run.id}: {status.state}")
            return
        time.sleep(POLL_SECONDS)
        status = queue.listing.status(status.run.id)
