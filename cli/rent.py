"""`farm rent CLASS`, `farm rent --list`, `farm rent --end NAME`"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import say
from cli.rented import accounts, marked, sheet, strays
from farm.errors import BadSetting, Conflict, FarmError, Guard, NotFound, Unreachable, nearest
from farm.queue.queue import Queue
from farm.queue.rental import Rental, Stage
from farm.site import serving
from farm.site.settings import Settings, make_home

LOOK_SECONDS = 0.5
END_SECONDS = 300.0  # what trains may take two minutes to save a checkpoint
HOURS = 24.0
MAX_SETUP_BYTES = 2**20

Class = Annotated[
    str | None, typer.Argument(metavar="CLASS", help="The machine class, such as 8xa100m40.", show_default=False)
]
By = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help="lambda or skypilot. Default: engine in [rent], else lambda."),
]
Region = Annotated[
    str | None,
    typer.Option("--region", help="Only there; for SkyPilot CLOUD or CLOUD/REGION. Default: the cheapest anywhere."),
]
MaxPrice = Annotated[
    float | None,
    typer.Option("--max-usd-per-hour", help="Launch nothing dearer. Default: the price at which it is offered now."),
]
Hours = Annotated[float, typer.Option("--hours", help="End each machine this long after its launch.")]
Usd = Annotated[
    float | None, typer.Option("--usd", metavar="TOTAL", help="End them when they have cost this, in equal shares.")
]
Count = Annotated[int, typer.Option("--count", min=1, max=16, help="How many.")]
Idle = Annotated[float, typer.Option("--idle", metavar="MINUTES", help="End a machine without a run for this long.")]
SshKey = Annotated[str | None, typer.Option("--ssh-key", metavar="NAME", help="The SSH key, as the account calls it.")]
Identity = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", help="Its private part. Default: what of ~/.ssh the account knows."),
]
Ssh = Annotated[str, typer.Option("--ssh", metavar="COMMAND", help="How to call ssh.")]
Setup = Annotated[
    Path | None, typer.Option("--setup", metavar="FILE", help="A script to run there first: VPN, storage, credentials.")
]
Trust = Annotated[
    bool, typer.Option("--trust-first-contact", help="Accept whatever host key the machine shows at first.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the machines have joined or are ended.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be rented, and rent nothing.")]
List = Annotated[bool, typer.Option("--list", help="List what is rented, wanted, or was rented in the last 30 days.")]
End = Annotated[str | None, typer.Option("--end", metavar="NAME", help="End this machine, or do not launch it.")]


def rent(
    machine: Class = None,
    engine: By = None,
    region: Region = None,
    max_usd_per_hour: MaxPrice = None,
    hours: Hours = HOURS,
    usd: Usd = None,
    count: Count = 1,
    idle: Idle = 10.0,
    ssh_key: SshKey = None,
    identity: Identity = None,
    ssh: Ssh = "ssh",
    setup: Setup = None,
    trust_first_contact: Trust = False,
    wait: Wait = False,
    dry_run: DryRun = False,
    list_: List = False,
    end: End = None,
    as_json: Json = False,
) -> None:
    """Rent a machine: wait until a cloud has one, launch it, let it join this farm, and end it when idle.

    The farm does all this itself, from where `farm up --shared` runs, so this terminal may be closed. Lambda's API key
    comes from LAMBDA_API_KEY, or from ~/.config/farm/lambda-api-key. SkyPilot has its own credentials for many clouds.
    """
    if sum((machine is not None, list_, end is not None)) != 1:
        raise BadSetting("farm rent needs one of CLASS, --list and --end NAME.", remedy="See: farm rent --help")
    settings = Settings.load() if list_ else Settings.of_this_machine()
    if list_:
        _list(settings, as_json)
        return
    if end is not None:
        _end(settings, end, as_json)
        return
    _check_amounts({"--max-usd-per-hour": max_usd_per_hour, "--hours": hours, "--usd": usd, "--idle": idle})
    from workers.node import hardware
    from workers.rent import arrival, engines
    from workers.rent.account import check_reachable
    from workers.rent.engine import Way

    renter = engines.engine(engine or settings.rent.engine, settings, hardware.provenance)
    shared = _shared(settings, dry_run)
    script = _read_setup(setup)
    agreed = renter.agree(machine or "", max_usd_per_hour, region, Way(ssh, ssh_key, identity))
    arrival.check_sources()
    if shared:
        try:
            check_reachable(shared, script is not None)
        except Guard as refusal:
            if not dry_run:
                raise
            say(f"before you rent: {refusal}")
    price = max_usd_per_hour if max_usd_per_hour is not None else agreed.offers[0].usd_per_hour
    for line in renter.tell(agreed.offers, region):
        say(f"{machine}: {line}")
    most = min(hours * price * count, usd if usd is not None else math.inf)
    say(f"{count} x {machine} for at most {hours:g} h each: at most ${most:,.2f}; ended when idle for {idle:g} min")
    if dry_run:
        say("--dry-run: nothing was rented")
        if as_json:
            told = [it._asdict() for it in agreed.offers]
            more = {"engine": renter.name, "ssh_key": agreed.record["ssh_key"] or None, "most_usd": most}
            render.emit_json("farm.rent/1", told, **more)
        return
    with queue(settings) as open_queue:
        wanted = Rental(
            name="",
            keeper="",
            cloud=renter.name,
            machine=machine or "",
            region=region,
            max_usd_per_hour=price,
            hours=hours,
            usd=usd / count if usd is not None else None,
            idle_minutes=idle,
            is_host_known=not trust_first_contact,
            asked=time.time(),
            **agreed.record,
        )
        names = [_put(settings, open_queue, renter, wanted, script) for _ in range(count)]
        if wait:
            _follow(open_queue, names)
        rentals = [one for one in open_queue.roster.rentals() if one.name in names]
    render.emit(sheet(rentals), as_json=as_json)
    if not as_json:
        render.say_next("farm rent --list", f"farm rent --end {names[0]}")
    if wait and any(one.stage is not Stage.UP for one in rentals):
        raise typer.Exit(1)


def _check_amounts(amounts: dict[str, float | None]) -> None:
    """Raises: BadSetting"""
    for option, value in amounts.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise BadSetting(f"{option} {value:g} is not an amount above 0.", remedy="Name one, such as 12.5.")


def _shared(settings: Settings, is_dry: bool) -> str | None:
    """The address at which this farm is shared.

    Raises: Unreachable: none is up here that a machine could join; unless nothing is to be rented.
    """
    facts = serving.facts(settings)
    if facts is not None and facts.shared:
        return facts.shared
    what = "the farm of this machine is not shared" if facts else "no farm is up on this machine"
    if is_dry:
        say(f"{what}; before you rent: {'farm down; ' if facts else ''}farm up --shared")
        return None
    raise Unreachable(
        f"{what}, so a rented machine could not join it, and nobody would end it.",
        remedy=f"Type first: {'farm down; ' if facts else ''}farm up --shared",
    )


def _read_setup(path: Path | None) -> bytes | None:
    """Raises: BadSetting"""
    if path is None:
        return None
    try:
        script = path.expanduser().read_bytes()
    except OSError as error:
        raise BadSetting(f"--setup {path}: {error.strerror}.", remedy="Name a shell script.") from None
    if not script.strip() or len(script) > MAX_SETUP_BYTES:
        raise BadSetting(f"--setup {path} is {len(script):,} bytes, which no script is.", remedy="Name a shell script.")
    return script


def _put(settings: Settings, queue: Queue, renter: Any, wanted: Rental, script: bytes | None) -> str:
    """Record that one machine is wanted, with all that it takes on disk before; its name."""
    from farm.files import PRIVATE, write_whole
    from workers.rent import arrival, names

    head = queue.roster.head()
    assert head is not None, "a farm that is up has said where it is"
    one = wanted.model_copy(
        update={"name": names.new(head.marker, wanted.machine), "keeper": names.keeper(settings.home)}
    )
    folder = arrival.folder_of(settings.home, one.name)
    make_home(folder)
    folder.chmod(0o700)
    renter.prepare(one)
    if script is not None:
        write_whole(folder / arrival.SETUP, script, PRIVATE)
    queue.roster.rent(one)
    renter.keep()
    return one.name


def _follow(queue: Queue, names: Sequence[str]) -> None:
    """Say what becomes of the machines until each has joined or is ended."""
    said: dict[str, tuple[Stage, str]] = {}
    try:
        while True:
            rentals = [one for one in queue.roster.rentals() if one.name in names]
            for one in rentals:
                now = (one.stage, one.note or one.reason or "")
                if said.get(one.name) != now:
                    said[one.name] = now
                    say(f"{one.name} is {one.stage}{': ' * bool(now[1])}{now[1]}")
            if all(one.stage in (Stage.UP, Stage.ENDED) for one in rentals):
                return
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        say(f"the farm goes on without this terminal; to take it back: farm rent --end {names[0]}")
        raise


def _list(settings: Settings, as_json: bool) -> None:
    with queue(settings) as open_queue:
        rentals = open_queue.roster.rentals()
        try:
            others, trouble = strays(settings, open_queue, rentals, seconds=30.0), None
        except FarmError as error:
            others, trouble = [], error
    render.emit(sheet(rentals, others), as_json=as_json)
    if trouble:
        raise trouble


def _end(settings: Settings, name: str, as_json: bool) -> None:
    """Raises: NotFound: no record and no instance is called so. Unreachable: it may still cost money."""
    with queue(settings) as open_queue:
        rentals = {one.name: one for one in open_queue.roster.rentals()}
        if name in rentals and not rentals[name].is_over:
            _end_recorded(settings, open_queue, name)
        else:
            _end_stray(settings, open_queue, name, list(rentals.values()))
        rentals = {one.name: one for one in open_queue.roster.rentals()}
    render.emit(sheet([rentals[name]] if name in rentals else []), as_json=as_json)


def _end_recorded(settings: Settings, queue: Queue, name: str) -> None:
    """By the farm that watches over it, once what trains has saved a checkpoint; by this command if none does."""
    from workers.rent import names
    from workers.rent.ending import end_all

    one = queue.roster.change_rental(name, lambda one: _leaving(one, time.time()))
    facts = serving.facts(settings)
    if one is not None and one.keeper == names.keeper(settings.home) and facts is None:
        end_all(settings, queue, "farm rent --end", name)
        return
    say(f"{name}: told the farm to end it")
    deadline = time.monotonic() + END_SECONDS
    while one is not None and not one.is_over:
        if time.monotonic() > deadline:
            raise Unreachable(f"{name} is not ended yet: {one.note}.", remedy="See: farm rent --list")
        time.sleep(LOOK_SECONDS)
        one = next((one for one in queue.roster.rentals() if one.name == name), None)


def _leaving(one: Rental, now: float) -> Rental:
    """The record as it is when a person has said that the machine ends."""
    if one.stage is Stage.UP:
        return one.on(Stage.LEAVING, now, reason="farm rent --end")
    return one if one.stage in (Stage.LEAVING, Stage.ENDED) else one.ending("farm rent --end", now)


def _end_stray(settings: Settings, queue: Queue, name: str, rentals: list[Rental]) -> None:
    """End an instance that only its name says to be this farm's."""
    known = [one.name for one in rentals if not one.is_over]
    renters = accounts(settings, rentals)
    found = [(renter, it) for renter in renters for it in marked(renter, queue, []) if it.name == name]
    if not found:
        _refuse_unknown(name, known, rentals)
    for renter, it in found:
        renter.end(name, [it.id])
        say(f"{name}: asked {renter.title} to end {it.id}")


def _refuse_unknown(name: str, known: list[str], rentals: list[Any]) -> None:
    """Raises: Conflict: it is over. NotFound"""
    if any(one.name == name for one in rentals):
        raise Conflict(f"{name} has ended already.", remedy="See: farm rent --list")
    raise NotFound(f"no rented machine {name!r}{nearest(name, known, listed=True)}", remedy="See: farm rent --list")
