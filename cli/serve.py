"""`farm serve`"""

from pathlib import Path
from typing import Annotated

import typer

from cli.offers import units, where_shared
from cli.options import Cpus, DashboardPort, Host, Offers, Shared
from farm.errors import BadSetting, Conflict
from farm.site import serving
from farm.site.settings import Settings

Attach = Annotated[
    str | None,
    typer.Option("--attach", metavar="ADDRESS", help="Dispatch for the Ray that runs at ADDRESS; offer nothing here."),
]
AutoscalingConfig = Annotated[
    Path | None,
    typer.Option(
        "--autoscaling-config",
        metavar="FILE",
        help="With --attach: the file of its autoscaler, which then starts machines for waiting runs.",
    ),
]


def serve(
    machine: Offers = None,
    cpus: Cpus = None,
    shared: Shared = False,
    host: Host = None,
    dashboard_port: DashboardPort = None,
    attach: Attach = None,
    autoscaling_config: AutoscalingConfig = None,
) -> None:
    """Run a farm on this machine in the foreground, until Ctrl-C.

    SIGTERM and Ctrl-C both stop it: running runs write a checkpoint and go back to the queue.
    """
    settings = Settings.of_this_machine()
    if (facts := serving.facts(settings)) is not None:
        raise Conflict(f"a farm is up at {settings.home} already, process {facts.pid}.", remedy="Stop it: farm down")
    if autoscaling_config and not attach:
        raise BadSetting(
            "--autoscaling-config needs --attach: the farm's own Ray has no autoscaler.",
            remedy="Start Ray with it, then: farm serve --attach HOST:PORT --autoscaling-config FILE.",
        )
    if attach and shared:
        raise BadSetting(
            "--shared cannot be used with --attach: this farm does not own that Ray.",
            remedy="Other machines join it with farm join HEAD.",
            page="docs/machines/join.md#joining",
        )
    address = where_shared(settings, shared, host)
    offered = units(machine, settings, cpus)
    from workers.head.embedded import foreground

    foreground(
        settings,
        units=offered,
        cpus=cpus,
        shared=address,
        dashboard_port=dashboard_port,
        attach=attach,
        autoscaling_config=str(autoscaling_config.expanduser().absolute()) if autoscaling_config else None,
    )
