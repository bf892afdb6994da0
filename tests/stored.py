"""Records for the tests of stores."""

from results import tiny_study

from farm.study.run import Attempt, Run

RUN = tiny_study().runs()[1]


def attempt(run: Run = RUN, epoch: int = 1, **changes) -> Attempt:
    return Attempt(run_id=run.id, epoch=epoch, worker="w", started=1000.0 + epoch, **changes)


def failed(run: Run, epoch: int, step: int, retryable: bool = True) -> Attempt:
    ending = {"outcome": "failed", "cause": "x", "ended": 1001.0 + epoch, "step": step, "retryable": retryable}
    return attempt(run, epoch, **ending)
