"""How large the model of a new study is, and how long it is trained: what its machines and its data have room for."""

from collections.abc import Mapping, Sequence
from math import lcm
from typing import TYPE_CHECKING, Any, NamedTuple

from farm.errors import BadCorpus, DoesNotFit
from farm.queue.listing import Reached
from farm.study.machine import BUILT_IN, Machine
from farm.study.planner import plan
from farm.study.recipe import Recipe, merge
from farm.study.speed import Speed, declared_speed
from farm.verdict.forecast import speed_of

if TYPE_CHECKING:
    from model.corpus.nearby import Corpus

GIB = 2**30
PUBLISHED = Recipe().train.tokens
FINEWEB = Recipe().data.source
ENOUGH_STEPS = 200  # of a run, below which a smaller model is taken: the demo's number
LEAST_STEPS = 50  # below which nothing can be told from a run
LEAST_TESTED = 16  # sequences
SHUFFLED_TOKENS = 10**8  # at most: the fingerprint of shuffled data reads all of it
CPU_SECONDS, GPU_SECONDS = 300, 4 * 3600  # of a run on the slowest class
HELD_OUT = 10  # one part in so many, of a corpus that is not split
# A thread in fp32, whole steps, by the clock. Between 9e9, seen on 2026-11-26 with the second smallest model on an AMD
# Zen 3 (AVX2) that other work kept busy (load 13), and 22e9 to 30e9, the demo's on an idle Zen 5 (AVX-512).
CPU_FLOPS = 15e9
GPU = BUILT_IN["1xrtx3090"]  # whose speed is known, for what is not


class Size(NamedTuple):
    """A model, and how it is trained. `peak` is the learning rate of the arm with a schedule."""

    tables: dict[str, dict[str, Any]]
    peak: float
    sequences: int  # of the test, at most
    is_for_gpus: bool = False
    least_bytes: int = 0  # memory of each accelerator

    def __str__(self) -> str:
        model = Recipe().with_patch(self.tables).model
        return f"{model.layers} layers of {model.width} channels"


SIZES = (  # the largest first
    Size(
        {"train": {"batch": 96, "learning_rate": 4e-4}},
        1.4e-3,
        Recipe().evaluation.sequences,
        is_for_gpus=True,
        least_bytes=20 * GIB,
    ),
    Size(
        {
            "model": {"context": 256, "width": 384, "layers": 6, "heads": 6},
            "train": {"batch": 64, "learning_rate": 1e-3},
        },
        3e-3,
        4096,
        is_for_gpus=True,
    ),
    Size(
        {
            "model": {"context": 128, "width": 128, "layers": 4, "heads": 4},
            "train": {"batch": 16, "learning_rate": 1e-3, "precision": "fp32"},
        },
        4e-3,
        512,
    ),
    Size(
        {
            "model": {"context": 64, "width": 64, "layers": 2, "heads": 4},
            "train": {"batch": 16, "learning_rate": 1e-3, "precision": "fp32"},
        },
        4e-3,
        512,
    ),
)


class Hours(NamedTuple):
    """How long a run takes on a class, and what says so: as `farm plan`, or `assumed`."""

    machine: str
    hours: float
    basis: str


class Chosen(NamedTuple):
    """The baseline of the study, and where it trains. `left_out`: a class -> why it does not. `larger`: why the model
    is not the next larger one.
    """

    size: Size
    tables: dict[str, dict[str, Any]]
    machines: list[str]
    left_out: dict[str, str]
    hours: list[Hours]
    larger: str | None

    @property
    def recipe(self) -> Recipe:
        return Recipe().with_patch(self.tables)


def choose(
    corpus: "Corpus", classes: Sequence[str], known: Mapping[str, Machine], reached: Sequence[Reached] = ()
) -> Chosen:
    """The largest model that some of `classes` take, that the data is enough for, and that trains in a fair time.

    Raises: BadCorpus: the data is too little for any. DoesNotFit: no class takes even the smallest.
    """
    machines = [known[name] for name in classes]
    least, larger = 0, None
    for size, wanted in [*((size, ENOUGH_STEPS) for size in SIZES), (SIZES[-1], LEAST_STEPS)]:
        fitting, left_out = _fitting(size, corpus, machines)
        if not fitting:
            larger = f"{size}: {', '.join(left_out)}: {next(iter(left_out.values()))}"
            continue
        tables = _tables(size, corpus, fitting)
        batch = tables["train"]["batch"]
        if any(batch % machine.accelerators for machine in fitting):  # as of 5, 7 and 11 GPUs, with 96 sequences
            left_out |= {one.name: f"no fair batch divides over it and {fitting[0].name}" for one in fitting[1:]}
            fitting = fitting[:1]
            tables = _tables(size, corpus, fitting)
        recipe = Recipe().with_patch(tables)
        steps = _steps(recipe, corpus, fitting, reached)
        least = max(1, LEAST_STEPS * recipe.tokens_per_step)
        if steps < wanted or not _tested(recipe, corpus):
            larger = larger if size is SIZES[-1] else f"{size}: {_too_few(steps, recipe, corpus)}"
            continue
        tables = merge(tables, {"train": {"tokens": _round(steps) * recipe.tokens_per_step}})
        if corpus.source == FINEWEB and tables["train"]["tokens"] >= PUBLISHED * 0.99:
            tables["train"]["tokens"] = PUBLISHED
        tables = merge(tables, {"evaluation": _evaluation(size, Recipe().with_patch(tables), corpus)})
        final = Recipe().with_patch(tables)
        return Chosen(size, tables, [one.name for one in fitting], left_out, _hours(final, fitting, reached), larger)
    if not least:
        raise DoesNotFit(f"no class takes even {larger}.", remedy="Name another class with --machine.")
    raise BadCorpus(
        f"{corpus.source} has {corpus.train or 0:,} tokens to train on"
        + (f" and {corpus.test:,} to test on" if corpus.test is not None else "")
        + f"; {LEAST_STEPS} steps of the smallest model need {least:,}, and its test {_least_tested():,}.",
        remedy="Name a larger one with --data, or leave that out to train on what the demo uses.",
    )


def is_enough(corpus: "Corpus") -> bool:
    """Whether some model can be trained and tested on it."""
    smallest = Recipe().with_patch(SIZES[-1].tables)
    steps = _one_pass(smallest, corpus)
    return (steps is None or steps >= LEAST_STEPS) and _tested(smallest, corpus)


def _too_few(steps: int, recipe: Recipe, corpus: "Corpus") -> str:
    """Why a model is not taken that could do so many steps."""
    if not _tested(recipe, corpus):
        return f"the data leaves fewer than {LEAST_TESTED} sequences to test it on"
    if steps == _one_pass(recipe, corpus):
        return f"one pass over the data has only {steps:,} steps of it"
    minutes = (CPU_SECONDS if recipe.train.precision == "fp32" else GPU_SECONDS) // 60
    return f"{minutes} minutes, the time of a run, are enough for only {steps:,} steps of it"


def _fitting(size: Size, corpus: "Corpus", machines: Sequence[Machine]) -> tuple[list[Machine], dict[str, str]]:
    """The classes that can train `size`, and why the others do not. Where GPUs do, a CPU would only be waited for."""
    fitting, left_out = [], {}
    for machine in machines:
        try:
            if size.is_for_gpus and machine.is_cpu:
                raise DoesNotFit("a CPU, too slow for it")
            if not machine.is_cpu and machine.memory < size.least_bytes:
                raise DoesNotFit(f"{machine.memory / GIB:.0f} GiB of memory, too few for it")
            plan(Recipe().with_patch(_tables(size, corpus, [machine])), machine)
            fitting.append(machine)
        except DoesNotFit as error:
            left_out[machine.name] = error.message.rstrip(".")
    if any(not machine.is_cpu for machine in fitting):
        left_out |= {one.name: "a CPU, while there are GPUs" for one in fitting if one.is_cpu}
        fitting = [one for one in fitting if not one.is_cpu]
    return fitting, left_out


def _tables(size: Size, corpus: "Corpus", machines: Sequence[Machine]) -> dict[str, dict[str, Any]]:
    """The tables of the baseline, but for its budget and its test. The batch divides over every class."""
    world, batch = lcm(*(machine.accelerators for machine in machines)), size.tables["train"]["batch"]
    own = {"train": {"batch": -(-batch // world) * world}} if world <= batch else {}
    data: dict[str, Any] = {"source": corpus.source}
    if corpus.tokenizer != Recipe().data.tokenizer:
        data["tokenizer"] = corpus.tokenizer
    if corpus.text_field != Recipe().data.text_field:
        data["text_field"] = corpus.text_field
    if not corpus.is_shared and corpus.train is not None and corpus.train <= SHUFFLED_TOKENS:
        data["order"] = "shuffled"
    model = {"vocab": corpus.vocab} if corpus.vocab != Recipe().model.vocab else {}
    return merge(merge(size.tables, own), {"model": model, "data": data})


def _steps(recipe: Recipe, corpus: "Corpus", machines: Sequence[Machine], reached: Sequence[Reached]) -> int:
    """As many as one pass over the data has, the slowest class trains in a fair time, and the published runs took."""
    seconds = CPU_SECONDS if machines[0].is_cpu else GPU_SECONDS
    rate = min(speed(recipe, machine, reached).tokens_per_second for machine in machines)
    steps, most = int(min(seconds * rate, PUBLISHED) // recipe.tokens_per_step), _one_pass(recipe, corpus)
    return steps if most is None else min(steps, most)


def _one_pass(recipe: Recipe, corpus: "Corpus") -> int | None:
    """The steps of one pass over what may be trained on; None where that is not known from here."""
    if corpus.train is None:
        return None
    return (_offset(corpus) if corpus.is_shared else corpus.train - 1) // recipe.tokens_per_step


def _round(steps: int) -> int:
    """Two digits that a person remembers, or three of many."""
    unit = 10 if steps < 1000 else 100
    return steps // unit * unit


def _offset(corpus: "Corpus") -> int:
    """Where the test begins in a corpus that is not split."""
    return (corpus.train or 0) * (HELD_OUT - 1) // HELD_OUT


def _room(recipe: Recipe, corpus: "Corpus") -> int | None:
    """The sequences that can be tested on; None where that is not known from here."""
    if corpus.is_shared:
        return max(0, (corpus.train or 0) - _offset(corpus) - 1) // recipe.model.context
    return None if corpus.test is None else max(0, corpus.test - 1) // recipe.model.context


def _tested(recipe: Recipe, corpus: "Corpus") -> bool:
    room = _room(recipe, corpus)
    return room is None or room >= LEAST_TESTED


def _least_tested() -> int:
    return LEAST_TESTED * SIZES[-1].tables["model"]["context"] + 1


def _evaluation(size: Size, recipe: Recipe, corpus: "Corpus") -> dict[str, Any]:
    """The test: with FineWeb the published slice, else what there is, less a tenth for the validation in training."""
    published = Recipe().evaluation.offset + Recipe().evaluation.sequences * Recipe().model.context
    if corpus.source == FINEWEB and (corpus.test is None or corpus.test > published):
        return {} if size is SIZES[0] else {"sequences": size.sequences}
    room = _room(recipe, corpus)
    few = min(size.sequences, 512) if room is None else min(size.sequences, max(LEAST_TESTED, _round(room * 9 // 10)))
    split = {"split": corpus.split} if corpus.split != Recipe().evaluation.split else {}
    return split | {"offset": _offset(corpus) if corpus.is_shared else 0, "sequences": few}


def _hours(recipe: Recipe, machines: Sequence[Machine], reached: Sequence[Reached]) -> list[Hours]:
    found = [(machine, speed(recipe, machine, reached)) for machine in machines]
    tokens = recipe.steps * recipe.tokens_per_step
    return [Hours(machine.name, tokens / one.tokens_per_second / 3600, one.basis) for machine, one in found]


def speed(recipe: Recipe, machine: Machine, reached: Sequence[Reached]) -> Speed:
    """As a plan knows it; else assumed, like an RTX 3090's for each GPU, and CPU_FLOPS for each CPU worker."""
    if told := speed_of(recipe, machine, reached):
        return told
    if machine.is_cpu:
        return Speed(CPU_FLOPS * machine.accelerators / recipe.model.flops_per_token, "assumed")
    like = declared_speed(recipe, GPU)
    assert like is not None
    return Speed(like.tokens_per_second * machine.accelerators, "assumed")
