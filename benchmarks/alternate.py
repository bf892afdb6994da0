"""Sides that take turns, and the table that comes of it.

Each side trains in processes of its own, so that nothing one of them sets (threads, allocator, precision) reaches
another. They run one at a time, A B C A B C ..., each for some seconds a turn; a ratio is taken within a round, and
what is shown is the median over rounds. So a machine that is busy now and idle later says much the same.
"""

import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
import torch.distributed as dist

from farm.study.planner import Plan
from farm.study.processor import instruction_set
from farm.study.run import Run

ROUNDS = 5
TURN_SECONDS = 1.5
PATIENCE_SECONDS = 300.0  # for a side to start, or to end its turn

_processes = multiprocessing.get_context("spawn")


class Turn(NamedTuple):
    """What rank 0 of a side did in one turn. `peak_bytes` is of device memory on CUDA, else of resident memory."""

    steps: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Gate:
    """Call it before each optimiser step: it lets steps through while it is this side's turn.

    The first step of a turn is not timed: it finds the caches full of another side's numbers.
    """

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._done: int | None = None  # timed steps of this turn; None: it is not this side's turn

    def __call__(self) -> None:
        if self._done is None:
            self._pipe.send(None)  # ready
            self._await()
        elif self._done == -1:
            self._done, self._began, self._cpu_began = 0, _now(), time.process_time()
        else:
            self._done += 1
            if time.perf_counter() - self._began >= self._seconds:
                seconds = _now() - self._began
                self._pipe.send(Turn(self._done, seconds, time.process_time() - self._cpu_began, _peak_bytes()))
                self._await()

    def _await(self) -> None:
        self._seconds: float = self._pipe.recv()
        self._done = -1


class Side(NamedTuple):
    """`train(run, plan, gate)` never returns; on ranks above 0 its gate is always open."""

    name: str
    train: Callable[[Run, Plan, Callable[[], None]], None]
    run: Run
    plan: Plan
    environment: dict[str, str] = {}


def alternate(sides: Sequence[Side], seconds: float = TURN_SECONDS, rounds: int = ROUNDS) -> dict[str, list[Turn]]:
    """The turns of each side, by name."""
    with tempfile.TemporaryDirectory() as folder:
        children, pipes = [], []
        try:
            for side in sides:
                pipe, theirs = _processes.Pipe()
                pipes.append(pipe)
                meeting = f"{folder}/{len(pipes)}"
                with _environment(side.environment):
                    for rank in range(side.plan.world):
                        child = _processes.Process(target=_child, args=(side, rank, theirs, meeting), daemon=True)
                        child.start()
                        children.append(child)
            for side, pipe in zip(sides, pipes, strict=True):
                _heard(pipe, side)
            played = [
                {side.name: _played(pipe, side, seconds) for side, pipe in zip(sides, pipes, strict=True)}
                for _ in range(rounds)
            ]
        finally:
            for child in children:
                child.kill()
                child.join()
    return {side.name: [turns[side.name] for turns in played] for side in sides}


def speeds(turns: Sequence[Turn], tokens_per_step: int) -> list[float]:
    """Tokens per second, by turn."""
    return [turn.steps * tokens_per_step / turn.seconds for turn in turns]


def heading(title: str) -> None:
    """Say what is measured and on what."""
    load = os.getloadavg()[0]
    cpu = f"{os.cpu_count()} cores of {_cpu()} ({instruction_set() or 'instruction set unknown'})"
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    print(f"\n## {title}\n\n{where}, torch {torch.__version__}, load {load:.1f} before\n")


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown, aligned for the eye too."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median and range over rounds of ours / theirs."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(each):.3g} ({min(each):.3g}-{max(each):.3g})"


def show_speeds(title: str, turns: dict[str, list[Turn]], tokens_per_step: int) -> None:
    """Print how fast each side is, and how many times as fast the first one is.

    By processor time too, of rank 0: other processes hardly change it, so it is the one to believe on a busy machine.
    """
    print(f"### {title}\n")
    first, *_ = turns.values()
    rows = []
    for name, taken in turns.items():
        speed = speeds(taken, tokens_per_step)
        by_clock = ratio(speeds(first, tokens_per_step), speed)
        by_processor = ratio([t.cpu_seconds / t.steps for t in taken], [t.cpu_seconds / t.steps for t in first])
        rows.append([name, f"{statistics.median(speed):,.0f}", by_clock, by_processor])
    show(["side", "tokens/s", "first / this", "by processor time"], rows)
    print()


def _child(side: Side, rank: int, pipe: Connection, meeting: str) -> None:
    torch.set_num_threads(1)
    try:
        if side.plan.world > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=side.plan.world)
        side.train(side.run, side.plan, Gate(pipe) if rank == 0 else lambda: None)
    except BaseException:
        pipe.send(traceback.format_exc())


def _played(pipe: Connection, side: Side, seconds: float) -> Turn:
    pipe.send(seconds)
    return _heard(pipe, side)


def _heard(pipe: Connection, side: Side) -> Turn:
    if not pipe.poll(PATIENCE_SECONDS):
        raise TimeoutError(f"{side.name} has said nothing for {PATIENCE_SECONDS:g} s")
    heard = pipe.recv()
    if isinstance(heard, str):
        raise RuntimeError(f"{side.name}: {heard}")
    return heard


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return models[0] if models else platform.processor()
