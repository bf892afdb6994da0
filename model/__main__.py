"""`torchrun --nproc-per-node N -m model STUDY RUN FOLDER`: one run of a study, without Ray or Redis."""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from farm.errors import NotFound
from farm.study import planner
from farm.study.run import Run
from farm.study.study import load
from model import checkpoint
from model.corpus.checks import exams_of
from model.group import check, in_turn, initialise, join
from model.meter import Signal
from model.train import train


def main() -> None:
    """`torchrun --nproc-per-node N -m model STUDY RUN FOLDER`: one run, without Ray or Redis.

    FOLDER gets a folder per attempt, as a run directory has; called again, it goes on from the newest checkpoint there.
    SIGTERM saves and ends.
    """
    parser = argparse.ArgumentParser(prog="model", description="Train one run of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("run", help="the run's id, or the beginning of it")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/farm"))
    arguments = parser.parse_args()
    study = load(arguments.study)
    run = _chosen(study.runs(), arguments.run)
    machine = study.machine(run.machine, {})
    meets = initialise if int(os.environ.get("WORLD_SIZE", "1")) > 1 else check
    meets(on_cuda=not machine.is_cpu)
    plan = planner.plan(run.recipe, machine)
    found = checkpoint.newest_valid(arguments.folder.glob("*/checkpoints"), run, plan)
    # Rank 0 creates its ledger once all ranks have met, so that they all count the same ones here.
    epoch = 1 + len(list(arguments.folder.glob("*/ledger.jsonl")))
    (arguments.folder / str(epoch)).mkdir(parents=True, exist_ok=True)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    cache = arguments.cache.expanduser()
    group = join(plan)
    outcome = train(
        run,
        plan,
        arguments.folder / str(epoch),
        cache=cache,
        epoch=epoch,
        resume=found and found.path,
        resume_epoch=found and int(found.path.parent.parent.name),
        control=lambda: Signal.STOP if told else Signal.CONTINUE,
        observe=lambda line: print(f"step {line.step} loss {line.loss_sum / line.tokens:.4f}", file=sys.stderr),
        saved=lambda step, path, sha256: print(f"step {step} saved in {path}", file=sys.stderr),
        note=lambda event, detail: print(f"{event}: {detail}", file=sys.stderr),
        exams=in_turn(lambda: exams_of(run.recipe, study.evaluations, cache), group),
    )
    if group.leads:
        print(outcome.model_dump_json())
    if dist.is_initialized():
        dist.destroy_process_group()


def _chosen(runs: list[Run], beginning: str) -> Run:
    found = [run for run in runs if run.id.startswith(beginning)]
    if len(found) != 1:
        ids = ", ".join(run.id for run in (found or runs)[:8])
        raise NotFound(f"{len(found)} runs of the study begin with {beginning!r}.", remedy=f"Choose one of {ids}.")
    return found[0]


if __name__ == "__main__":
    main()
