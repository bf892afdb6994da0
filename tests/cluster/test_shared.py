"""Two machines and no hands: one shares its farm, the other joins it, and one study trains on both."""

import json

import pytest
from cluster.hosts import Host
from cluster.test_cluster import STUDY
from waiting import wait_until

from farm.record.store import Store

pytestmark = pytest.mark.long

STEPS = 100


def test_the_address_that_is_shared_is_the_only_one_or_is_asked_for(cluster):
    host = Host("lonely", cluster.folder / "lonely", cluster.here, cluster.rental)
    up = lambda: host.run("farm", "up", "--shared", code=2).stderr  # noqa: E731
    try:
        assert "lonely has no address but loopback" in up()
        host.run("ip", "address", "add", "9.9.9.9/32", "dev", "lo")
        assert "9.9.9.9 (lo) is a public address, and neither Redis nor Ray encrypts" in up()
        host.run("ip", "address", "add", "10.1.1.1/32", "dev", "lo")
        assert "Pass --host with one of 10.1.1.1 (lo), 9.9.9.9 (lo)." in up()
    finally:
        host.off()


def test_one_machine_shares_another_joins_both_train_and_one_word_ends_it(cluster):
    folder = cluster.folder / "shared"
    alone = {"FARM_REDIS_URL": "", "FARM_STORAGE": str(folder / "storage")}
    rental, attic = cluster.host("rental", alone), cluster.host("attic", alone | {"FARM_STORAGE": ""})
    folder.mkdir()

    up = rental.run("farm", "up", "--shared", "--machine", "rented")
    there = dict(line.split("\t") for line in up.stdout.splitlines())
    home = rental.variables["HOME"]
    place = f"root@10.77.0.6:{home}/.farm/invitation.json"
    assert there["to train, type there"] == f"scp {place} . && farm join invitation.json"
    assert there["to submit, type there"] == "farm connect root@10.77.0.6"
    assert f"each machine that joins must see the folder {folder}/storage" in up.stderr

    copy = folder / "invitation.json"
    copy.touch(0o600)
    copy.write_text(rental.run("cat", f"{home}/.farm/invitation.json").stdout)
    joined = attic.start("farm", "join", str(copy), "--machine", "home", log=folder / "join.log")
    said = lambda: (folder / "join.log").read_text()  # noqa: E731
    wait_until(lambda: "joined as attic" in said() or joined.poll() is not None, "attic joins", 120)
    assert joined.poll() is None, said()
    assert "joined by\tattic at 10.77.0.7 (Ray node " in rental.run("farm", "status").stdout
    secrets = [json.loads(copy.read_text())["token"], json.loads(copy.read_text())["redis"].split("@")[0][-32:]]
    shown = [word for host in (rental, attic) for process in host.processes() for word in process.cmdline()]
    assert not [word for word in shown if any(secret in word for secret in secrets)], "what ps shows to everybody"
    stranger, _, server = there["redis"].partition(", ")
    assert server.startswith(("Redis ", "Valkey "))
    assert "refused the credentials" in attic.run("env", f"FARM_REDIS_URL={stranger}", "farm", "runs", code=4).stderr

    study = folder / "two-machines.toml"
    text = STUDY.format(name="two", machines='["rented", "home"]', first_rerun=0, tokens=256 * STEPS)
    study.write_text(text)
    rental.run("farm", "submit", str(study), "--wait")
    rows = [line.split("\t") for line in rental.run("farm", "table", "two").stdout.splitlines()]
    assert sorted(row[rows[0].index("machine")] for row in rows[1:]) == ["home", "rented"]
    store = Store(folder / "storage")
    one, other = map(store.runs.result, store.runs.ids())
    assert {one.hardware.host, other.hardware.host} == {"rental", "attic"}
    assert one.fingerprints == other.fingerprints
    assert one.test_loss == other.test_loss

    rental.run("farm", "down")
    assert joined.wait(timeout=60) == 0, said()
    assert "leaving: farm down on rental" in said()
