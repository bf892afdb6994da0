"""A Redis as a farm of many studies leaves it, written by the queue's own verbs: only the losses are made up.

Each study has a baseline and four interventions on two machine classes with twenty seed pairs: 200 runs. Most have
succeeded, some failed or were cancelled; of the newest two studies one trains and one waits. A finished run has all
that a training hands in: its result with a validation curve, its score with the means of 256 blocks, its curve, its
failures. Losses have an effect of the arm, of the seeds, of the machine and of the test's items, and noise, so that a
table has something of everything to say.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from farm.queue.queue import Queue
from farm.queue.values import Claim, Point
from farm.record import layout
from farm.record.result import Fingerprints, Hardware, Provenance, Result, Tokens, Validated
from farm.record.score import Score
from farm.stats import mean, sd
from farm.study.machine import BUILT_IN, Machine
from farm.study.planner import plan
from farm.study.recipe import TEST
from farm.study.run import Checkpoint, Run
from farm.study.study import Study

MACHINES = {"8xa100m40": 300_000, "1xrtx3090": 14_000}  # tokens a second
SEEDS = 20
ARMS = {"baseline": 0.0, "remove-dropout": -0.02, "gradient-clipping": 0.0, "untied": 0.01, "hotter": -0.004}
RUNS = len(ARMS) * len(MACHINES) * SEEDS  # of a study
STUDY = """
[study]
name = "{name}"
machines = {machines}
seeds = {{ init = {seeds}, train = [23] }}
[baseline.train]
learning_rate = {rate}
[interventions.remove-dropout]
model.dropout = 0.0
[interventions.gradient-clipping]
train.clip_grad_norm = 3.5
[interventions.untied]
model.qkv_bias = true
[interventions.hotter]
train.weight_decay = 0.05
"""
FAILED, CANCELLED = 0.02, 0.01  # of the runs of a finished study
TRAINING = 16  # at a time
LEASE_SECONDS = 86_400.0
POINTS = 200  # of a curve
VALIDATIONS = 20  # of a run, as many as a recipe has by default
SEED_SD, MACHINE_SD, NOISE_SD, ITEM_SD = 0.006, 0.001, 0.002, 0.3


class Populated(NamedTuple):
    """What there is: the names of the studies, finished ones first, and all their runs."""

    finished: list[str]
    training: str
    waiting: str
    runs: int


def populate(queue: Queue, studies: int = 50, seed: int = 1) -> Populated:
    """Fill an empty queue with `studies` studies of RUNS runs."""
    machines = {name: BUILT_IN[name] for name in MACHINES}
    for machine in machines.values():
        queue.roster.register(machine, "node-1", LEASE_SECONDS)
    *finished, training, waiting = [f"study-{number:02}" for number in range(1, studies + 1)]
    chance = random.Random(seed)
    for number, name in enumerate(finished):
        queue.put(_study(name, number))
        for claim in _claims(queue):
            _train(queue, claim, machines[claim.run.machine], chance)
    queue.put(_study(training, len(finished)))
    for _, claim in zip(range(TRAINING), _claims(queue), strict=False):
        queue.renew(claim.lease, POINTS // 2, LEASE_SECONDS, f"farm-{claim.run.id}-a1", "n" * 56)
        queue.record(claim.lease, _curve(claim.run, chance)[: POINTS // 2])
    queue.put(_study(waiting, len(finished) + 1))
    return Populated(finished, training, waiting, studies * RUNS)


def _study(name: str, number: int) -> Study:
    """Each has another learning rate: no run is of two studies."""
    machines = str(list(MACHINES)).replace("'", '"')
    return Study.parse(
        STUDY.format(name=name, machines=machines, seeds=list(range(SEEDS)), rate=round(4e-4 + number * 1e-6, 7))
    )


def _claims(queue: Queue) -> Iterator[Claim]:
    for machine in MACHINES:
        while claim := queue.claim(machine, "population", LEASE_SECONDS, "n" * 56):
            yield claim


def _train(queue: Queue, claim: Claim, machine: Machine, chance: random.Random) -> None:
    """What the queue hears of one attempt from its beginning to its end."""
    run, lease, fate = claim.run, claim.lease, chance.random()
    queue.renew(lease, 0, LEASE_SECONDS, f"farm-{run.id}-a{lease.epoch}", "n" * 56)
    queue.record(lease, _curve(run, chance))
    if fate < FAILED:
        queue.fail(lease, "nonfinite", "the loss of step 1,234 is nan.", 1_234, False)
    elif fate < FAILED + CANCELLED:
        queue.cancel(run.id)
        queue.acknowledge_cancel(lease)
    else:
        result = trained(run, machine, lease.epoch, chance)
        path = result.checkpoint
        queue.checkpoint(lease, Checkpoint(step=result.steps, epoch=lease.epoch, path=path, sha256="0" * 64))
        queue.finish(lease, result, [scored(result, chance)])


def _curve(run: Run, chance: random.Random) -> list[Point]:
    steps = run.recipe.steps
    return [
        Point(
            step=max(1, steps * i // POINTS),
            loss=3.3 + 7 / (1 + i) ** 0.5 + chance.gauss(0, 0.01),
            lr=run.recipe.train.learning_rate * (1 - i / POINTS / 2),
            grad_norm=abs(chance.gauss(0.5, 0.1)),
            tokens_per_second=MACHINES[run.machine] * chance.gauss(1, 0.003),
            validation_loss=3.4 + 7 / (1 + i) ** 0.5 + chance.gauss(0, 0.001)
            if i % (POINTS // VALIDATIONS) == 0
            else None,
        )
        for i in range(1, POINTS + 1)
    ]


def trained(run: Run, machine: Machine, epoch: int, chance: random.Random) -> Result:
    """What a run of the population says when it finishes."""
    recipe = run.recipe
    tokens, speed = recipe.steps * recipe.tokens_per_step, MACHINES[run.machine] * chance.gauss(1, 0.003)
    of_seed = random.Random(f"{run.seeds}").gauss(0, SEED_SD)
    of_machine = random.Random(f"{run.seeds} {run.machine}").gauss(0, MACHINE_SD)
    loss = 3.6 + ARMS[run.arm] + of_seed + of_machine + chance.gauss(0, NOISE_SD)
    seconds = tokens / speed
    started = 1.79e9 + chance.random() * 1e6
    return Result(
        run_id=run.id,
        arm=run.arm,
        machine=run.machine,
        seeds=run.seeds,
        recipe=recipe,
        plan=plan(recipe, machine),
        epoch=epoch,
        evaluation=recipe.evaluation_version,
        test_loss=loss,
        test_tokens=recipe.evaluation.sequences * recipe.tested_context,
        train_loss=loss - 0.05,
        best_loss=loss - 0.3,
        best_step=recipe.steps - 7,
        steps=recipe.steps,
        tokens=tokens,
        started=started,
        ended=started + seconds,
        seconds=seconds + 60,
        train_seconds=seconds,
        validation=tuple(
            Validated(
                step=recipe.steps * i // VALIDATIONS,
                tokens=tokens * i // VALIDATIONS,
                seconds=seconds * i / VALIDATIONS,
                loss=loss + 1 / i,
            )
            for i in range(1, VALIDATIONS + 1)
        ),
        validation_seconds=100.0,
        tokens_per_second=speed,
        peak_bytes=30 * 2**30,
        checkpoint_seconds_stalled=1.5,
        kernels=("torch",),
        compiled=(False,),
        usd=seconds / 3600 * (machine.usd_per_hour or 0.3),
        prices=machine.prices,
        kwh=seconds / 3600 * 2.4,
        energy_meter="nvml",
        hardware=Hardware(
            host="node-1",
            accelerator=machine.accelerator,
            accelerators=machine.accelerators,
            memory_bytes=machine.memory,
            driver="580.65.06",
            cuda="12.8",
            cpu="AMD EPYC 7763 64-Core Processor",
            cores=128,
            threads=1,
        ),
        provenance=Provenance(
            farm="1.0", commit="c" * 40, code="0" * 64, python="3.11.7", torch="2.13.0", ray="2.51.1"
        ),
        fingerprints=Fingerprints(
            initial=f"{run.seeds.init:064x}",
            tokens=Tokens(head="1" * 64, trained="2" * 64, tested="3" * 64, validated="4" * 64),
            final=run.digest,
        ),
        checkpoint=f"{layout.checkpoints(run.id, epoch)}/{layout.checkpoint(recipe.steps)}",
    )


def scored(result: Result, chance: random.Random) -> Score:
    """The score of its model by the test: items that are hard for one model are hard for all."""
    items = random.Random(0)
    blocks = [items.gauss(0, ITEM_SD) + chance.gauss(0, ITEM_SD / 20) for _ in range(256)]
    centre, spread = mean(blocks), sd(blocks)
    assert spread is not None
    return Score(
        run_id=result.run_id,
        name=TEST,
        evaluation=result.recipe.evaluation_id(TEST),
        definition=result.recipe.tested,
        value=result.test_loss,
        count=result.recipe.evaluation.sequences,
        standard_error=spread / 256**0.5,
        blocks=tuple(result.test_loss + block - centre for block in blocks),
        items=result.items,
        weights=result.fingerprints.final,
        values="5" * 64,
        code=result.provenance.code,
        hardware=result.hardware,
        precision=result.recipe.evaluation.precision,
        when=result.ended,
        epoch=result.epoch,
    )
