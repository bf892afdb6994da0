"""`farm serve`"""

from typing import Annotated

import typer

from cli.offers import units
from cli.options import Cpus, DashboardPort, Host, Offers
from farm import serving
from farm import settings as settings_
from farm.errors import Conflict

Attach = Annotated[
    str | None,
    typer.Option("--attach", metavar="ADDRESS", help="Dispatch for the Ray that runs at ADDRESS; offer nothing here."),
]


def serve(
    machine: Offers = None,
    cpus: Cpus = None,
    host: Host = "127.0.0.1",
    dashboard_port: DashboardPort = None,
    attach: Attach = None,
) -> None:
    """Run a farm on this machine in the foreground, until Ctrl-C.

    SIGTERM and Ctrl-C stop it alike: running runs write a checkpoint and go back to the queue.
    """
    settings = settings_.load()
    if (facts := serving.facts(settings)) is not None:
        raise Conflict(f"a farm is up at {settings.home} already, process {facts.pid}.", remedy="Stop it: farm down")
    offered = units(machine, settings)
    from workers.embedded import foreground

    foreground(settings, units=offered, cpus=cpus, host=host, dashboard_port=dashboard_port, attach=attach)
