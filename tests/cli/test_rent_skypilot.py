"""`farm rent` by SkyPilot, and what other commands say of it: by a program that stands at SkyPilot's command line."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sky_stand_in import Stand

from farm.queue.rental import Rental, Stage
from farm.site import serving
from farm.site.settings import Settings, to_environment
from workers.rent import names

from .conftest import Farm
from .shared import MARKER, share

RENT = ("rent", "8xa100m40", "--setup", "vpn.sh")


@pytest.fixture
def sky(tmp_path: Path) -> Iterator[Stand]:
    with closing(Stand(tmp_path / "sky")) as stand:
        yield stand


@pytest.fixture
def tenant(farm: Farm, sky: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """A farm that is up and shared, whose farm.toml has it rent by SkyPilot."""
    monkeypatch.chdir(farm.folder)
    (farm.folder / "farm.toml").write_text(f'[rent]\nengine = "skypilot"\nsky = "{sky.command}"\n')
    share(farm, settings(farm))
    (tmp_path / "vpn.sh").write_text("tailscale up\n")
    return farm


def settings(farm: Farm) -> Settings:
    return Settings.load(farm.environment, files=(farm.folder / "farm.toml",))


def rented(farm: Farm, sky: Stand) -> Rental:
    """A machine that is up, as a landlord has recorded it."""
    of = {"keeper": names.keeper(settings(farm).home), "cloud": "skypilot", "machine": "8xa100m40"}
    limits = {"max_usd_per_hour": 12.0, "hours": 10.0, "idle_minutes": 10.0, "ssh_key": "", "ssh": ""}
    up = {"stage": Stage.UP, "launched": time.time() - 3600, "usd_per_hour": 11.84, "type": "lambda gpu_8x_a100"}
    name = names.new(MARKER, "8xa100m40")
    one = Rental.model_validate({"name": name, "asked": time.time(), "instance": name} | of | limits)
    one = one.model_copy(update=up)
    farm.queue.roster.rent(one)
    sky.add(one.name)
    (settings(farm).home / "rented").mkdir(parents=True, exist_ok=True)
    return one


def test_settings_choose_skypilot_and_a_wish_is_recorded_with_its_limits(tenant: Farm, sky: Stand) -> None:
    dry = tenant(*RENT, "--dry-run", "--json")
    assert dry.code == 0, dry.err
    told = json.loads(dry.out)
    places = ["lambda/us-east-1", "lambda/us-west-1"]
    assert told["data"] == [{"type": "lambda gpu_8x_a100", "usd_per_hour": 11.84, "regions": places}]
    assert (told["engine"], told["ssh_key"], told["most_usd"]) == ("skypilot", None, pytest.approx(284.16))
    assert "8xa100m40: lambda gpu_8x_a100 at $11.84/h in lambda/us-east-1 and 1 more" in dry.err
    assert "only a launch tells whether one is free" in dry.err
    assert tenant.queue.roster.rentals() == []
    answer = tenant(*RENT, "--usd", "50", "--hours", "6", "--region", "lambda/us-west-1")
    assert answer.code == 0, answer.err
    (one,) = tenant.queue.roster.rentals()
    assert (one.cloud, one.stage, one.region) == ("skypilot", Stage.WAITING, "lambda/us-west-1")
    assert (one.usd, one.hours, one.max_usd_per_hour) == (50.0, 6.0, 11.84)
    assert (settings(tenant).home / "rented" / one.name / "setup").read_text() == "tailscale up\n"
    assert sky.asked("launch") == [], "the farm launches, not this command"


def test_what_a_command_found_of_skypilot_reaches_the_head(tenant: Farm) -> None:
    found = settings(tenant)
    assert Settings.load(to_environment(found)).rent == found.rent


@pytest.mark.parametrize(("table", "says"), [
    ('rent = "skypilot"', "rent must be a table."),
    ('[rent]\nengine = "sky"', "rent: engine: must be 'lambda' or 'skypilot'"),
    ('[rent]\nskies = "sky"', "rent: skies"),
])  # fmt: skip
def test_a_table_that_is_wrong_is_named_with_its_file(tenant: Farm, table: str, says: str) -> None:
    (tenant.folder / "farm.toml").write_text(table)
    answer = tenant("rent", "--list")
    assert (answer.code, says in answer.err, "farm.toml" in answer.err) == (2, True, True), answer.err


@pytest.mark.parametrize(("words", "changes", "code", "says"), [
    (("rent", "8xa100m4"), {}, 2, "did you mean '8xa100m40'"),
    ((*RENT, "--max-usd-per-hour", "10"), {}, 7, "costs $11.84/h at lambda gpu_8x_a100, more than $10.00/h. Allow"),
    (RENT, {"clouds": []}, 3, "SkyPilot may use no cloud here. See what it lacks: sky check"),
    (RENT, {"clouds": ["AWS"]}, 3, "SkyPilot knows no 8xa100m40 in aws"),
])  # fmt: skip
def test_what_cannot_be_is_named_with_the_remedy(
    tenant: Farm, sky: Stand, words: tuple[str, ...], changes: dict, code: int, says: str
) -> None:
    sky.set(**changes)
    answer = tenant(*words)
    assert (answer.code, says in answer.err) == (code, True), answer.err
    assert tenant.queue.roster.rentals() == []


def test_doctor_says_which_clouds_skypilot_may_use_or_what_is_missing(tenant: Farm, sky: Stand) -> None:
    def found() -> tuple[str, str]:
        (row,) = [row for row in tenant("doctor").rows if row["check"] == "skypilot"]
        return row["verdict"], row["detail"]

    assert found() == ("ok", f"{sky.command} may use lambda")
    sky.set(clouds=[])
    assert found() == ("failed", "SkyPilot may use no cloud here. See what it lacks: sky check")
    (tenant.folder / "farm.toml").write_text('[rent]\nengine = "skypilot"\nsky = "no-sky"\n')
    assert found()[1].startswith("SkyPilot is not installed here: no command 'no-sky'. Install it apart from farm")
    (tenant.folder / "farm.toml").write_text("")
    assert not [row for row in tenant("doctor").rows if row["check"] == "skypilot"]


def test_what_costs_money_is_listed_and_what_has_no_record_is_ended_by_its_name(tenant: Farm, sky: Stand) -> None:
    one = rented(tenant, sky)
    lost = names.new(MARKER, "8xa100m40")
    sky.add(lost)
    sky.add("somebody-else")
    listed = tenant("rent", "--list")
    assert [(row["name"], row["usd_per_hour"]) for row in listed.rows] == [(one.name, "11.84"), (lost, "11.84")]
    assert "1 rented machine costs $11.84/h, $11.8" in tenant("machines").err
    answer = tenant("rent", "--end", lost)
    assert (answer.code, sorted(sky.alive)) == (0, sorted([one.name, "somebody-else"])), answer.err
    assert tenant("rent", "--end", "somebody-else").code == 3, "it is not ours"


def test_farm_down_ends_what_is_rented_or_refuses_to_go(tenant: Farm, sky: Stand) -> None:
    one = rented(tenant, sky)
    serving.withdraw(settings(tenant), os.getpid())
    sky.set(broken={"status": "requests.exceptions.ConnectionError: Could not connect to SkyPilot API server"})
    answer = tenant("down")
    assert (answer.code, "cannot be ended now: SkyPilot: Could not connect" in answer.err) == (7, True), answer.err
    sky.set(broken={})
    answer = tenant("down")
    assert (answer.code, sky.alive) == (0, []), answer.err
    assert f"{one.name} was ended; it cost $11.8" in answer.err


def test_another_engine_is_asked_where_a_person_says_so(tenant: Farm, sky: Stand) -> None:
    answer = tenant(*RENT, "--engine", "lambda")
    assert (answer.code, "no API key of Lambda's cloud is known here" in answer.err) == (3, True)
    assert sky.get("asked") == []
