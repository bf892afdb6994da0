"""`farm rent`, and what `farm machines` and `farm down` say of what is rented, against a server that speaks the API."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lambda_server import KEY, LambdaCloud, lambda_cloud

from farm.queue.rental import Rental, Stage
from farm.site import serving
from farm.site.settings import Settings
from workers.rent import api_key, names
from workers.rent.api_key import Access

from .conftest import Farm
from .shared import MARKER, share


@pytest.fixture
def cloud() -> Iterator[LambdaCloud]:
    with lambda_cloud() as cloud:
        cloud.capacity["gpu_8x_a100"] = ["us-west-1"]
        yield cloud


@pytest.fixture
def tenant(farm: Farm, cloud: LambdaCloud, tmp_path: Path) -> Farm:
    """A farm that is up and shared, with a key of the account, and a pair of SSH keys that the account knows."""
    keys = tmp_path / ".ssh"
    keys.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / "id_ed25519")], check=True)
    cloud.keys["laptop"] = (keys / "id_ed25519.pub").read_text()
    farm.environment |= {"LAMBDA_API_KEY": KEY, "LAMBDA_API_URL": cloud.url}
    share(farm, settings(farm))
    (tmp_path / "vpn.sh").write_text("tailscale up\n")
    return farm


def settings(farm: Farm) -> Settings:
    return Settings.load(farm.environment, files=())


def rented(farm: Farm, **changes: object) -> Rental:
    """A machine that is up, as a landlord has recorded it."""
    one = Rental(name=names.new(MARKER, "8xa100m40"), keeper=names.keeper(settings(farm).home), cloud="lambda",
                 machine="8xa100m40", max_usd_per_hour=12.0, hours=10.0, idle_minutes=10.0, ssh_key="laptop",
                 ssh="ssh", asked=time.time())  # fmt: skip
    up = {"stage": Stage.UP, "launched": time.time() - 3600, "usd_per_hour": 11.84, "type": "gpu_8x_a100"}
    one = one.model_copy(update=up | changes)
    farm.queue.roster.rent(one)
    home = settings(farm).home
    (home / "rented").mkdir(parents=True, exist_ok=True)
    api_key.keep(home, Access(KEY, farm.environment["LAMBDA_API_URL"]))
    return one


RENT = ("rent", "8xa100m40", "--setup", "vpn.sh")


def test_a_wish_is_recorded_with_all_that_a_head_needs_to_fulfil_it(tenant: Farm, cloud: LambdaCloud) -> None:
    answer = tenant(*RENT, "--usd", "50", "--count", "2", "--hours", "6", "--region", "us-west-1")
    assert answer.code == 0, answer.err
    first, second = tenant.queue.roster.rentals()
    assert (first.stage, first.usd, first.hours, first.region) == (Stage.WAITING, 25.0, 6.0, "us-west-1")
    assert first.max_usd_per_hour == 11.84, "the price as it is offered now, and no dearer"
    assert first.name != second.name
    assert first.name.startswith(names.mark(MARKER) + "8xa100m40-")
    assert (first.ssh_key, first.ssh) == ("laptop", f"ssh -i {tenant.folder}/.ssh/id_ed25519 -o IdentitiesOnly=yes")
    home = settings(tenant).home
    assert (home / "rented" / first.name / "setup").read_text() == "tailscale up\n"
    assert api_key.kept(home) == (KEY, cloud.url)
    assert (home / "lambda-api-key").stat().st_mode & 0o777 == 0o600
    assert "at most $50.00" in answer.err
    assert [row["stage"] for row in answer.rows] == ["waiting", "waiting"]
    assert cloud.count("instance-operations/launch") == 0, "the farm launches, not this command"
    assert KEY not in answer.out + answer.err + json.dumps([one.model_dump() for one in (first, second)])


def test_a_dry_run_without_a_way_in_says_the_price_and_what_is_missing(tenant: Farm) -> None:
    answer = tenant("rent", "8xa100m40", "--dry-run")
    assert answer.code == 0, answer.err
    assert re.search(
        r"before you rent: this farm is shared at \S+, which a machine in the cloud cannot reach", answer.err
    )
    assert "8xa100m40: gpu_8x_a100 at $" in answer.err
    assert tenant("rent", "8xa100m40").code == 7


def test_a_dry_run_says_price_and_place_and_rents_nothing(tenant: Farm) -> None:
    answer = tenant(*RENT, "--dry-run", "--json")
    (offer,) = json.loads(answer.out)["data"]
    assert (offer["usd_per_hour"], offer["regions"]) == (11.84, ["us-west-1"])
    assert "8xa100m40: gpu_8x_a100 at $11.84/h, free in us-west-1" in answer.err
    assert tenant.queue.roster.rentals() == []


@pytest.mark.parametrize(("words", "code", "says"), [
    (("rent",), 2, "needs one of CLASS, --list and --end NAME"),
    (("rent", "8xa100m4"), 2, "did you mean '8xa100m40'"),
    (("rent", "8xa100m40", "--engine", "lamda"), 2, "did you mean 'lambda'"),
    (("rent", "8xa100m40", "--hours", "nan"), 2, "--hours nan is not an amount above 0"),
    (("rent", "8xa100m40", "--usd", "-1"), 2, "--usd -1 is not an amount above 0"),
    (("rent", "8xa100m40", "--setup", "none.sh"), 2, "--setup none.sh: No such file"),
    ((*RENT, "--max-usd-per-hour", "10"), 7, "costs $11.84/h at Lambda, more than $10.00/h. Allow it: --max-usd-per"),
    ((*RENT[:1], "1xa100m40", *RENT[2:]), 3, "Lambda does not offer 1xa100m40 to this account (as gpu_1x_a100_sxm4)"),
    ((*RENT, "--ssh-key", "laptpo"), 3, "no SSH key 'laptpo'; did you mean 'laptop'"),
    (("rent", "--end", "nothing"), 3, "no rented machine 'nothing'"),
])  # fmt: skip
def test_what_cannot_be_is_named_with_the_remedy(tenant: Farm, words: tuple[str, ...], code: int, says: str) -> None:
    answer = tenant(*words)
    assert (answer.code, says in answer.err) == (code, True), answer.err
    assert tenant.queue.roster.rentals() == []


def test_a_key_that_lacks_is_wrong_or_is_open_to_others_is_named(tenant: Farm, cloud: LambdaCloud) -> None:
    cloud.key = "another"
    answer = tenant(*RENT)
    assert (answer.code, "Make a key at https://cloud.lambda.ai/api-keys" in answer.err) == (4, True)
    assert KEY not in answer.err
    del tenant.environment["LAMBDA_API_KEY"]
    answer = tenant(*RENT)
    assert (answer.code, "Set LAMBDA_API_KEY, or write the key to" in answer.err) == (3, True)
    file = tenant.folder / ".config" / "farm" / "lambda-api-key"
    file.parent.mkdir(parents=True)
    file.write_text(f"{KEY}\n")
    file.chmod(0o644)
    answer = tenant(*RENT)
    assert (answer.code, f"chmod 600 {file}" in answer.err) == (4, True)
    file.chmod(0o600)
    cloud.key = KEY
    assert tenant(*RENT, "--dry-run").code == 0


def test_a_farm_that_nobody_can_join_rents_nothing(tenant: Farm) -> None:
    serving.withdraw(settings(tenant), os.getpid())
    answer = tenant(*RENT)
    assert (answer.code, "no farm is up on this machine" in answer.err) == (5, True)
    assert "farm up --shared" in answer.err
    assert tenant(*RENT, "--dry-run").code == 0


def test_what_costs_money_is_listed_and_so_is_what_only_its_name_says_to_be_ours(tenant: Farm, cloud) -> None:
    one = rented(tenant)
    cloud.add(one.name)
    lost = names.new(MARKER, "1xa10m24")
    cloud.add(lost, "gpu_1x_a10")
    cloud.add("somebody-else", "gpu_1x_a10")
    answer = tenant("machines", "--json")
    assert [row["name"] for row in json.loads(answer.out)["rented"]] == [one.name, lost]
    assert re.search(rf"1 rented machine costs \$11\.84/h, \$11\.8\d so far: {one.name}", answer.err)
    assert f"{lost} costs $0.75/h, and this farm has no record of it: farm rent --end {lost}" in answer.err
    assert [row["name"] for row in tenant("rent", "--list").rows] == [one.name, lost]
    cloud.fail("instances", "internal")
    assert "whether other machines cost money is not known" in tenant("machines").err


def test_a_machine_without_a_record_is_ended_by_its_name(tenant: Farm, cloud: LambdaCloud) -> None:
    lost, other = names.new(MARKER, "1xa10m24"), "somebody-else"
    cloud.add(lost, "gpu_1x_a10")
    cloud.add(other, "gpu_1x_a10")
    assert tenant("rent", "--end", lost).code == 0
    assert tenant("rent", "--end", other).code == 3, "it is not ours"
    assert [it["name"] for it in cloud.alive()] == [other]


def test_a_machine_is_ended_by_this_command_when_no_farm_is_up(tenant: Farm, cloud: LambdaCloud) -> None:
    one = rented(tenant)
    cloud.add(one.name)
    serving.withdraw(settings(tenant), os.getpid())
    answer = tenant("rent", "--end", one.name)
    assert (answer.code, cloud.alive()) == (0, []), answer.err
    assert "has ended already" in tenant("rent", "--end", one.name).err


def test_farm_down_ends_what_is_rented_also_after_a_crash(tenant: Farm, cloud: LambdaCloud) -> None:
    one = rented(tenant)
    cloud.add(one.name)
    serving.withdraw(settings(tenant), os.getpid())
    answer = tenant("down")
    assert (answer.code, cloud.alive()) == (0, []), answer.err
    assert f"{one.name} was ended; it cost $11.8" in answer.err


def test_farm_down_refuses_to_leave_what_it_cannot_end_unless_told_so(tenant: Farm, cloud: LambdaCloud) -> None:
    one = rented(tenant)
    cloud.add(one.name)
    serving.withdraw(settings(tenant), os.getpid())
    cloud.fail("instances", "internal", "internal")
    answer = tenant("down")
    assert (answer.code, "1 rented machine costs $11.84/h" in answer.err) == (7, True)
    assert "farm down --keep-rented" in answer.err
    answer = tenant("down", "--keep-rented")
    assert (answer.code, len(cloud.alive())) == (0, 1)
    assert "they stay, and nobody watches over them until `farm up`" in answer.err
    assert tenant.queue.roster.rentals()[0].is_kept
