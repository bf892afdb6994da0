"""Attempts of an agent, as its tests need them."""

import time

import numpy as np
from worlds import planned

from farm.queue.values import Claim
from farm.record.ledger import FILE, Line, Writer
from farm.record.result import Fingerprints, Outcome, Provenance, Tokens
from farm.study.run import Attempt, Run
from model.checkpoint import Contents, Identity, write
from workers.attempt.agent import Agent
from workers.attempt.ending import Done, ending

SOFTWARE = Provenance(farm="0", code="c" * 64, python="3.11", torch="2")


def closed(agent: Agent, done: Done | None) -> int:
    """What the agent does once its work has come to that; the exit code."""
    return agent.closing.carry_out(ending(agent.asks.asked, done), agent.work).code


def attempt_of(agent: Agent, claim: Claim, checkpoints: tuple[int, ...], begun: tuple[int, int] | None = None) -> None:
    """What an attempt leaves that wrote `checkpoints` and stopped after the last. `begun`: the epoch and step it went
    on from."""
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    past = Attempt(run_id=claim.run.id, epoch=claim.lease.epoch, worker="w", plan=plan.model_dump(), started=1.0)
    folder = agent.store.runs.begin(claim.run, past)
    from_epoch, from_step = begun or (None, 0)
    with Writer(folder / FILE, claim.lease.epoch, from_epoch, from_step) as written:
        for step in range(from_step + 1, checkpoints[-1] + 1):
            written.append(Line(step, 64, 3.0, 1e-3, 1.0, False, False, 0.1))
    for step in checkpoints:
        contents = Contents(step, {"w": np.full(9, step, np.float32)}, {}, {})
        write(folder / "checkpoints", Identity.of(claim.run, plan), contents)
        agent.work.mirror.settle(0)


def an_outcome(run: Run) -> Outcome:
    return Outcome(
        finished=True,
        step=run.recipe.steps,
        checkpoint=f"checkpoints/step-{run.recipe.steps:08d}",
        checkpoint_seconds_stalled=0.0,
        test_loss=3.0,
        test_tokens=256,
        best_loss=3.0,
        best_step=run.recipe.steps,
        kernels=("farm",),
        compiled=(False,),
        fingerprints=Fingerprints(initial="a", tokens=Tokens(head="b", trained="b", tested="b"), final="c"),
    )


def an_attempt(run: Run, epoch: int) -> Attempt:
    software = SOFTWARE.model_dump(mode="json")
    return Attempt(run_id=run.id, epoch=epoch, worker="worker", provenance=software, started=time.time())
