"""`farm up`"""

from cli import render
from cli.offers import units
from cli.options import Cpus, DashboardPort, Host, Json, Offers
from cli.render import say
from cli.status import served
from farm import serving
from farm import settings as settings_


def up(
    machine: Offers = None,
    cpus: Cpus = None,
    host: Host = "127.0.0.1",
    dashboard_port: DashboardPort = None,
    as_json: Json = False,
) -> None:
    """Start a farm on this machine, in the background.

    That is Redis, Ray with its dashboard, and the dispatcher.
    """
    settings = settings_.of_this_machine()
    facts = serving.facts(settings)
    if facts is not None:
        say("already up")
    else:
        from workers import embedded

        offered = units(machine, settings)
        say(f"starting a farm at {settings.home}")
        facts = embedded.up(settings, units=offered, cpus=cpus, host=host, dashboard_port=dashboard_port)
    render.emit(served(facts), as_json=as_json)
    if not as_json:
        render.say_next("farm submit STUDY", "farm status", "farm down")
