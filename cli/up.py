"""`farm up`"""

from urllib.parse import urlsplit

from cli import render
from cli.offers import units, where_shared
from cli.options import Cpus, DashboardPort, Host, Json, Offers, Shared
from cli.render import say
from cli.status import farm_sheet, storage_note
from farm.errors import Conflict
from farm.site import serving
from farm.site.serving import Facts
from farm.site.settings import Settings


def up(
    machine: Offers = None,
    cpus: Cpus = None,
    shared: Shared = False,
    host: Host = None,
    dashboard_port: DashboardPort = None,
    as_json: Json = False,
) -> None:
    """Start a farm on this machine, in the background.

    That is Redis, Ray with its dashboard, and the dispatcher. With --shared other machines can join it; the lines to
    type there are printed.
    """
    settings = Settings.of_this_machine()
    address = where_shared(settings, shared, host)
    facts, offered = serving.facts(settings), units(machine, settings, cpus)
    if facts is not None:
        _check_is_so(facts, offered, cpus, address, dashboard_port)
        say("already up")
        for what in serving.missing(settings, facts):
            say(f"missing: {what}")
    else:
        from workers.head import embedded

        say(f"starting a farm at {settings.home}")
        facts = embedded.up(settings, units=offered, cpus=cpus, shared=address, dashboard_port=dashboard_port)
    render.emit(farm_sheet(settings, facts), as_json=as_json)
    if facts.shared:
        say(storage_note(facts))
    if not as_json:
        render.say_next("farm submit STUDY", "farm status", "farm down")


def _check_is_so(
    facts: Facts, offered: dict[str, int] | None, cpus: int | None, shared: str | None, dashboard_port: int | None
) -> None:
    """Raises: Conflict: the farm that is up is not known to match these options."""
    asked = {
        "--machine": offered not in (None, facts.units),
        "--cpus": cpus is not None,
        "--shared": shared not in (None, facts.shared),
        "--dashboard-port": dashboard_port not in (None, urlsplit(facts.dashboard).port),
    }
    if names := [name for name, is_new in asked.items() if is_new]:
        has = ", ".join(f"{name} x {count}" for name, count in facts.units.items()) or "nothing"
        raise Conflict(
            f"{', '.join(names)} not applied: a farm is up already, process {facts.pid}, and offers {has}.",
            remedy="Stop it first: farm down",
        )
