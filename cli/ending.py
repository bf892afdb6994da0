"""How watching runs ended: the exit code, and the remedies for runs that wait for a person."""

from collections import Counter
from collections.abc import Iterator, Sequence

from cli.access import machines
from cli.render import say
from cli.runs import outlook
from farm.errors import Guard
from farm.queue.budget import Spending, dollars
from farm.queue.listing import Picture
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.queue.waiting import Outlook
from farm.site.settings import Settings
from farm.study.run import State
from farm.verdict.forecast import least_hours, least_limit


def exit_code(settings: Settings, queue: Queue, picture: Picture) -> int:
    """The exit code for runs that were followed to their end, after saying what those that are not final wait for.

    0: all succeeded. 7: some wait because a limit is spent. 1: some failed, were cancelled, are paused or cannot be
    read.
    """
    statuses = picture.statuses
    if all(status.state.is_final for status in statuses):
        return int(bool(picture.flaws) or any(status.state is not State.SUCCEEDED for status in statuses))
    found = outlook(settings, queue)
    for line in remedies(settings, queue, statuses, found):
        say(line)
    return Guard.exit_code if any(status.run.id in found.over_budget for status in statuses) else 1


def remedies(settings: Settings, queue: Queue, statuses: Sequence[Status], found: Outlook) -> Iterator[str]:
    """A line for each reason for which some of `statuses` wait for a person, and what lets them go on."""
    over = [
        (status.study, found.over_budget[status.run.id]) for status in statuses if status.run.id in found.over_budget
    ]
    for (study, spent), count in Counter(over).items():
        yield f"{study}: {_runs(count, 'waits', 'wait')}: {spent}. {_go_on(settings, queue, study, spent)}"
    paused = [(status.study, found.paused[status.run.id]) for status in statuses if status.run.id in found.paused]
    for (study, reason), count in Counter(paused).items():
        yield (
            f"{study}: {_runs(count, 'is paused', 'are paused')}: {reason}."
            f" Fix it and submit the study again, or: farm retry {study}"
        )


def _runs(count: int, one: str, several: str) -> str:
    return f"{count} runs {several}" if count > 1 else f"1 run {one}"


def _go_on(settings: Settings, queue: Queue, study: str, spent: Spending) -> str:
    form, known = queue.studies.one(study), machines(settings, queue)
    its, reached = queue.listing.costs(form), queue.listing.speeds()
    wanted = []
    if spent.usd >= spent.limit:
        usd = least_limit(form, its, known, spent.usd, reached)
        wanted.append(f"a policy.usd_limit {_at_least(None if usd is None else dollars(usd))}")
    if spent.hours >= spent.hours_limit:
        hours = least_hours(form, its, known, spent.hours, reached)
        wanted.append(f"a policy.hours_limit {_at_least(None if hours is None else f'{hours:,.2f}')}")
    return f"The rest goes on with {' and '.join(wanted)}: edit the study and submit it again."


def _at_least(amount: str | None) -> str:
    return f"of at least {amount} (forecast)" if amount is not None else "that is higher"
