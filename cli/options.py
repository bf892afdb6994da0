"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def study_names(incomplete: str) -> list[str]:
    from cli.access import complete_study

    return complete_study(incomplete)


def _runs(incomplete: str) -> list[str]:
    from cli.access import complete_run

    return complete_run(incomplete)


def _names(incomplete: str) -> list[str]:
    return [*study_names(incomplete), *_runs(incomplete)]


def _publishable(incomplete: str) -> list[str]:
    from cli.access import complete_arm

    return list(dict.fromkeys([*_names(incomplete), *complete_arm(incomplete, None)]))


def _arms(context: typer.Context, incomplete: str) -> list[str]:
    from cli.access import complete_arm

    named = [context.params[key] for key in ("study", "name", "run") if context.params.get(key)]
    named += context.args  # all that was typed before an option that still wants its value
    return complete_arm(incomplete, str(named[0]) if named else None)


Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study file (TOML); - is standard input.", show_default=False)
]
StudyName = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="Its name; default: the newest.", autocompletion=study_names)
]
StudyOrAll = Annotated[
    str | None, typer.Argument(metavar="STUDY", help="Its name; default: all.", autocompletion=study_names)
]
ArmName = Annotated[
    str | None, typer.Option("--arm", metavar="ARM", help="Only the runs of this arm.", autocompletion=_arms)
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or enough of its start.", autocompletion=_runs)
]
RunOrStudy = Annotated[
    str, typer.Argument(metavar="RUN|STUDY", help="A run's id or its start, or a study.", autocompletion=_names)
]
RunArmOrStudy = Annotated[
    str,
    typer.Argument(
        metavar="RUN|ARM|STUDY", help="A run's id or its start, an arm, or a study.", autocompletion=_publishable
    ),
]
Offers = Annotated[
    list[str] | None,
    typer.Option("--machine", metavar="CLASS[=UNITS]", help="Offer this class; repeatable. Default: what is found."),
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Go ahead even if a guard would refuse.")]
Cpus = Annotated[int | None, typer.Option("--cpus", min=1, help="CPUs for Ray to hand out; default: all.")]
Shared = Annotated[bool, typer.Option("--shared", help="Let other machines join, and laptops submit.")]
Host = Annotated[
    str | None,
    typer.Option("--host", help="With --shared: this machine's address for the others. Default: what is found."),
]
DashboardPort = Annotated[int | None, typer.Option("--dashboard-port", min=1, max=65535, help="Default: a free one.")]
