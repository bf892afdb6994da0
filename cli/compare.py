"""`farm compare RUN RUN`"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from cli import render
from cli.access import queue, run_of
from cli.options import Json, RunName
from cli.render import Column, Sheet, say
from cli.show import kept_attempts
from farm.errors import FarmError
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record import layout
from farm.record.result import Tokens
from farm.record.store import Store, open_store
from farm.site.settings import Settings
from farm.study.recipe import TEST
from farm.verdict.comparison import DRIFT, Comparison, Losses, Side
from farm.verdict.comparison import compare as put_side_by_side
from farm.verdict.seen import Seen, names, see


def _show(value: Any) -> str:
    return f"{value:.6f}" if isinstance(value, float) else render.text(value)


def _difference(value: Any) -> str:
    return f"{value:+.3g}" if isinstance(value, float) else render.text(value)


COLUMNS = (
    Column("what", "what"),
    Column("first", "first", _show),
    Column("second", "second", _show),
    Column("difference", "difference", _difference),
)


def compare(first: RunName, second: RunName, as_json: Json = False) -> None:
    """Check whether two runs began alike and saw the same data, and where their losses diverge.

    The losses come from the ledgers in the run directories. Unfinished runs are compared as far as they are; a
    difference is the second minus the first. For two finished runs it shows the test losses and every evaluation that
    has scored both, with its unit and which direction is better; the one that their study ranks by comes first.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        statuses = [run_of(open_queue, name) for name in (first, second)]
        worth = [_worth(open_queue, status) for status in statuses]
    one, other = (
        _side(settings, status)._replace(score=score, seen=found)
        for status, (score, found) in zip(statuses, worth, strict=True)
    )
    found = put_side_by_side(one, other)
    if as_json:
        render.emit_json("farm.compare/1", found)
    else:
        render.emit(Sheet("farm.compare/1", COLUMNS, list(_rows(found))))
    for remark in _remarks(found):
        say(remark)
    for status, side in zip(statuses, (one, other), strict=True):
        if status.step and not side.lines:
            say(f"no ledger of {status.id} under {settings.storage}. Is FARM_STORAGE the farm's storage?")


def _worth(queue: Queue, status: Status) -> tuple[str, list[Seen]]:
    """The evaluation that the run's study ranks by, and its result by each evaluation that has scored it."""
    study = queue.studies.all().get(status.study)
    scores, evaluations = queue.evaluations.scores(status.id, "run"), study.evaluations if study else {}
    found = [status.result] if status.result else []
    by = [see(found, scores, name, evaluations).results for name in names(scores, evaluations)]
    return study.study.score if study else TEST, [one for results in by for one in results]


def _side(settings: Settings, status: Status) -> Side:
    """A run, with what its directory holds if that is seen from here."""
    trained = (status.result and status.result.adopted) or status.id
    attempts = kept_attempts(settings, trained)
    with open_store(settings.storage) as store:
        kept = {} if status.result else _checkpoint(store, status)
        lines = store.copies.lines(trained)
    return Side(
        run=status.run,
        state=status.state,
        lines=lines,
        result=status.result,
        attempt=attempts[-1] if attempts else None,
        initial=kept.get("initial_fingerprint"),
        tokens=Tokens(**kept["tokens"]) if "tokens" in kept else None,
    )


def _checkpoint(store: Store, status: Status) -> dict[str, Any]:
    """The facts in a run's newest checkpoint; empty if there is none."""
    with suppress(FarmError, OSError, ValueError):
        if status.checkpoint and store.path(status.checkpoint.path):
            return json.loads(store.records.get(f"{status.checkpoint.path}/{layout.STATE}") or b"{}")
    return {}


def _rows(found: Comparison) -> Iterator[dict[str, Any]]:
    yield _row("run", found.first, found.second)
    yield _row("state", str(found.first_state), str(found.second_state))
    yield _row("steps in the ledger", found.first_steps, found.second_steps)
    yield _row("initial weights", difference=_sameness(found.same_initial_weights))
    yield _row("tokens trained on", difference=_sameness(found.same_trained))
    yield _row("tokens tested on", difference=_sameness(found.same_tested))
    yield _row("order of the data", difference=_sameness(found.same_order))
    for difference in found.differences:
        yield _row(difference.what, difference.first, difference.second, "differs")
    for what, losses in _losses(found):
        yield _row(what, losses.first, losses.second, losses.difference)
    for one in found.scores:
        what = f"{one.evaluation}, {one.unit}, {one.direction} is better"
        yield _row(what, one.first, one.second, "not comparable" if one.apart else one.difference)
    yield _row("final weights", difference=_sameness(found.same_final_weights))


def _row(what: str, first: Any = None, second: Any = None, difference: Any = None) -> dict[str, Any]:
    return {"what": what, "first": first, "second": second, "difference": difference}


def _sameness(same: bool | None) -> str:
    return "unknown for at least one run" if same is None else "same" if same else "differs"


def _losses(found: Comparison) -> Iterator[tuple[str, Losses]]:
    if found.parted:
        yield f"losses diverge at step {found.parted.step:,}", found.parted
    if found.drifted and found.parted and found.drifted.step != found.parted.step:
        yield f"by more than {DRIFT:g} at step {found.drifted.step:,}", found.drifted
    if found.last:
        yield f"loss at step {found.last.step:,}", found.last
    if found.train_loss:
        yield "train loss", found.train_loss
    if found.test_loss:
        yield "test loss", found.test_loss


def _remarks(found: Comparison) -> Iterator[str]:
    """The answer in a line or two."""
    began = {
        True: "from the same weights",
        False: "from different weights",
        None: "from weights that are unknown for one run at least",
    }
    saw = {True: "on the same data", False: "on different data", None: "on data that is unknown for one run at least"}
    order = "" if found.same_order else " in a different order"
    yield f"{began[found.same_initial_weights]}, {saw[found.same_trained]}{order}, {_parting(found)}"
    if found.other_bits:
        yield f"another arithmetic computed each, which gives other bits by itself: {found.other_bits}"
    if found.apart:
        yield f"the test losses cannot be compared: {found.apart}"
    for one in found.scores:
        if one.apart:
            yield f"the scores by {one.evaluation} cannot be compared: {one.apart}"
    for name, runs in found.unscored.items():
        yield f"no score by {name}, which their study ranks by: {', '.join(runs)}; to score them: farm eval RUN {name}"


def _parting(found: Comparison) -> str:
    if not found.common_steps:
        return "with no common steps recorded"
    if found.parted is None:
        return f"the same loss to the bit at each of {found.common_steps:,} steps"
    end = found.last.difference if found.last else None
    by = "" if end is None else f", by {_difference(end)} at step {found.common_steps:,}"
    return f"losses that diverge at step {found.parted.step:,}{by}"
