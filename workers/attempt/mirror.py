"""Sends an attempt's files to the bucket while it trains. A storage that is a folder needs none of this.

Training writes to a local folder and never waits for a network. From there the ledger, the samples and the log go up
when they have grown, and the newest checkpoint once it is whole: after the ledger and the samples of its steps, and its
manifest last, so that nobody ever takes half of one for a whole.
"""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from farm.errors import FarmError, StorageUnusable
from farm.record import energy, layout, ledger, sample
from farm.record.store import Store
from farm.study.run import Checkpoint
from model.checkpoint import FILES, KEPT

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 5.0  # after the storage could not be reached
GROWN_SECONDS = 5.0  # between two uploads of a file that grows: an object cannot be appended to
SHARE = 20  # and at least so many times as long as the last one took


class Mirror:
    """The way up for one attempt's folder: in the background between `with` and its end, and whole after `settle`.

    `saved` hears of each checkpoint that is in the bucket; `note` of the storage's going away and coming back.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        epoch: int,
        saved: Callable[[Checkpoint], None],
        note: Callable[[str, str], None],
    ):
        self._bucket, self._epoch = store.bucket, epoch
        self._folder = store.attempt_folder(run_id, epoch)
        self._place = layout.attempt(run_id, epoch)
        self._saved, self._note = saved, note
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._sent_bytes: dict[str, int] = {}
        self._due: dict[str, float] = {}
        self._complete: list[str] = []  # names of the checkpoints that are up there in full
        self._keeps_all = False  # the storage lets nothing be removed, which was said
        self._news: Checkpoint | None = None
        self._failure: FarmError | None = None

    def __enter__(self) -> Self:
        if self._bucket:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()

    def settle(self, patience_seconds: float) -> None:
        """Return once everything is in the bucket, however slow the line; with a bucket that is away, try for so long.

        Raises: StorageUnusable, StorageFull
        """
        deadline = time.monotonic() + patience_seconds
        while failure := self._try(is_last=True):
            if time.monotonic() > deadline:
                raise failure
            time.sleep(min(AGAIN_SECONDS, patience_seconds))

    def settle_within(self, seconds: float) -> None:
        """As `settle`, but for no longer than `seconds` even while an upload is under way: that goes on by itself.

        Raises: StorageUnusable, StorageFull
        """
        settled: Future[None] = Future()
        threading.Thread(target=self._settle_into, args=(settled, seconds), daemon=True).start()
        try:
            settled.result(seconds)
        except TimeoutError:
            slow = StorageUnusable(f"{self._folder} could not be sent within {seconds:g} s.")
            raise self._failure or slow from None

    def _settle_into(self, settled: Future[None], seconds: float) -> None:
        try:
            self.settle(seconds)
        except Exception as error:
            settled.set_exception(error)
        else:
            settled.set_result(None)

    def turn(self, is_last: bool = False) -> None:
        """Send up what is new; with `is_last`, also what was sent a moment ago and has grown since.

        Raises: StorageUnusable, StorageFull
        """
        with self._lock:
            self._send_grown(ledger.FILE, is_last)
            self._send_grown(sample.FILE, is_last)
            self._send_checkpoint()
            self._send_grown(layout.LOG, is_last)
            self._send_grown(energy.file(0), is_last)
            self._tell()

    def _follow(self) -> None:
        rest = LOOK_SECONDS
        while not self._over.wait(rest):
            rest = AGAIN_SECONDS if self._try() else LOOK_SECONDS

    def _try(self, is_last: bool = False) -> FarmError | None:
        """A turn, or why it could not be made; the first failure and the first success after it are said."""
        try:
            self.turn(is_last)
        except FarmError as failure:
            if self._failure is None:
                self._note("storage-away", f"{failure} Files written meanwhile wait on this node.")
            self._failure = failure
            return failure
        if self._failure:
            self._failure = None
            self._note("storage-back", "The files that waited are now in the storage.")
        return None

    def _send_grown(self, name: str, is_urgent: bool) -> None:
        path = self._folder / name
        size = path.stat().st_size if path.exists() else 0
        if not self._bucket or size == self._sent_bytes.get(name, 0):
            return
        began = time.monotonic()
        if is_urgent or began >= self._due.get(name, 0.0):
            with path.open("rb") as file:
                self._bucket.upload(file, f"{self._place}/{name}")
            self._sent_bytes[name] = size
            took = time.monotonic() - began
            self._due[name] = began + max(GROWN_SECONDS, SHARE * took)

    def _send_checkpoint(self) -> None:
        """Send the newest checkpoint unless it is up already, and remove there what training keeps no longer."""
        newest = next(reversed(layout.checkpoints_in(self._folder / layout.CHECKPOINTS)), None)
        if not self._bucket or newest is None or newest.name in self._complete:
            return
        place = f"{self._place}/{layout.CHECKPOINTS}/{newest.name}"
        with ExitStack() as opened:
            try:  # all at once: training may remove the folder meanwhile, and open files stay
                files = {name: opened.enter_context((newest / name).open("rb")) for name in (*FILES, layout.MANIFEST)}
            except FileNotFoundError:  # it just did, for a newer one
                return
            manifest = files[layout.MANIFEST].read()
            self._send_grown(ledger.FILE, is_urgent=True)
            self._send_grown(sample.FILE, is_urgent=True)
            for name in FILES:
                self._bucket.upload(files[name], f"{place}/{name}")
            self._bucket.put(f"{place}/{layout.MANIFEST}", manifest)
        step, sha256 = layout.step_of(newest.name), hashlib.sha256(manifest).hexdigest()
        self._complete.append(newest.name)
        self._news = Checkpoint(step=step, epoch=self._epoch, path=place, sha256=sha256)
        self._prune()

    def _prune(self) -> None:
        """Remove what training keeps no longer. A storage that refuses costs space, no run: it is said once."""
        try:
            self._remove_older()
        except StorageUnusable as refused:
            if refused.fields.get("is_away"):
                raise
            if not self._keeps_all:
                self._note("prune-refused", f"{refused} Older checkpoints stay there.")
            self._keeps_all = True

    def _remove_older(self) -> None:
        assert self._bucket
        for name in self._bucket.names(f"{self._place}/{layout.CHECKPOINTS}"):
            if name not in self._complete[-KEPT:]:
                place = f"{self._place}/{layout.CHECKPOINTS}/{name}"
                self._bucket.delete([f"{place}/{layout.MANIFEST}"])  # first: from now on it is none
                self._bucket.delete([entry.name for entry in self._bucket.objects(place)])

    def _tell(self) -> None:
        if self._news:
            try:
                self._saved(self._news)
            except FarmError:  # Redis: next time
                return
            self._news = None
