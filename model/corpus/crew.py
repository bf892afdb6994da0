"""Processes that work on parts of a corpus: as many as asked for, gone when the one that asked is gone."""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from farm.errors import WorkerDied

AHEAD = 2  # pieces of work for each process that wait for it

T = TypeVar("T")


def each(work: Callable[..., T], tasks: Iterable[tuple], processes: int) -> Iterator[tuple[tuple, T]]:
    """Each of `tasks` with what `work` returns for it, as they are done, by so many processes: one is this one.

    Raises: WorkerDied: one of them was killed. What `work` raises.
    """
    todo = iter(tasks)
    if processes <= 1:
        yield from ((task, work(*task)) for task in todo)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=_begin) as pool:
        pending: dict[Future[T], tuple] = {}
        try:
            while True:
                while len(pending) < AHEAD * processes and (task := next(todo, None)) is not None:
                    pending[pool.submit(work, *task)] = task
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool:
            raise WorkerDied(
                "a process that made tokens was killed, as happens when memory runs out.",
                remedy="Run the command again: it goes on where it was. Fewer --processes need less memory.",
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """Ctrl-C is for the parent to answer, and a process whose parent was killed ends, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the cores
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
