"""What eight GPUs would send in a step of the canonical reduction, one rank after the other: torch's fake process group
sends nothing. tests/model/test_reduce.py counts what the fast reduction sends."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from worlds import BATCH, SOME_TOKENS, canonical, corpus, planned

from farm.study.run import Run
from model import reduce
from model.group import join
from model.meter import Signal
from model.train import Trainer

WORLD = 8
LIST = "batch_isend_irecv"
TOGETHER = ("all_reduce", "broadcast")  # all ranks take part; the rest is between two
LEVELS = 3  # of a tree over eight


class Launch(NamedTuple):
    """One collective, or one list of what goes to and comes from a neighbour: (out or in, whose, numbers)."""

    kind: str
    parts: tuple[tuple[str, int, int], ...]


@contextmanager
def as_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Launch]]:
    """This process as `rank` of WORLD; all that it launches."""
    launches: list[Launch] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(dist, name)

        def call(first: Any, *words: Any, **more: Any) -> Any:
            batched = [(p2p.op.__name__, p2p.peer, p2p.tensor.numel()) for p2p in first] if name == LIST else None
            launches.append(Launch(name, tuple(batched or [(name, more.get("src", -1), first.numel())])))
            return real(first, *words, **more)

        return call

    dist.init_process_group("fake", rank=rank, world_size=WORLD, store=FakeStore())
    try:
        with monkeypatch.context() as patch:
            for name in (*TOGETHER, LIST, "send", "recv"):
                patch.setattr(dist, name, noted(name))
            yield launches
    finally:
        dist.destroy_process_group()


def launched(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[list[Launch]], list[list[Launch]]]:
    """By rank: to make ready, and in a step."""
    ready, in_a_step = [], []
    for rank in range(WORLD):
        with as_rank(rank, monkeypatch) as launches:
            plan = planned(run, WORLD)
            trainer = Trainer(run, plan, join(plan), folder, SOME_TOKENS)
            before = len(launches)
            trainer.make_ready()
            ready.append(launches[before:])
            trainer.compute(Signal.CONTINUE, news=False)
            in_a_step.append(launches[before + len(ready[-1]) :])
    return ready, in_a_step


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reduce, "PIECE", 100)  # smaller than some tensors, larger than others
    monkeypatch.setattr("model.train.in_turn", lambda fetch, group: fetch())
    return corpus(tmp_path)


def test_a_canonical_step_is_one_list_a_level_there_and_back_and_one_sum(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, steps = launched(canonical(tokens), tokens, monkeypatch)
    assert {launch.kind for launches in ready for launch in launches} == {"broadcast"}, (
        "a collective of all comes first"
    )
    for launches in steps:
        assert Counter(launch.kind for launch in launches) == {LIST: 2 * LEVELS, "all_reduce": 1}
        assert launches[-1] == Launch("all_reduce", (("all_reduce", -1, BATCH + 4),)), "what the meter has"


def test_what_a_rank_sends_its_neighbour_expects(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else NCCL would wait until its patience ends."""
    _, steps = launched(canonical(tokens), tokens, monkeypatch)
    other = {"isend": "irecv", "irecv": "isend"}
    for rank, launches in enumerate(steps):
        for turn, launch in enumerate(launches):
            if launch.kind == LIST:
                (neighbour,) = {peer for _, peer, _ in launch.parts}
                expected = Counter((other[way], rank, numbers) for way, _, numbers in launch.parts)
                assert Counter(steps[neighbour][turn].parts) == expected
