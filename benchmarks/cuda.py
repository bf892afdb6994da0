"""The first ten minutes on a GPU: what is measured, in order of worth, and what follows from it.

`make bench-gpu` anywhere, `make bench-gpu PEER=../nanoGPT` with a checkout from your own disk beside it. Each row is a
line of JSON as soon as it is known, with the mark that it should pass; a row that fails ends nothing. The last lines
say what was decided. On a machine without CUDA it says so, and measures nothing.

Longer than other files, so that each row stands with its mark and with what it measures.
"""

import json
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional as F

from benchmarks.alternate import Side, Turn, alternate, heading, speeds
from benchmarks.sides import case, corpus, ours, peer, textbook_compiled, textbook_explicit, transformers
from farm.record.ledger import Line
from farm.record.result import Peaks, utilisation
from farm.study.machine import Machine
from farm.study.memory import bytes_needed
from farm.study.planner import Plan, plan
from farm.study.run import Run
from model import flex
from model.assignment import Assignment, Listener, Resume
from model.kernels import can_compile_for_cuda, use
from model.loss import summed_loss
from model.meter import Signal
from model.peaks import measure
from model.precision import AUTOCAST
from model.probe import trial_fits
from model.saver import host_buffers, pinned
from model.train import train

KERNELS = 16  # of the longest that are told
TOO_MANY = 2048  # sequences of the baseline: 0.7 TB
WAIT = "synchronizing CUDA operation"  # of torch's own warning
PEER = "PEER"  # the variable that names a checkout with nanoGPT's model.py
Figures = dict[str, Any]
Attention = Callable[..., Tensor]
_fused = partial(F.scaled_dot_product_attention, is_causal=True)


class Size(NamedTuple):
    """How much is measured: on a GPU, and in a test on a CPU."""

    shape: dict[str, int]
    small: dict[str, int]  # for what is about bits
    precisions: tuple[str, ...]
    seconds: float  # of a side's turn
    rows: int  # of the loss, and sequences of attention
    product: int
    copied: int


ON_GPU = Size(
    {"vocab": 50257, "width": 768, "layers": 12, "context": 1024, "batch": 96},
    {"vocab": 257, "width": 256, "layers": 2, "context": 128, "batch": 8},  # with heads of 64, as the baseline's are
    ("fp16", "bf16", "tf32", "fp32"),
    4.0,
    12_288,
    8192,
    2**30,
)


class Bench(NamedTuple):
    """Where and how much. `known` are the figures of the rows before."""

    device: torch.device
    size: Size
    folder: Path
    known: dict[str, Figures]

    @property
    def machine(self) -> Machine:
        if self.device.type == "cpu":
            return Machine(name="bench", memory=2**36)
        card = torch.cuda.get_device_properties(self.device)
        return Machine(name="bench", accelerator=card.name, memory=card.total_memory)

    def case(self, precision: str, *, small: bool = False, dropout: float = 0.1, **train_: Any) -> Run:
        shape = self.size.small if small else self.size.shape
        return case(corpus(self.folder, shape["vocab"]), **shape, precision=precision, dropout=dropout, **train_)

    @property
    def half(self) -> str:
        """The first precision: 16 bits on a GPU."""
        return self.size.precisions[0]


class Row(NamedTuple):
    """A measurement, the mark that it should pass, and what to do where it does not."""

    name: str
    measure: Callable[[Bench], Figures]
    mark: str
    passes: Callable[[Figures], bool]
    otherwise: str


def run(rows: Iterable[Row], bench: Bench, say: Callable[[str], None] = print) -> bool:
    """Measure the rows in order; whether all pass. What one raises is its figure."""
    passed, decisions = True, []
    for row in rows:
        began = time.perf_counter()
        try:
            found = row.measure(bench)
            is_good = row.passes(found)
        except Exception as error:  # of a GPU that nobody has tried: the other rows are worth their minutes
            found, is_good = {"error": f"{type(error).__name__}: {str(error)[:500]}"}, False
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()  # the sides are processes of their own, and want the whole card
        bench.known[row.name] = found
        took = round(time.perf_counter() - began, 1)
        say(json.dumps({"row": row.name, "passed": is_good, "mark": row.mark, "seconds": took} | found, default=str))
        passed &= is_good
        decisions.append(f"{row.name}: {'as it is' if is_good else row.otherwise}")
    for decision in decisions:
        say(f"decided: {decision}")
    return passed


def where(bench: Bench) -> Figures:
    """Versions, and which attention torch takes where the same bits are asked for, as in training."""
    with _deterministic(True), torch.profiler.profile() as profile:
        _attention(bench, 1, 0.0)()
    names = [event.key for event in profile.key_averages()]
    on_cuda = bench.device.type == "cuda"
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "capability": torch.cuda.get_device_capability() if on_cuda else None,
        "nccl": torch.cuda.nccl.version() if on_cuda else None,
        "triton": find_spec("triton") is not None,
        "compiles": can_compile_for_cuda(),
        "attention": next((name for name in names if "_scaled_dot_product_" in name and "attention" in name), None),
    }


def peaks(bench: Bench) -> Figures:
    dtype = AUTOCAST.get(bench.half, torch.float32)  # type: ignore[call-overload]
    return measure(bench.device, dtype, bench.size.product, bench.size.copied).model_dump()


def bits(bench: Bench, *, compile: bool) -> Figures:
    """Whether a run gives the same bits again, and when it was stopped; and how often a step waits for the GPU."""
    unlike, waits = list[str](), Counter[str]()
    kinds = [(bench.half, "fast", dropout) for dropout in (0.1, 0.0)]  # compiled, each has an attention of its own
    if not compile:
        kinds = [(precision, how, 0.1) for precision in bench.size.precisions for how in ("fast", "canonical")]
    for precision, reduction, dropout in kinds:
        more = {"reduction": reduction, "canonical_microbatch": 2} if reduction == "canonical" else {}
        more |= {"tokens": _six_steps(bench), "compile": compile}
        asked = _scored_once(bench.case(precision, small=True, dropout=dropout, **more))
        split = plan(asked.recipe, bench.machine)
        first, again, stopped = (_trained(asked, split, bench, stop) for stop in (None, None, 3))
        waits = max(waits, first.waits, key=Counter.total)
        if not first.weights == again.weights == stopped.weights:
            unlike.append(f"{precision} {reduction}, dropout {dropout:g}")
    return {"unlike": unlike, "waits_a_step": waits.total(), "waits": dict(waits)}


def _without_caches(bench: Bench) -> Figures:
    """The bits of blocks that Inductor compiles for each training, as on a node that never saw them."""
    import torch._inductor.config as inductor

    with inductor.patch(force_disable_caches=True):
        return bits(bench, compile=True)


def loss(bench: Bench) -> Figures:
    """Error against float64 on some rows, and the time of each way to compute it."""
    shape, rows = bench.size.shape, bench.size.rows
    dtype = AUTOCAST.get(bench.half, torch.float32)  # type: ignore[call-overload]
    h_NC = torch.randn(rows, shape["width"], device=bench.device).requires_grad_()
    head_VC = (torch.randn(shape["vocab"], shape["width"], device=bench.device) * 0.02).requires_grad_()
    y_N = torch.randint(0, shape["vocab"], (rows,), device=bench.device)

    def value(count: int) -> Tensor:
        with torch.autocast(bench.device.type, dtype, enabled=dtype is not torch.float32):
            return summed_loss(h_NC[:count], head_VC, y_N[:count], vocab=shape["vocab"])

    few = min(rows, 512)
    exact = F.cross_entropy(h_NC[:few].double() @ head_VC.double().T, y_N[:few], reduction="sum")
    took, errors = {}, {}
    for kind in ("torch", "farm"):
        with use(kind):
            errors[kind] = abs(float(value(few).detach()) / float(exact.detach()) - 1)
            took[kind] = _seconds(lambda: value(rows).backward(), bench)
    return {"errors": errors, "seconds": took}


def attention(bench: Bench) -> Figures:
    """What torch's deterministic mode costs, and dropout, at the plan's microbatch: more with fewer sequences."""
    asked = bench.case(bench.half)
    split, seconds = plan(asked.recipe, bench.machine), {}
    for dropout in (0.0, 0.1):
        for is_deterministic in (False, True):
            with _deterministic(is_deterministic):
                took = _seconds(_attention(bench, split.microbatch, dropout), bench)
            seconds[f"dropout {dropout:g}, {'deterministic' if is_deterministic else 'any order'}"] = took
    errors, without = {}, bench.case(bench.half, dropout=0.0).recipe.model
    if bench.device.type == "cuda" and (past := flex.past(without, bench.device)):
        compiled = torch.compile(partial(flex.attention, past=past), dynamic=False)
        seconds["dropout 0, flex"] = _seconds(_attention(bench, split.microbatch, 0.0, compiled), bench)
        errors = {"torch": _attention_error(bench, _fused), "flex": _attention_error(bench, compiled)}
    more = seconds["dropout 0.1, deterministic"] - seconds["dropout 0.1, any order"]
    times = asked.recipe.model.layers * split.accumulation
    speed = bench.known.get("speed, dropout 0.1", {}).get("tokens_per_second", {}).get("ours, compiled")
    share = speed and more * times * speed / asked.recipe.tokens_per_step
    return {"seconds": seconds, "share_of_step": share, "errors": errors}


def speed(bench: Bench, precision: str, dropout: float) -> Figures:
    """Every side by itself, at the plan's own microbatch."""
    eager = bench.case(precision, dropout=dropout, compile=False)
    split = plan(eager.recipe, bench.machine)
    compiled = bench.case(precision, dropout=dropout, compile=True)
    sides = [Side("ours", ours, eager, split), Side("ours, compiled", ours, compiled, split)]
    sides += [Side("textbook, compiled", textbook_compiled, eager, split)]
    sides += [Side("transformers", transformers, eager, split), Side("explicit", textbook_explicit, eager, split)]
    if folder := os.environ.get(PEER):
        sides.append(Side("peer", partial(peer, Path(folder)), eager, split))
    turns: dict[str, Sequence[Turn]] = {}
    failed: dict[str, str] = {}
    microbatches: dict[str, int] = {}
    for side in sides:
        while side.name not in turns | failed:
            microbatches[side.name] = side.plan.microbatch
            try:
                turns |= alternate([side], bench.size.seconds, rounds=1)
            except (RuntimeError, TimeoutError) as error:
                said = str(error).strip().splitlines()[-1]
                if "out of memory" in said and (half := _halved(side.plan)):  # others need more than ours
                    side = side._replace(plan=half)
                else:
                    failed[side.name] = said[:300]
    found = compared(turns, eager, split, bench)
    return found | {"plan": str(split), "microbatches": microbatches, "failed": failed}


def _halved(split: Plan) -> Plan | None:
    """The same batch in twice as many microbatches; None where a microbatch has an odd number of sequences."""
    if split.microbatch % 2:
        return None
    return split.model_copy(update={"microbatch": split.microbatch // 2, "accumulation": 2 * split.accumulation})


def compared(turns: dict[str, Sequence[Turn]], asked: Run, split: Plan, bench: Bench) -> Figures:
    """Tokens a second, bytes and shares of the peaks of each side."""
    tokens = asked.recipe.tokens_per_step
    speed = {name: statistics.median(speeds(taken, tokens)) for name, taken in turns.items()}
    found: Figures = {"tokens_per_second": speed}
    found["peak_bytes"] = {name: max(turn.peak_bytes for turn in taken) for name, taken in turns.items()}
    if known := bench.known.get("peaks"):
        told = Peaks.model_validate(known)
        found["mfu"] = {name: utilisation(told, asked.recipe, split, one).flops for name, one in speed.items()}
    mine = [one for name, one in speed.items() if name.startswith("ours")]
    others = {name: one for name, one in speed.items() if not name.startswith("ours")}
    return found | {"ours_by": {name: max(mine) / one for name, one in others.items()} if mine else {}}


def kernels(bench: Bench) -> Figures:
    """Where the time of a compiled step goes: its longest kernels, and the share of the time in which one runs."""
    asked = bench.case(bench.half)
    watching = _Profiling(first=3, last=4)
    with tempfile.TemporaryDirectory() as name:
        train(Assignment(asked, plan(asked.recipe, bench.machine), Path(name), cache=Path(name)), watching)
    on_device = [one for one in watching.profile.key_averages() if one.device_type != DeviceType.CPU]
    events = [one for one in on_device if one.self_device_time_total > 0]
    total = sum(one.self_device_time_total for one in events)
    longest = sorted(events, key=lambda one: -one.self_device_time_total)[:KERNELS]
    return {
        "busy": total / 1e6 / watching.seconds if total else None,
        "shares": {one.key[:100]: round(one.self_device_time_total / total, 4) for one in longest},
        "calls": {one.key[:100]: one.count for one in longest},
    }


def probe(bench: Bench) -> Figures:
    """Whether a trial of the plan's microbatch fits, and one that cannot says so."""
    asked = bench.case(bench.half, compile=False)
    good = plan(asked.recipe, bench.machine).microbatch
    return {"fits": trial_fits(asked.recipe, good), "fits_far_too_many": trial_fits(asked.recipe, TOO_MANY)}


def formula(bench: Bench) -> Figures:
    """What the planner expects of memory, and what the last speed row saw."""
    asked = bench.case(bench.half, compile=False)
    split = plan(asked.recipe, bench.machine)
    expected = bytes_needed(asked.recipe, bench.machine, split.microbatch, split.accumulation)
    seen = bench.known["speed, dropout 0.1"]["peak_bytes"]["ours"]
    return {"expected_bytes": expected, "seen_bytes": seen, "expected / seen": expected / seen}


def checkpoint(bench: Bench) -> Figures:
    """How long training stands still for the second checkpoint of a model."""
    weights = {"w": torch.zeros(bench.size.copied // 4, device=bench.device)}
    whole, buffers = host_buffers(weights)
    with pinned(whole) if bench.device.type == "cuda" else nullcontext():
        seconds = _seconds(lambda: buffers["w"].copy_(weights["w"], non_blocking=True), bench)
    return {"seconds_per_gib": seconds * 2**30 / whole.nbytes}


def _attention(bench: Bench, sequences: int, dropout: float, how: Attention | None = None) -> Callable[[], None]:
    """A forward and a backward pass of one layer's."""
    q, k, v = _heads(bench, sequences)
    attend = how or partial(_fused, dropout_p=dropout)
    return lambda: attend(q, k, v).sum().backward()


def _attention_error(bench: Bench, how: Attention) -> float:
    """Of the gradients of a few sequences, against float64: the norm of the difference, relative."""
    heads = _heads(bench, 2)
    exact = [x.detach().double().requires_grad_() for x in heads]
    dy = torch.randn_like(heads[0])
    how(*heads).backward(dy)
    _fused(*exact).backward(dy.double())
    differences = [(x.grad.double() - y.grad).norm() / y.grad.norm() for x, y in zip(heads, exact, strict=True)]
    return max(float(difference) for difference in differences)


def _heads(bench: Bench, sequences: int) -> list[Any]:
    """Queries, keys and values of one layer."""
    shape, dtype = bench.size.shape, AUTOCAST.get(bench.half, torch.float32)  # type: ignore[call-overload]
    heads = max(4, shape["width"] // 64)
    size = (sequences, heads, shape["context"], shape["width"] // heads)
    return [torch.randn(size, dtype=dtype, device=bench.device).requires_grad_() for _ in range(3)]


@contextmanager
def _deterministic(is_wanted: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(is_wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _seconds(operation: Callable[[], object], bench: Bench) -> float:
    """Of one of five, after one that does not count."""
    times = []
    for _ in range(6):
        _wait(bench)
        began = time.perf_counter()
        operation()
        _wait(bench)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _wait(bench: Bench) -> None:
    if bench.device.type == "cuda":
        torch.cuda.synchronize(bench.device)


class Trained(NamedTuple):
    """A run's last weights, and how often a step of it waited for the GPU."""

    weights: str
    waits: Counter[str]  # by the line of the program


class _Watching(Listener):
    """Ends the training after step `stop`, and keeps how many warnings had been given after each step."""

    def __init__(self, stop: int | None, given: Sequence[warnings.WarningMessage]):
        self._stop, self._given, self.after = stop, given, list[int]()

    def signal(self) -> Signal:
        return Signal.STOP if self._stop is not None and len(self.after) == self._stop - 1 else Signal.CONTINUE

    def on_step(self, line: Line) -> None:
        self.after.append(len(self._given))


class _Profiling(Listener):
    """Profiles the steps from `first` to `last`, then ends the training."""

    def __init__(self, first: int, last: int):
        self._first, self._last, self._step, self.seconds = first, last, 1, 0.0
        self.profile = torch.profiler.profile(activities=list(torch.profiler.supported_activities()))

    def signal(self) -> Signal:
        if self._step == self._first:
            self.profile.start()
            self._began = time.perf_counter()
        return Signal.ABANDON if self._step > self._last else Signal.CONTINUE

    def on_step(self, line: Line) -> None:
        if self._step == self._last:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self._began
            self.profile.stop()
        self._step += 1


def _trained(asked: Run, split: Plan, bench: Bench, stop: int | None) -> Trained:
    """Train, or train until `stop` and then go on from its checkpoint."""
    on_cuda = bench.device.type == "cuda"
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        folder = Path(name)
        torch.compiler.reset()  # as a process of its own: torch gives up compiling the ninth form of one function
        first, watching = Assignment(asked, split, folder, cache=folder), _Watching(stop, given)
        if on_cuda:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            outcome = train(first, watching)
            if stop is not None:
                (there := folder / "2").mkdir()
                torch.compiler.reset()
                resume = Resume(folder / str(outcome.checkpoint), 1)
                outcome = train(Assignment(asked, split, there, folder, 2, resume), Listener())
        finally:
            if on_cuda:
                torch.cuda.set_sync_debug_mode("default")
    assert outcome.fingerprints is not None
    steps = [given[before:after] for before, after in pairwise(watching.after)]
    waits = [
        Counter(f"{Path(one.filename).name}:{one.lineno}" for one in step if WAIT in str(one.message)) for step in steps
    ]
    return Trained(outcome.fingerprints.final, min(waits, key=Counter.total, default=Counter()))


def _scored_once(asked: Run) -> Run:
    """Never validated: a validation waits for the GPU, too."""
    return asked.model_copy(update={"recipe": asked.recipe.with_patch({"evaluation": {"every": 0}})})


def _six_steps(bench: Bench) -> int:
    return 6 * bench.size.small["batch"] * bench.size.small["context"]


def _is_as_exact(errors: dict[str, float]) -> bool:
    return not errors or errors["flex"] <= 1.1 * errors["torch"]


def faster(found: Figures) -> bool:
    """As fast as a compiled textbook loop, thrice as fast as one with explicit attention, half of the peak."""
    by = found["ours_by"]
    explicit = by.get("explicit")
    mfu = max((one for name, one in found.get("mfu", {}).items() if name.startswith("ours")), default=0.0)
    return by["textbook, compiled"] >= 1 and (explicit is None or explicit >= 3) and mfu >= 0.5


GOAL = ">= 1.0 of the compiled textbook loop, >= 3.0 of explicit attention, >= 50 % of the measured matrix peak"
SLOW = "profile it: the kernels of the slowest side of the ratio are the next to write"
ROWS = (
    Row(
        "where",
        where,
        "flash attention at 16 bits, Triton and a compiler",
        lambda found: "flash" in str(found["attention"]) and found["compiles"],
        "install gcc and Python's headers, or a torch with flash attention: nothing below is worth reading without",
    ),
    Row("peaks", peaks, "measured", lambda found: found["flops_per_second"] > 0, "shares are unknown"),
    Row(
        "bits",
        partial(bits, compile=False),
        "the same bits again; one wait a step",
        lambda found: not found["unlike"] and found["waits_a_step"] <= 1,
        "no study on this card until the bits are the same",
    ),
    Row(
        "bits, compiled",
        _without_caches,
        "the same bits again, each compiled anew; one wait a step",
        lambda found: not found["unlike"] and found["waits_a_step"] <= 1,
        "`compile = false` on this card until the bits are the same",
    ),
    Row(
        "loss",
        loss,
        "error <= 2e-3, and farm's kernel no slower than torch's",
        lambda found: max(found["errors"].values()) <= 2e-3 and found["seconds"]["farm"] <= found["seconds"]["torch"],
        'train.kernels = "torch" here, and say so in model.kernels.resolve_on_cuda',
    ),
    Row("speed, dropout 0.1", lambda bench: speed(bench, bench.half, 0.1), GOAL, faster, SLOW),
    Row(
        "attention",
        attention,
        "deterministic mode costs at most 10 % of a step with dropout; FlexAttention errs by at most 1.1 of torch's",
        lambda found: (found["share_of_step"] or 1) <= 0.1 and _is_as_exact(found["errors"]),
        "a deterministic backward pass of our own is worth its code",
    ),
    Row(
        "kernels",
        kernels,
        "a kernel runs 95 % of the time",
        lambda found: (found["busy"] or 0) >= 0.95,
        "look for the gaps",
    ),
    Row(
        "probe",
        probe,
        "the plan's microbatch fits, and far too many sequences end as out of memory",
        lambda found: found["fits"] and not found["fits_far_too_many"],
        "declare `microbatch` for the class until the probe works",
    ),
    Row(
        "formula",
        formula,
        "what was seen <= the planner's formula <= 1.5 times that",
        lambda found: 1 <= found["expected / seen"] <= 1.5,
        "change the bytes a channel in farm.study.memory",
    ),
    Row(
        "checkpoint",
        checkpoint,
        "<= 0.2 s a GiB",
        lambda found: found["seconds_per_gib"] <= 0.2,
        "the host buffers are not locked: see model.saver.pinned",
    ),
    Row("speed, dropout 0", lambda bench: speed(bench, bench.half, 0.0), GOAL, faster, SLOW),
)


def main() -> None:
    heading("163M baseline, batch 96 x 1024 tokens, one GPU")
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no CUDA device on this machine, so there is nothing to measure here.")
        print("decided: nothing")
        return
    with tempfile.TemporaryDirectory() as folder:
        all_passed = run(ROWS, Bench(torch.device("cuda", 0), ON_GPU, Path(folder), {}))
    print("all rows passed" if all_passed else "some rows did not pass")
