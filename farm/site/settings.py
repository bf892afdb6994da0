"""Where this farm is: its home, its Redis, its storage, its machines, whom it notifies.

Flag > FARM_* > ./farm.toml > ~/.config/farm. A process that a command starts has another working folder, so files are
read by commands only: `to_environment` hands it the settings that were found.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError

from farm.errors import BadSetting, Conflict
from farm.site import tunnel
from farm.study.endpoint import S3_URI
from farm.study.faults import explain, full_stop
from farm.study.machine import Machine, declare
from farm.study.recipe import Frozen
from farm.study.run import Name

VARIABLES = {
    "home": "FARM_HOME",
    "redis_url": "FARM_REDIS_URL",
    "redis_ca": "FARM_REDIS_CA",
    "storage": "FARM_STORAGE",
    "docs_url": "FARM_DOCS_URL",
}
FILES = (Path("~/.config/farm/config.toml"), Path("farm.toml"))
NOTIFY_URLS = "FARM_NOTIFY_URLS"  # of [notify], with spaces between them
FOUND = "FARM_SETTINGS"  # JSON; what no other variable holds of the settings that a command found


class Notify(Frozen):
    """Whom the head tells what a person wants to hear of: URLs as apprise reads them. They hold secrets, so neither a
    message nor a repr of these settings shows one.
    """

    urls: tuple[str, ...] = Field((), repr=False)


class Rent(Frozen):
    """By what `farm rent` rents machines, unless it is told otherwise.

    `sky` is SkyPilot's command, which is installed apart from farm: a name on the PATH, or a file.
    """

    engine: Literal["lambda", "skypilot"] = "lambda"
    sky: str = Field("sky", min_length=1)


class Settings(Frozen):
    """The facts that commands need before they can do anything.

    `redis_url` None means the embedded farm under `home`. `redis_ca` is a file of certificates of which one must have
    signed that of a rediss:// server; without it, those that this machine trusts count. `storage`, under which run
    directories live, is a folder that every node sees, or the URI of a bucket, s3://bucket/prefix.
    `docs_url` is where the documentation is served, for errors that name a page of it.
    """

    home: Path = Field(strict=False)
    redis_url: str | None = None
    redis_ca: Path | None = Field(None, strict=False)
    storage: Path | str = Field(union_mode="left_to_right")
    machines: dict[Name, Machine] = {}
    notify: Notify = Notify()
    rent: Rent = Rent()
    docs_url: str | None = None

    @classmethod
    def load(
        cls,
        environ: dict[str, str] | None = None,
        files: tuple[Path, ...] = FILES,
        *,
        through_tunnel: bool = True,
        under: Mapping[str, str] = MappingProxyType({}),
        over: Mapping[str, str] = MappingProxyType({}),
    ) -> "Settings":
        """The settings in force here: `under`, then later `files` over earlier ones, FARM_* over both, and `over` over
        all.

        Where none of them names a Redis, it is the one that `farm connect` reaches from this home, if `through_tunnel`.
        In a process that was started with `to_environment` there are neither files nor tunnels: the process that
        started it read them.

        Raises: BadSetting: names the file or variable, the key and the value. Unreachable: the tunnel is closed.
        """
        environ = dict(os.environ) if environ is None else environ
        values: dict[str, Any] = dict(under)
        source = priced_by = "settings"  # of machine classes, which alone may still be wrong when all is read
        if environ.get(FOUND):
            files, through_tunnel, source = (), False, FOUND
            values |= _parse_variable(environ[FOUND])
        for file in files:
            said = {key: value for key, value in _read(file).items() if value != ""}
            values |= said
            source = str(file) if "machines" in said else source
            priced_by = file.name if "machines" in said else priced_by
        _refuse_misspelt(environ)
        values |= {key: environ[name] for key, name in VARIABLES.items() if environ.get(name)} | dict(over)
        home = _folder("home", values.get("home", "~/.farm"))
        if through_tunnel and "redis_url" not in values:
            values["redis_url"] = tunnel.url(home)
        if values.get("redis_ca"):
            values["redis_ca"] = _folder("redis_ca", values["redis_ca"])
        _check_docs(values.get("docs_url"))
        storage = _storage(values.get("storage", str(home / "storage")))
        machines = {name: declare(name, table, priced_by) for name, table in values.get("machines", {}).items()}
        if environ.get(NOTIFY_URLS):
            values["notify"] = Notify(urls=tuple(environ[NOTIFY_URLS].split()))
        return _validate(values | {"home": home, "storage": storage, "machines": machines}, source)

    @classmethod
    def of_this_machine(cls) -> "Settings":
        """The settings for a farm that is to run here.

        Raises: BadSetting. Conflict: the commands of this home go through a tunnel to another one.
        """
        settings = cls.load(through_tunnel=False)
        if settings.redis_url is None and tunnel.url(settings.home):
            raise Conflict(
                f"`farm connect` is open in {settings.home}: every command here goes to the farm at its other end.",
                remedy="Stop it, or give a farm of this machine a home of its own by FARM_HOME.",
                page="docs/machines/laptop.md#through-ssh",
            )
        return settings


def to_environment(here: Settings) -> dict[str, str]:
    """The variables with which a process finds the settings `here`, whatever its working folder.

    FARM_REDIS_URL may hold a password, so it travels here and nowhere else. Whom to notify only the head needs to know:
    it is handed that apart (`secrets_of_head`).
    """
    machines = {name: machine.model_dump(mode="json") for name, machine in here.machines.items()}
    values = {key: getattr(here, key) for key in VARIABLES}
    own = {name: "" if values[key] is None else str(values[key]) for key, name in VARIABLES.items()}
    return own | {FOUND: json.dumps({"machines": machines, "rent": here.rent.model_dump()})}


def secrets_of_head(here: Settings) -> dict[str, str]:
    """The variables that the farm's head needs besides `to_environment`, and that nothing it starts may inherit."""
    return {NOTIFY_URLS: " ".join(here.notify.urls)}


def _parse_variable(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
        return {"machines": told["machines"], "rent": Rent.model_validate(told.get("rent", {}))}
    except (ValueError, KeyError, TypeError):
        raise BadSetting(f"the variable {FOUND} was not set by farm.", remedy="Unset it.") from None


def _refuse_misspelt(names: Iterable[str]) -> None:
    """Raises: BadSetting: a variable is almost a setting; passed over, a command would act on another farm."""
    known = (*VARIABLES.values(), NOTIFY_URLS)
    for name in names:
        if name.startswith("FARM_") and name not in known:
            for meant in get_close_matches(name, known, n=1, cutoff=0.85):
                raise BadSetting(f"the variable {name} is not a setting.", remedy=f"Did you mean {meant}?")


def _storage(text: str) -> Path | str:
    """Raises: BadSetting: a URI that is not s3://bucket/prefix. It may hold a secret, so that it is not repeated."""
    if "://" not in text:
        return _folder("storage", text)
    if match := S3_URI.fullmatch(text):
        return match[0].rstrip("/")
    fact = f"storage is a {text.partition('://')[0]!r} URI that is not s3://bucket/prefix"
    if text.startswith("s3://"):
        fact += ", where the name of a bucket is 3 to 63 of a-z, 0-9, '.' and '-'"
    raise BadSetting(
        f"{fact}.",
        remedy="Set FARM_STORAGE to a folder or s3://bucket/prefix; credentials and endpoint go into AWS_* variables.",
        page="docs/machines/storage.md#choose-one",
    )


def _check_docs(text: str | None) -> None:
    """Raises: BadSetting: it is no address."""
    if text is not None and not re.fullmatch(r"(https?|file)://\S+", text):
        raise BadSetting(
            f"docs_url = {text!r} is not the address of a site.",
            remedy="Write https://..., or file:///... for a folder.",
        )


def _folder(key: str, text: str) -> Path:
    """Raises: BadSetting: it is a URL, or under the home of an unknown user."""
    if "://" in text:
        raise BadSetting(
            f"{key} = {text!r} is a URL, not a folder.", remedy=f"Mount it, and set FARM_{key.upper()} to the folder."
        )
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # a container's user need not be in passwd
        whose = "this user" if text.partition("/")[0] == "~" else "that user"
        raise BadSetting(
            f"{key} = {text!r}: no home folder of {whose} is known.",
            remedy=f"Set FARM_{key.upper()} to a full path.",
        ) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        file = file.expanduser()
    except RuntimeError:  # without a home folder there is no file in it
        return {}
    if not file.exists():
        return {}
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark first
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, not TOML, a number without end
        raise BadSetting(f"{file}: {error}.", remedy="Fix or remove it.") from None
    if unknown := values.keys() - Settings.model_fields.keys():
        known = ", ".join(Settings.model_fields)
        raise BadSetting(f"{file}: unknown key {min(unknown)!r}.", remedy=f"Known: {known}.")
    for key in VARIABLES:
        if not isinstance(values.get(key, ""), str):
            raise BadSetting(f"{file}: {key}: must be text, not {values[key]!r}.", remedy=f'Write {key} = "...".')
    if not isinstance(values.get("machines", {}), dict):
        raise BadSetting(f"{file}: machines must be tables.", remedy="Write [machines.NAME].")
    apart = {"notify": _notify, "rent": _rent}
    return values | {key: read(file, values[key]) for key, read in apart.items() if key in values}


def _rent(file: Path, table: Any) -> Rent:
    """Raises: BadSetting"""
    if not isinstance(table, dict):
        raise BadSetting(f"{file}: rent must be a table.", remedy='Write [rent] and, below it, engine = "skypilot".')
    try:
        return Rent.model_validate(table)
    except ValidationError as error:
        first, *more = [f"{file}: rent: {full_stop(fault.line)}" for fault in explain(error, Rent)]
        raise BadSetting(first, also=tuple(more)) from None


def _notify(file: Path, table: Any) -> Notify:
    """Raises: BadSetting: without the value, which may be a secret."""
    remedy = 'Write [notify] and, below it, urls = ["SERVICE://..."].'
    if not isinstance(table, dict):
        raise BadSetting(f"{file}: notify must be a table.", remedy=remedy)
    if unknown := table.keys() - Notify.model_fields.keys():
        raise BadSetting(f"{file}: notify: unknown key {min(unknown)!r}.", remedy=remedy)
    urls = table.get("urls", [])
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise BadSetting(f"{file}: notify.urls must be a list of texts.", remedy=remedy)
    for place, url in enumerate(urls):
        if re.search(r"\s", url) or not url:
            raise BadSetting(
                f"{file}: notify.urls[{place}] is empty or has a space in it.", remedy="Write %20 for one."
            )
    return Notify(urls=tuple(urls))


def _validate(values: dict[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first, *more = [f"{source}: {full_stop(fault.line)}" for fault in explain(error, Settings)]
        raise BadSetting(first, also=tuple(more)) from None


def make_home(folder: Path) -> None:
    """Make the home of a farm, or a folder in it, and see that it can be written in.

    Raises: BadSetting: says why not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"home: cannot make {folder}: {error.strerror}.", remedy="Set FARM_HOME elsewhere.") from None
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(b"here")
    except OSError as error:  # read-only, another user's, or full
        raise BadSetting(
            f"home: cannot write in {folder}: {error.strerror}.",
            remedy="Make it writable, free some space, or set FARM_HOME to another folder.",
        ) from None
