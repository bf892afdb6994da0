"""`farm doctor`"""

import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import Column, Sheet
from farm.errors import BadSetting, FarmError, NoCompiler, first_line
from farm.queue.unreadable import find_flaws
from farm.record.store import Store
from farm.site import client, serving, standing, tunnel
from farm.site.settings import Settings
from farm.study import compiler
from farm.study.machine import BUILT_IN

COLUMNS = (Column("check", "check"), Column("verdict", ""), Column("detail", "", render.text, is_prose=True))
PACKAGES = {"redis": True, "pydantic": True, "scipy": True, "torch": False, "ray": False}  # needed on a laptop?
LOW_BYTES = 10 * 2**30
HTTP_SECONDS = 5.0


class Finding(NamedTuple):
    """One check: `ok`, `warning` (something will be missing) or `failed` (with the remedy)."""

    check: str
    verdict: str
    detail: str


Cluster = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", help="Also check a file for Ray's cluster launcher; needs Ray."),
]


Notify = Annotated[bool, typer.Option("--notify", help="Also send a test message to each URL of [notify].")]


def doctor(cluster: Cluster = None, notify: Notify = False, as_json: Json = False) -> None:
    """Check Redis, storage, Ray and versions.

    Ends with exit code 1 if something is broken; warnings do not fail the check.
    """
    findings = [*examine(cluster, notify)]
    render.emit(Sheet("farm.doctor/1", COLUMNS, [finding._asdict() for finding in findings]), as_json=as_json)
    if any(finding.verdict == "failed" for finding in findings):
        raise typer.Exit(1)


def examine(cluster: Path | None = None, notify: bool = False) -> Iterator[Finding]:
    """Every check, even after another failed; without settings, those that need none."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name, needed in PACKAGES.items():
        yield from _check(name, lambda name=name, needed=needed: [_package(name, needed)])  # type: ignore[misc]
    if find_spec("torch"):
        yield from _check("compiler", _compiler)
    try:
        settings = Settings.load()
    except FarmError as error:
        yield Finding("settings", "failed", str(error))
        return
    yield from _check("server", lambda: _redis(settings))
    yield from _check("values", lambda: _values(settings))
    yield from _check("storage", lambda: [_storage(settings)])
    yield from _check("dashboard", lambda: [_ray(settings)])
    yield from _check("notify", lambda: _notify(settings, notify))
    if settings.rent.engine == "skypilot":
        yield from _check("skypilot", lambda: [_skypilot(settings)])
    if cluster:
        yield from _check("cluster file", lambda: _cluster(cluster, settings))


def _check(check: str, probe: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of `probe`, up to an error, which becomes a finding: one broken check must not end the others."""
    try:
        yield from probe()
    except (FarmError, OSError) as error:
        yield Finding(check, "failed", str(error))
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        yield Finding(check, "failed", f"{said}. This is a bug in farm; the other checks go on")


def _package(name: str, needed: bool) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        if needed:
            return Finding(name, "failed", f"not installed: pip install {name}")
        return Finding(name, "warning", "not installed: this machine can submit and read, not train")


def _compiler() -> Iterator[Finding]:
    """The compiler that train.compile would use here."""
    from workers.node.gpus import gpus

    try:
        yield Finding("compiler", "ok", compiler.find_compiler(compiler.ON_CUDA if gpus() else compiler.ON_CPU))
    except NoCompiler as missing:
        yield Finding("compiler", "warning", str(missing))


def _redis(settings: Settings) -> Iterator[Finding]:
    with queue(settings) as open_queue:
        total = sum(open_queue.listing.counts().values())
        doubts = [*client.doubts(open_queue.redis), *standing.flaws(open_queue.redis)]
        program = standing.describe(open_queue.redis)
    place = "at FARM_REDIS_URL" if settings.redis_url else f"embedded, under {settings.home}"
    if head := _head(settings):
        place = f"of {head}, through the tunnel of farm connect"
    yield Finding("server", "ok", f"{program} {place}; {total:,} runs known")
    for doubt in doubts:
        yield Finding("server", "warning", doubt)


def _values(settings: Settings) -> Iterator[Finding]:
    """The values in Redis that cannot be read."""
    with queue(settings) as open_queue:
        flaws = find_flaws(open_queue.scripts)
    if not flaws:
        yield Finding("values", "ok", "every value in Redis can be read")
    for flaw in flaws:
        yield Finding("values", "failed", f"{flaw}")


def _head(settings: Settings) -> str | None:
    """The farm that the commands of this home reach through a tunnel, if any."""
    return tunnel.head(settings.home, settings.redis_url) if settings.redis_url else None


def _storage(settings: Settings) -> Finding:
    Store(settings.storage).check()
    if isinstance(settings.storage, str):
        return Finding("storage", "ok", f"{settings.storage}: written, read, listed and removed a record")
    free = shutil.disk_usage(settings.storage).free
    detail = f"{settings.storage}, {free / 2**30:,.0f} GiB free"
    return Finding("storage", "ok" if free >= LOW_BYTES else "warning", detail)


def _cluster(path: Path, settings: Settings) -> Iterator[Finding]:
    """Whether Ray's launcher accepts the file, which machines it could start, and doubts about them."""
    if find_spec("ray") is None:
        yield Finding("cluster file", "failed", "Ray is not installed here: pip install 'farm[node]'")
        return
    from workers.head import clusterfile

    try:
        config = clusterfile.load(path)
        fleet = clusterfile.fleet(config)
    except FarmError as error:
        yield Finding("cluster file", "failed", str(error))
        return
    kinds = ", ".join(f"{name} x {kind.most}" for name, kind in fleet.kinds.items())
    told = kinds or "machines that report their own class"
    yield Finding("cluster file", "ok", f"{path}: {told}; at most {fleet.most} at a time")
    for doubt in clusterfile.doubts(config, BUILT_IN.keys() | settings.machines.keys()):
        yield Finding("cluster file", "warning", f"{path}: {doubt}")


def _notify(settings: Settings, is_test: bool) -> Iterator[Finding]:
    """Whether apprise understands each URL, and with a test what each service answered. No URL is shown."""
    urls = settings.notify.urls
    if not urls:
        if is_test:
            remedy = 'in the farm.toml of the head, write [notify] and urls = ["SERVICE://..."]'
            yield Finding("notify", "failed", f"there is nobody to notify: {remedy}")
        return
    from workers.head.messenger import Message, Service

    message = Message(f"farm on {platform.node()}: a test", "farm doctor --notify sent this. Nothing has happened.")
    for place, url in enumerate(urls):
        try:
            service = Service(place, url)
        except BadSetting as error:
            yield Finding("notify", "failed", str(error))
            continue
        if not is_test:
            yield Finding("notify", "ok", f"{service.name} is understood; to send it a test: farm doctor --notify")
        elif why := service.send(message):
            yield Finding("notify", "failed", f"{service.name} did not take the test: {why}")
        else:
            yield Finding("notify", "ok", f"{service.name} took the test")


def _skypilot(settings: Settings) -> Finding:
    """Raises: NotFound: it is not installed, or may use no cloud. FarmError: it does not say."""
    from workers.rent.sky_command import Sky

    return Finding("skypilot", "ok", f"{settings.rent.sky} may use {', '.join(Sky(settings.rent.sky).clouds())}")


def _ray(settings: Settings) -> Finding:
    facts = serving.facts(settings)
    if facts is None and (head := _head(settings)):
        return Finding("dashboard", "warning", f"the farm's Ray is on {head}, at the other end of `farm connect`")
    if facts is None:
        return Finding("dashboard", "warning", "no farm is up on this machine: farm up")
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past a proxy that this shell may name
        with direct.open(facts.dashboard, timeout=HTTP_SECONDS) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:
        code = error.code
    except (OSError, HTTPException) as error:
        return Finding("dashboard", "failed", f"{facts.dashboard}: {error}. See {facts.log}, then: farm down; farm up")
    answers = code in (200, 401, 403)  # the last two: alive, and asks for the token
    return Finding("dashboard", "ok" if answers else "failed", f"{facts.dashboard} answers {code}")
