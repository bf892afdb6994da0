"""Checkpoints while training goes on: rank 0 writes them in the background, every rank hears when one is on the disk.

Training stands still only while tensors are copied to host memory. One checkpoint is in flight at a time. That one has
landed travels as `news` on the next step's all-reduce, so all ranks call `saved` after the same step.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from farm.errors import WorkerDied
from model.checkpoint import Contents, Identity, Saved, folder_of, write
from model.group import Group, tell

ALIGNED = 64  # bytes at which a tensor begins
NOTHING, FAILED = bytes(40), b"\xff" * 40  # else 8 bytes of step and 32 of sha256


class Snapshot(NamedTuple):
    """The content of a checkpoint, still on the device."""

    step: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    progress: dict[str, Any]


class Saver:
    """The checkpoints of one attempt. `save` and `settle` are collective: every rank calls them."""

    def __init__(
        self,
        root: Path,
        identity: Identity,
        group: Group,
        flush_ledger: Callable[[], None] | None,
        saved: Callable[[int, Path, str], None],
    ):
        self._root, self._identity, self._group = root, identity, group
        self._flush_ledger, self._saved = flush_ledger, saved
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._flight: Future[Saved] | None = None
        self._host: dict[str, Tensor] = {}
        self._pinned = ExitStack()
        self._wanted = False
        self._begun_at = time.monotonic()
        self.stalled_seconds = 0.0
        self.newest: Saved | None = None

    @property
    def news(self) -> bool:
        """The checkpoint in flight has landed, or failed: only rank 0 knows, until all `settle`."""
        return self._flight is not None and self._flight.done()

    def is_due(self, asked: bool, seconds: float) -> bool:
        """Whether rank 0 should begin a checkpoint now: it was asked for, or the last is `seconds` old. Never two."""
        self._wanted |= asked or time.monotonic() - self._begun_at >= seconds
        return self._group.leads and self._wanted and self._flight is None

    def begin(self, state: Snapshot) -> None:
        """Copy the state and write the copy in the background; on the other ranks, nothing."""
        if not self._group.leads:
            return
        assert self._flight is None, "one at a time"
        self._wanted, self._begun_at = False, time.monotonic()
        began = time.perf_counter()
        contents = Contents(state.step, self._copy(state.weights), self._copy(state.moments), state.progress)
        self.stalled_seconds += time.perf_counter() - began
        self._flight = self._thread.submit(self._write, contents)

    def save(self, state: Snapshot) -> None:
        """Begin a checkpoint of this state unless it has one, after the one in flight."""
        self.settle()
        if self.newest is None or self.newest.step != state.step:
            self.begin(state)

    def settle(self) -> None:
        """Wait for the checkpoint in flight, if there is one, and tell every rank.

        Raises: StorageFull: and the checkpoint before is still valid. WorkerDied: the same, on the other ranks.
        """
        note, failure = self._land()
        note = tell(note, self._group)
        if failure:
            raise failure
        if note == FAILED:
            raise WorkerDied("rank 0 could not write a checkpoint; see its error.")
        if note != NOTHING:
            step = int.from_bytes(note[:8])
            self.newest = Saved(step, folder_of(self._root, step), note[8:].hex())
            self._saved(*self.newest)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()  # let the write in flight end: half a folder is of no use to anybody
        self._pinned.close()

    def _land(self) -> tuple[bytes, Exception | None]:
        if self._flight is None:
            return NOTHING, None
        flight, self._flight = self._flight, None
        try:
            landed = flight.result()
        except Exception as failure:
            return FAILED, failure
        return landed.step.to_bytes(8) + bytes.fromhex(landed.sha256), None

    def _write(self, contents: Contents) -> Saved:
        if self._flush_ledger:
            self._flush_ledger()  # first: no checkpoint may be ahead of the record of its steps
        return write(self._root, self._identity, contents)

    def _copy(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Host copies, in buffers that are kept for the next time: pinned memory is slow to get."""
        if new := {name: tensor for name, tensor in tensors.items() if name not in self._host}:
            whole, buffers = host_buffers(new)
            self._host |= buffers
            if self._group.device.type == "cuda":
                self._pinned.enter_context(pinned(whole))
        for name, tensor in tensors.items():
            self._host[name].copy_(tensor.detach(), non_blocking=True)
        if self._group.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        return {name: self._host[name].detach().numpy() for name in tensors}


def host_buffers(like: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Room in host memory for tensors like these, and the piece of bytes that holds them all, one after the other."""
    sizes = [tensor.nbytes + -tensor.nbytes % ALIGNED for tensor in like.values()]
    whole = torch.empty(sum(sizes), dtype=torch.uint8)
    pieces = zip(like.items(), whole.split(sizes), strict=True)
    return whole, {
        name: piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape) for (name, tensor), piece in pieces
    }


@contextmanager
def pinned(whole: Tensor) -> Iterator[None]:
    """Lock a piece of memory, for copies that a GPU makes by itself.

    torch's own allocator of pinned memory rounds each tensor up to a power of two: 3.3 GB for 2.0 of the baseline.
    Memory that cannot be locked serves as well, only slower.
    """
    cuda = torch.cuda.cudart()
    is_locked = not int(cuda.cudaHostRegister(whole.data_ptr(), whole.nbytes, 0))
    try:
        yield
    finally:
        if is_locked:
            cuda.cudaHostUnregister(whole.data_ptr())
