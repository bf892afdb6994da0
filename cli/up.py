"""`farm up`"""

from urllib.parse import urlsplit

from cli import render
from cli.offers import units
from cli.options import Cpus, DashboardPort, Host, Json, Offers
from cli.render import say
from cli.status import served
from farm import serving
from farm import settings as settings_
from farm.errors import Conflict
from farm.serving import Facts

LOOPBACK = "127.0.0.1"


def up(
    machine: Offers = None,
    cpus: Cpus = None,
    host: Host = LOOPBACK,
    dashboard_port: DashboardPort = None,
    as_json: Json = False,
) -> None:
    """Start a farm on this machine, in the background.

    That is Redis, Ray with its dashboard, and the dispatcher.
    """
    settings = settings_.of_this_machine()
    facts, offered = serving.facts(settings), units(machine, settings, cpus)
    if facts is not None:
        _check_is_so(facts, offered, cpus, host, dashboard_port)
        say("already up")
    else:
        from workers import embedded

        say(f"starting a farm at {settings.home}")
        facts = embedded.up(settings, units=offered, cpus=cpus, host=host, dashboard_port=dashboard_port)
    render.emit(served(facts), as_json=as_json)
    if not as_json:
        render.say_next("farm submit STUDY", "farm status", "farm down")


def _check_is_so(
    facts: Facts, offered: dict[str, int] | None, cpus: int | None, host: str, dashboard_port: int | None
) -> None:
    """Raises: Conflict: the farm that is up is not known to be as these options would have it."""
    asked = {
        "--machine": offered not in (None, facts.units),
        "--cpus": cpus is not None,
        "--host": host != LOOPBACK,
        "--dashboard-port": dashboard_port not in (None, urlsplit(facts.dashboard).port),
    }
    if names := [name for name, is_new in asked.items() if is_new]:
        has = ", ".join(f"{name} x {count}" for name, count in facts.units.items()) or "nothing"
        raise Conflict(
            f"{', '.join(names)} not applied: a farm is up already, process {facts.pid}, and offers {has}.",
            remedy="Stop it first: farm down",
        )
