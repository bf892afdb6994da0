"""A machine that has booted is sent all that it needs, by the system's ssh to a real SSH server with its host key."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from lambda_server import LambdaCloud
from ssh_server import sshd
from waiting import wait_until

from farm.errors import BadSetting, Guard, NotFound, Refused, Unreachable
from farm.queue.rental import Rental
from farm.site import invitation
from workers.node import hardware
from workers.rent import arrival, host_key
from workers.rent.account import check_reachable, choose_key

NAME = "farm-12345678-8xa100m40-0001"
# What it said is waited for, so that comes last.
RECORDER = '#!/bin/sh\nenv >> "$HOME/environment"\necho "$(basename "$0") $*" >> "$HOME/said"\n'


def rental(**changes: object) -> Rental:
    told = {"name": NAME, "keeper": "here", "cloud": "lambda", "machine": "8xa100m40", "max_usd_per_hour": 12.0,
            "hours": 1.0, "idle_minutes": 10.0, "ssh_key": "mine", "ssh": "ssh", "asked": 0.0, "launched": 1.8e9,
            "usd_per_hour": 11.84}  # fmt: skip
    return Rental(**told | changes)  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A farm's home with an invitation, and what a rental has there."""
    folder = arrival.folder_of(tmp_path / "home", NAME)
    folder.mkdir(parents=True)
    host_key.make(folder, NAME)
    (folder / arrival.SETUP).write_text("echo export JOIN_HOST=10.8.0.7 > farm-env\n")
    there = invitation.Invitation(head="head", ray="10.8.0.1:6379", token="t0ken", redis="redis://:s3cret@10.8.0.1/0",
                                  storage="s3://b/farm")  # fmt: skip
    invitation.write(tmp_path / "home" / invitation.FILE, there)
    return tmp_path / "home"


def stand_in(there: Path) -> None:
    """Programs where uv and the installed farm will be, which write down what they are asked for."""
    for path in (there / ".local" / "bin" / "uv", there / "farm-venv" / "bin" / "farm"):
        path.parent.mkdir(parents=True)
        path.write_text(RECORDER)
        path.chmod(0o755)


def test_a_machine_gets_farm_its_invitation_and_its_price_and_joins(home: Path, tmp_path: Path) -> None:
    private = (arrival.folder_of(home, NAME) / host_key.KEY).read_text()
    with sshd(tmp_path, private) as machine:
        stand_in(machine.home)
        ssh = f"ssh -F none -p {machine.port} -i {tmp_path}/key -o IdentitiesOnly=yes"
        software = hardware.provenance()
        arrival.bring(rental(ssh=ssh), "ubuntu", "127.0.0.1", home, software)
        wait_until(lambda: "farm join" in (machine.home / "said").read_text(), "farm join is started", 30)
        said = (machine.home / "said").read_text().splitlines()
        assert said[0] == f"uv venv --quiet --python {software.python} farm-venv"
        assert f"./farm[node] torch=={software.torch.partition('+')[0]} ray=={software.ray}" in said[1]
        assert said[2] == f"farm join farm-invitation.json --name {NAME} --host 10.8.0.7"
        known = dict(
            line.split("=", 1) for line in (machine.home / "environment").read_text().splitlines() if "=" in line
        )
        assert json.loads(known["RAY_OVERRIDE_LABELS"])["farm-usd-per-hour"] == "11.84"
        there = machine.home / "farm-invitation.json"
        assert (there.read_bytes(), there.stat().st_mode & 0o777) == ((home / invitation.FILE).read_bytes(), 0o600)
        sent = machine.home / "farm"
        assert (sent / "farm" / "queue" / "lua" / "rent.lua").exists()
        digest = subprocess.run(
            [sys.executable, "-c", DIGEST, str(sent)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert digest.stdout.strip() == hardware.code_digest(), "the sources are the head's, to the byte"


DIGEST = """
import hashlib, sys
from pathlib import Path
root, total = Path(sys.argv[1]), hashlib.sha256()
rooms = ("farm", "model", "workers")
for file in sorted(path for room in rooms for path in (root / room).rglob("*") if path.suffix in (".py", ".lua")):
    total.update(f"{file.relative_to(root)}\\0".encode())
    total.update(hashlib.sha256(file.read_bytes()).digest())
print(total.hexdigest())
"""


def test_another_machine_at_its_address_is_sent_nothing(home: Path, tmp_path: Path) -> None:
    with sshd(tmp_path) as machine:
        ssh = f"ssh -F none -p {machine.port} -i {tmp_path}/key -o IdentitiesOnly=yes"
        with pytest.raises(Refused, match="does not show the host key that it was given"):
            arrival.bring(rental(ssh=ssh), "ubuntu", "127.0.0.1", home, hardware.provenance())
        assert list(machine.home.iterdir()) == []


def test_a_machine_that_cannot_be_reached_or_fails_is_told(home: Path, tmp_path: Path) -> None:
    private = (arrival.folder_of(home, NAME) / host_key.KEY).read_text()
    with sshd(tmp_path, private) as machine:
        ssh = f"ssh -F none -p {machine.port} -i {tmp_path}/key -o IdentitiesOnly=yes"
        (arrival.folder_of(home, NAME) / arrival.SETUP).write_text("echo no VPN here >&2; exit 3\n")
        with pytest.raises(Unreachable, match="the script of --setup failed on the machine: no VPN here"):
            arrival.bring(rental(ssh=ssh), "ubuntu", "127.0.0.1", home, hardware.provenance())
    with pytest.raises(Unreachable, match=r"ssh: .*Connection refused"):
        arrival.bring(rental(ssh=ssh), "ubuntu", "127.0.0.1", home, hardware.provenance())


def test_the_user_data_is_yaml_that_gives_the_machine_its_key(home: Path) -> None:
    import yaml

    folder = arrival.folder_of(home, NAME)
    told = host_key.user_data(folder)
    assert told.startswith("#cloud-config\n")
    keys = yaml.safe_load(told)["ssh_keys"]
    assert keys["ed25519_private"] == (folder / host_key.KEY).read_text()
    assert f"{NAME} {keys['ed25519_public']}\n" == (folder / host_key.KNOWN).read_text()


def test_the_pair_of_keys_is_found_or_what_lacks_is_named(tmp_path: Path, cloud: LambdaCloud) -> None:
    for name, phrase in (("id_a", ""), ("id_b", "secret phrase")):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", str(tmp_path / name)]
        subprocess.run(words, check=True)
    a, b = ((tmp_path / f"{name}.pub").read_text() for name in ("id_a", "id_b"))
    assert choose_key({"laptop": a, "other": "ssh-rsa X"}, None, None, tmp_path) == ("laptop", tmp_path / "id_a")
    assert choose_key({"laptop": a, "other": b}, "laptop", tmp_path / "id_a", tmp_path).name == "laptop"
    with pytest.raises(NotFound, match="has no SSH key, so nobody could log in"):
        choose_key({}, None, None, tmp_path)
    with pytest.raises(NotFound, match="no SSH key 'laptpo'; did you mean 'laptop'"):
        choose_key({"laptop": a}, "laptpo", None, tmp_path)
    with pytest.raises(BadSetting, match="id_a is not the private part of a key"):
        choose_key({"other": b}, None, tmp_path / "id_a", tmp_path)
    with pytest.raises(BadSetting, match="not a private key that can be used without a passphrase"):
        choose_key({"other": b}, None, tmp_path / "id_b", tmp_path)
    with pytest.raises(BadSetting, match="needs a passphrase that nobody types at night"):
        choose_key({"other": b}, None, None, tmp_path)


def test_a_farm_within_a_network_needs_a_script_that_enters_it() -> None:
    with pytest.raises(Guard, match=r"10\.8\.0\.1, which a machine in the cloud cannot reach by itself"):
        check_reachable("10.8.0.1", has_setup=False)
    check_reachable("10.8.0.1", has_setup=True)
    check_reachable("8.8.8.8", has_setup=False)
