"""A study in which everything happened that a report shows: its losses are made up, all else is as farm keeps it.

A factorial of three interventions on two machine classes with two seed pairs. A run failed for good and one waits;
others skipped a step, spiked, were clipped, or went on after an attempt that was lost. What a machine says of itself
is full of markup, as it may be.
"""

import random
from math import exp

from results import TINY, result, score

from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.record.ledger import Line, Validation, Writer
from farm.record.sample import FILE as FILE_OF_SAMPLES
from farm.record.sample import Sample, SampleWriter
from farm.record.store import Store
from farm.study.run import Attempt, Checkpoint
from farm.study.study import Study

MACHINES = {"8xa100m40": 0.0, "8xh100m80": 0.0004}  # class -> what it adds to the loss
EFFECTS = {"remove-dropout": -0.05, "gradient-clipping": -0.001, "qkv-bias": 0.02}
TOGETHER = {frozenset({"remove-dropout", "qkv-bias"}): -0.025}
HOSTILE = (
    '</script><script>alert(1)</script><img src=x onerror="alert(2)"><b>node</b> & \x1b[31m\u202e"\'`${1}{{ 7*7 }}'
)
STEPS, BROKE_AT = 120, 60
NAME, FAILED = "crossed", "gradient-clipping.qkv-bias"  # the arm of the runs that failed
FILE = (
    TINY.format(name=NAME, machines=str(list(MACHINES)).replace("'", '"'), init=[42, 22])
    .replace("[study]", '[study]\ndesign = "factorial"\nmargin = 0.004')
    .replace("tokens = 2560", f"tokens = {STEPS * 8 * 32}")
    + """
[interventions.qkv-bias]
model.qkv_bias = true
[evaluations.wiki]
offset = 256
"""
)


def study() -> Study:
    return Study.parse(FILE)


def fill(queue: Queue, store: Store) -> None:
    """Train the whole study, as far as its queue and its storage can see."""
    queue.put(study())
    chance = random.Random(1)
    for machine in MACHINES:
        while queue.listing.backlog().get(machine, 0) > (machine == "8xh100m80"):
            claim = queue.claim(machine, "worker", 60)
            assert claim
            if (claim.run.arm, claim.run.seeds.init) == (FAILED, 22):
                queue.fail(claim.lease, "worker-died", HOSTILE, BROKE_AT, retryable=False)
            else:
                _train(queue, store, claim, chance)


def _train(queue: Queue, store: Store, claim: Claim, chance: random.Random) -> None:
    run, seconds = claim.run, 3.0 if claim.run.machine == "8xa100m40" else 1.5
    test_loss = _loss(claim, chance)
    begun = {"run_id": run.id, "worker": "w", "hardware": {"host": HOSTILE}, "started": 1.0}
    first = Attempt(epoch=1, **begun, outcome="succeeded")  # type: ignore[arg-type]
    resumes = run.arm == "remove-dropout"
    if resumes:
        first = first.model_copy(update={"outcome": "lost", "cause": "lease-expired", "message": HOSTILE})
    folder = store.runs.begin(run, first, NAME)
    with Writer(folder / "ledger.jsonl", 1) as ledger:
        for step in range(1, (BROKE_AT if resumes else STEPS) + 1):
            ledger.append(_line(step, test_loss, seconds, claim, chance))
    if resumes:
        where = Checkpoint(step=BROKE_AT, epoch=1, path=f"runs/{run.id}/1/checkpoints/x", sha256="0" * 64)
        folder = store.runs.begin(run, Attempt(epoch=2, resumed_from=where, **begun, outcome="succeeded"), NAME)  # type: ignore[arg-type]
        with Writer(folder / "ledger.jsonl", 2, 1, BROKE_AT) as ledger:
            for step in range(BROKE_AT + 1, STEPS + 1):
                ledger.append(_line(step, test_loss, seconds, claim, chance))
    with SampleWriter(folder / FILE_OF_SAMPLES, 1) as said:
        for step in range(0, STEPS + 1, STEPS // 10):
            said.append(_sample(step, run.arm))
    hours = seconds * STEPS / 3600
    found = result(run, test_loss, usd=hours * 20, seconds=hours * 3600, kwh=hours * 3)
    told = found.hardware.model_copy(update={"host": HOSTILE})
    found = found.model_copy(update={"hardware": told})
    further = queue.studies.one(NAME).evaluations["wiki"]
    wiki = {"evaluation": run.recipe.with_test(further).evaluation_id("wiki")}
    wiki |= {"definition": run.recipe.with_test(further).tested}
    queue.finish(claim.lease, found, [_scored(found, chance), _scored(found, chance, 0.3, "wiki", **wiki)])


def _sample(step: int, arm: str) -> Sample:
    words = f"at step {step} {arm} says\n{HOSTILE}"
    how = {"temperature": 1.0, "top_k": 25, "seed": 1, "seconds": 0.1, "tokenizer": "gpt2", "tokens": (1, 2)}
    return Sample(step=step, prompt="Every effort moves you", text=words, **how)  # type: ignore[arg-type]


def _scored(found, chance: random.Random, more: float = 0.0, name: str = "test_loss", **changes):
    items = [found.test_loss + more + chance.gauss(0, 0.0004) for _ in range(8)]
    made = score(found, items, name, **changes)
    return made if more else made.model_copy(update={"value": found.test_loss})


def _loss(claim: Claim, chance: random.Random) -> float:
    on = set() if claim.run.arm == "baseline" else set(claim.run.arm.split("."))
    effect = sum(EFFECTS[one] for one in on) + sum(more for pair, more in TOGETHER.items() if pair <= on)
    of_seed = random.Random(claim.run.seeds.init).gauss(0, 0.006)
    return 3.69 + effect + MACHINES[claim.run.machine] + of_seed + chance.gauss(0, 0.001)


def _line(step: int, test_loss: float, seconds: float, claim: Claim, chance: random.Random) -> Line:
    """The third step was skipped, the seventieth spiked; a validation came after each tenth."""
    loss = test_loss + 5 * exp(-step / 25) + chance.gauss(0, 0.03) + 4 * (step == 70)
    looked = Validation("v", 256, 256 * (test_loss + 5 * exp(-step / 25)), 0.1) if step % 10 == 0 else None
    rate, norm = 4e-4 * min(1.0, step / 10), abs(chance.gauss(2.5, 0.8))
    clip = claim.run.recipe.train.clip_grad_norm
    took = seconds * (1 + 0.02 * chance.random())
    return Line(step, 256, 256 * loss, rate, norm, clip is not None and norm > clip, step == 3, took, looked)
