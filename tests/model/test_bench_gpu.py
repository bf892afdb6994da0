"""The first minutes on a GPU: its rows run on a CPU in small, and it goes on and says what follows when one fails."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import cuda
from benchmarks.alternate import Turn
from benchmarks.cuda import ROWS, Bench, Row, Size, compared, faster, run
from benchmarks.sides import peer
from farm.study.planner import plan

TINY = {"vocab": 67, "width": 16, "layers": 1, "context": 8, "batch": 8}
SMALL = Size(TINY, TINY, ("fp32",), 0.1, 64, 64, 2**16)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(torch.device("cpu"), SMALL, tmp_path, {})


def test_its_rows_are_measured_in_order_as_json(bench: Bench) -> None:
    said: list[str] = []
    slow = ("bits, compiled", "probe", "formula")  # on a CPU; a probe needs a limit on memory there
    quick = [row for row in ROWS if not row.name.startswith("speed") and row.name not in slow]
    run(quick, bench, said.append)
    lines = [json.loads(line) for line in said if line.startswith("{")]
    assert [line["row"] for line in lines] == [row.name for row in quick]
    assert [line for line in lines if "error" in line] == []
    assert {line["row"]: line["passed"] for line in lines}["bits"], "the same bits again, and after a stop"
    assert lines[2]["waits_a_step"] == 0
    assert max(lines[3]["errors"].values()) < 1e-5
    assert [line.split(":")[0] for line in said[len(quick) :]] == ["decided"] * len(quick)


def test_a_row_that_fails_ends_nothing_and_says_what_to_do(bench: Bench) -> None:
    said: list[str] = []
    rows = (
        Row("broken", lambda bench: 1 / 0, "m", bool, "mend it"),  # type: ignore[arg-type, return-value]
        Row("slow", lambda bench: {"x": 1}, "x >= 2", lambda found: found["x"] >= 2, "make it faster"),
        Row("good", lambda bench: {"x": bench.known["slow"]["x"] + 1}, "x >= 2", lambda found: found["x"] >= 2, "no"),
    )
    assert not run(rows, bench, said.append)
    assert [json.loads(line)["passed"] for line in said[:3]] == [False, False, True]
    assert "ZeroDivisionError" in said[0]
    assert said[3:] == ["decided: broken: mend it", "decided: slow: make it faster", "decided: good: as it is"]


def test_speeds_are_compared_at_their_best_and_held_against_the_goals(bench: Bench) -> None:
    asked = bench.case("fp32")
    split = plan(asked.recipe, bench.machine)
    flops = asked.recipe.model.flops_per_token
    bench.known["peaks"] = {"flops_per_second": 1000.0 * flops, "bytes_per_second": 1e9}
    tokens = {"ours": 400, "ours, compiled": 600, "textbook, compiled": 500, "explicit": 150}
    turns = {n: [Turn(speed, asked.recipe.tokens_per_step, 0.0, 2**20)] for n, speed in tokens.items()}
    found = compared(turns, asked, split, bench)
    assert found["tokens_per_second"] == {name: float(speed) for name, speed in tokens.items()}
    assert found["ours_by"] == {"textbook, compiled": 1.2, "explicit": 4.0}
    assert found["mfu"]["ours, compiled"] == pytest.approx(0.6)
    assert faster(found)
    for name, other in (("textbook, compiled", 601), ("explicit", 201), ("ours, compiled", 499)):
        slower = turns | {name: [turns[name][0]._replace(steps=other)]}
        assert not faster(compared(slower, asked, split, bench)), name


def test_without_cuda_it_says_so(capsys: pytest.CaptureFixture) -> None:
    cuda.main()
    out = capsys.readouterr().out
    assert "sees no CUDA device on this machine, so there is nothing to measure here" in out
    assert out.endswith("decided: nothing\n")


MODEL = """
from dataclasses import dataclass
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)

    def forward(self, idx, targets=None):
        logits = self.tokens(idx) @ self.tokens.weight.T
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def test_a_checkout_of_the_readers_own_is_a_side(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    asked, steps = bench.case("fp32"), Counter[str]()

    class Enough(Exception):
        pass

    def gate() -> None:
        steps["taken"] += 1
        if steps["taken"] > 2:
            raise Enough

    with pytest.raises(Enough):
        peer(tmp_path, asked, plan(asked.recipe, bench.machine), gate)
