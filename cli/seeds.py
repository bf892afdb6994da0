"""`farm seeds add [STUDY] ARM --to N`"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from cli import render
from cli.access import machines, queue, study_or_newest, trained_study
from cli.options import Json, Yes, _names
from cli.outcome import remarks
from cli.render import Column, Sheet, say
from cli.submit import enqueue, guard_budget
from farm.site.settings import Settings
from farm.study.arms import BASELINE
from farm.study.recipe import Seeds
from farm.study.seeding import arm_of, as_toml, up_to, widen
from farm.study.study import Study
from farm.verdict.forecast import plans

COLUMNS = (Column("arm", "arm"), Column("seeds", "seeds"), Column("why", "why"))


class Action(StrEnum):
    """The action on seeds."""

    ADD = "add"


def seeds(
    action: Annotated[Action, typer.Argument(metavar="add", help="The one thing to do.")],
    names: Annotated[
        list[str],
        typer.Argument(metavar="[STUDY] ARM", help="An arm; without STUDY, of the newest.", autocompletion=_names),
    ],
    to: Annotated[int, typer.Option("--to", metavar="PAIRS", min=1, help="How many seed pairs the arm should have.")],
    alone: Annotated[bool, typer.Option("--alone", help="Add nothing to the baseline.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Queue nothing; print what would be queued.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give an arm of a submitted study more seed pairs, and queue only what is missing.

    The baseline's own pairs come first: they cost one run each, and shared pairs tell an arm from the baseline with the
    fewest runs. Then come new pairs, the next whole numbers, for the arm and for the baseline; and pairs of the arm
    that the baseline lacks are given to it, too. With --alone the baseline gets nothing. Repeating the command adds
    nothing. Ends with exit code 7 if the study would cost more than its limits, unless -y is given.
    """
    if len(names) > 2:
        raise typer.BadParameter("name a study and one of its arms, or an arm alone", param_hint="[STUDY] ARM")
    settings = Settings.load()
    with queue(settings) as open_queue:
        name = study_or_newest(open_queue, names[0] if len(names) == 2 else None)
        since = open_queue.studies.edition(name)
        study, arm = trained_study(open_queue, name), names[-1]
        more = up_to(study, arm, to, alone=alone)
        wider = widen(study, more)
        known = machines(settings, open_queue)
        plans(wider, known)
        if more and not yes:
            guard_budget(wider, known, open_queue)
        put = open_queue.preview(wider) if dry_run or not more else enqueue(open_queue, settings, wider, since)
        render.emit(sheet(study, arm, more), as_json=as_json)
        if not more:
            say(f"{arm} has {len(arm_of(study, arm).seeds)} seed pairs already: nothing was added")
            return
        for remark in remarks(open_queue, wider, put, dry_run):
            say(remark)
    say("a study file says the same with: " + " ; ".join(as_toml(wider.more_seeds)))
    if not as_json and not dry_run:
        render.say_next(f"farm watch {name}", f"farm table {name}")


def sheet(study: Study, arm: str, more: Mapping[str, tuple[Seeds, ...]]) -> Sheet:
    """A row for each pair that an arm gets."""
    has = {name: set(arm_of(study, name).seeds) for name in (arm, BASELINE)}
    other = {arm: BASELINE, BASELINE: arm}
    rows = [
        {
            "arm": name,
            "seeds": str(pair),
            "why": f"{other[name]} has it" if pair in has[other[name]] else "new pair",
        }
        for name, pairs in more.items()
        for pair in pairs
    ]
    return Sheet("farm.seeds/1", COLUMNS, rows, more={"study": study.name})
