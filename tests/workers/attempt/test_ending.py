"""How an attempt ends, over every combination of what was asked and what became of the work."""

from itertools import product

import pytest
from results import result, tiny_study

from farm import errors
from farm.errors import BadCorpus, FarmError, Hung, LeaseLost, Nonfinite, StorageFull, WorkerDied
from workers.attempt.ending import (
    DRAINED,
    Asked,
    Barred,
    Broken,
    Cancelled,
    Done,
    Ending,
    Failed,
    Finished,
    Lost,
    Refused,
    Released,
    Stopped,
    Succeeded,
    ending,
)

CANCEL, GONE, HUNG = errors.Cancelled("cancelled"), LeaseLost("lost"), Hung("hung")
RESULT = result(tiny_study().runs()[0], 3.0)

ASKED = [Asked(drain, stop) for drain, stop in product((False, True), (None, CANCEL, GONE, HUNG))]
# One letter for each of ASKED. S succeeded, F failed, R released, N refused by the node, C refused for the corpus,
# X cancelled, L lost. A small letter: and the job's exit code is 0. "-": cannot be, since nobody asked.
TABLE: dict[Done | None, str] = {
    #                                       ask: - X L H   and the machine is wanted back: - X L H
    None: "-xlF rxlR",
    Finished(RESULT): "sxss sxss",
    Stopped(): "lxlF rxlR",
    Barred("no unit", above=4): "rxlr rxlr",
    Broken(WorkerDied()): "FXLF RXLR",
    Broken(Nonfinite()): "FXLF FXLF",
    Broken(CANCEL): "XXXX XXXX",
    Broken(GONE): "LLLL LLLL",
    Broken(BadCorpus(), "corpus"): "CXLC CXLC",
    Broken(StorageFull(), "corpus"): "CXLC RXLR",
    Broken(BadCorpus(), "node"): "NXLN NXLN",
    Broken(StorageFull(), "node"): "NXLN NXLN",
}
KINDS = {"s": Succeeded, "f": Failed, "r": Released, "n": Refused, "c": Refused, "x": Cancelled, "l": Lost}
CASES = [
    (asked, done, letter)
    for done, letters in TABLE.items()
    for asked, letter in zip(ASKED, letters.replace(" ", ""), strict=True)
    if letter != "-"
]


def named(value: object) -> str:
    if isinstance(value, Asked):
        return f"{'drain' if value.drain else ''}+{type(value.stop).__name__ if value.stop else ''}"
    return type(value.error).__name__ if isinstance(value, Broken) else type(value).__name__


@pytest.mark.parametrize(("asked", "done", "letter"), CASES, ids=named)
def test_every_attempt_has_one_ending(asked: Asked, done: Done | None, letter: str) -> None:
    end = ending(asked, done)
    assert type(end) is KINDS[letter.lower()]
    assert end.code == letter.isupper()
    check_carries(end, asked, done)
    if isinstance(end, Refused):
        assert end.fault == {"n": "node", "c": "corpus"}[letter.lower()]


def check_carries(end: Ending, asked: Asked, done: Done | None) -> None:
    """The ending brings along what its closing says of it."""
    error: FarmError | None = done.error if isinstance(done, Broken) else None
    hang = HUNG if asked.stop is HUNG and not isinstance(done, Finished | Barred | Broken) else None
    assert end.error is (error or hang)
    match end:
        case Succeeded(product=made):
            assert made is RESULT
        case Released(reason=reason, above=above):
            assert (reason, above) == (("no unit", 4) if isinstance(done, Barred) else (DRAINED, 0))
        case Lost(why=why):
            assert why is (GONE if GONE in (asked.stop, error) else None)


def test_work_that_goes_on_unasked_has_no_ending() -> None:
    with pytest.raises(AssertionError, match="no end was asked for"):
        ending(Asked(), None)
