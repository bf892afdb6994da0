"""`farm status`, `machines`, `doctor`, `down`: what is there and whether it is well."""

import getpass
import json
import os
import shlex
import time
from pathlib import Path

import pytest
from redis_servers import KEPT, redis_servers
from results import study_text
from webhook import SECRETS, webhook

from cli.up import _check_is_so
from farm.errors import Conflict
from farm.site import serving
from farm.site.process import identity
from farm.site.serving import Facts
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN

from .conftest import ROOT, Farm


def settings(farm: Farm) -> Settings:
    return Settings(home=farm.folder / "home", storage=farm.store.root)


def announce(farm: Farm) -> Facts:
    facts = Facts(
        pid=os.getpid(),
        process=identity(os.getpid()) or "",
        redis="redis://127.0.0.1:1/0",
        dashboard="http://127.0.0.1:9",
        units={"cpu": 1},
        storage=str(farm.store.root),
        started=time.time(),
        log="/serve.log",
        token_path="/ray-token",
    )
    serving.announce(settings(farm), facts)
    return facts


def test_status_counts_runs_and_says_that_nothing_is_up(farm: Farm) -> None:
    farm.put()
    farm.finish(farm.claim(), 3.25)
    told = json.loads(farm("status", "--json").out)
    assert told["schema"] == "farm.status/1"
    assert told["data"]["counts"] == {"queued": 8, "running": 0, "succeeded": 1, "failed": 0, "cancelled": 0}
    assert (told["data"]["up"], told["data"]["queued"]) == (False, {"cpu": 8})


def test_status_says_when_there_are_more_studies_than_it_names(farm: Farm) -> None:
    for number in range(6):
        studies = {row["what"]: row["value"] for row in farm("status").rows}["studies"]
        assert "..." not in studies
        farm.put(name=f"s{number}", init=(number,))
    assert {row["what"]: row["value"] for row in farm("status").rows}["studies"] == "..., s1, s2, s3, s4, s5"


def test_status_shows_a_farm_that_is_up(farm: Farm) -> None:
    facts = announce(farm)
    rows = {row["what"]: row["value"] for row in farm("status").rows}
    assert rows["dashboard"] == facts.dashboard
    assert rows["units"] == "cpu x 1"
    assert farm("up").err.startswith("already up"), "and is not started twice"


def test_up_with_other_options_than_the_farm_that_is_up_has_is_refused(farm: Farm) -> None:
    announce(farm)
    for words in (["--machine", "cpu=1"], ["--dashboard-port", "9"]):
        answer = farm("up", *words)
        assert (answer.code, answer.err.startswith("already up")) == (0, True), words
    answer = farm("up", "--machine", "cpu-x1", "--cpus", "1", "--dashboard-port", "8265")
    assert (answer.code, answer.out) == (6, "")
    assert answer.err == (
        "error: --machine, --cpus, --dashboard-port not applied: a farm is up already, process"
        f" {os.getpid()}, and offers cpu x 1. Stop it first: farm down\n"
    )
    assert "unknown machine class 'nope'" in farm("up", "--machine", "nope").err


def test_a_farm_that_is_up_for_this_machine_alone_is_not_said_to_be_shared(farm: Farm) -> None:
    facts = announce(farm)
    _check_is_so(facts.model_copy(update={"shared": "10.8.0.1"}), None, None, "10.8.0.1", None)
    for shared in (None, "10.8.0.2"):
        with pytest.raises(Conflict, match="--shared not applied: a farm is up already"):
            _check_is_so(facts.model_copy(update={"shared": shared}), None, None, "10.8.0.1", None)


def test_a_shared_farm_says_the_lines_to_type_elsewhere_and_who_has_joined(farm: Farm) -> None:
    up = announce(farm)
    serving.announce(settings(farm), up.model_copy(update={"shared": "fd00::5"}))
    del farm.environment["FARM_REDIS_URL"]
    rows = {row["what"]: row["value"] for row in farm("status").rows}
    me, home = getpass.getuser(), farm.folder / "home"
    where = shlex.quote(f"{me}@[fd00::5]:{home}/invitation.json")
    assert rows["to train, type there"] == f"scp {where} . && farm join invitation.json"
    assert rows["to submit, type there"] == f"farm connect {me}@fd00::5 --home {home}"
    assert rows["joined by"] == "no other machine yet"


def test_submit_of_a_class_that_the_farm_that_is_up_does_not_offer_does_not_advise_to_start_one(farm: Farm) -> None:
    assert "or start one here with: farm up\n" in farm("submit", farm.file(name="before", init=(1,))).err
    announce(farm)
    path = farm.folder / "absent.toml"
    path.write_text(study_text(name="absent", init=(2,), machines=("cpu-x1",)))
    answer = farm("submit", str(path))
    assert "no live node of class cpu-x1: those runs wait." in answer.err
    assert "or offer it here with: farm down; farm up --machine cpu-x1\n" in answer.err


def test_status_says_where_the_dashboards_token_is_and_what_trains(farm: Farm) -> None:
    announce(farm)
    farm.put()
    farm.curve(farm.claim(), 5.0, 4.5)
    farm.claim()
    lines = [line.split("\t") for line in farm("status").out.splitlines()]
    assert ["log in with", "the output of: cat /ray-token"] in lines
    assert [value for what, value in lines if what == "trains"] == [
        "tiny: baseline s42.23 on cpu, step 2 of 10, loss 4.5000",
        "tiny: remove-dropout s42.23 on cpu, starting",
    ]


def test_status_on_a_machine_that_only_submits_shows_the_nodes_and_no_password(farm: Farm) -> None:
    assert "@" in farm.environment["FARM_REDIS_URL"]
    rows = {row["what"]: row["value"] for row in farm("status").rows}
    assert rows["farm"] == "not served from this machine"
    assert rows["nodes"] == "none (nothing can train right now)"
    assert "@" not in rows["redis"]
    farm.queue.roster.register(BUILT_IN["cpu"], "node-1", 60)
    assert {row["what"]: row["value"] for row in farm("status").rows}["nodes"] == "cpu x 1"


def test_machines_say_where_they_are_known_from(farm: Farm) -> None:
    (farm.folder / "farm.toml").write_text('[machines.attic]\nmemory = "8GiB"\n')
    farm.queue.roster.register(BUILT_IN["cpu"].model_copy(update={"memory": 2**30}), "node-1", 60)
    rows = {row["machine"]: row for row in farm("machines").rows}
    assert {name: rows[name]["source"] for name in ("cpu", "attic", "8xa100m40")} == {
        "cpu": "its nodes",
        "attic": "farm.toml",
        "8xa100m40": "built in",
    }
    assert (rows["cpu"]["memory_bytes"], rows["cpu"]["nodes"], rows["attic"]["nodes"]) == (str(2**30), "1", "0")


def test_a_healthy_machine_passes_the_doctor(farm: Farm) -> None:
    answer = farm("doctor", "--json")
    verdicts = {finding["check"]: finding["verdict"] for finding in json.loads(answer.out)["data"]}
    assert answer.code == 0
    assert verdicts["server"] == verdicts["storage"] == "ok"
    assert verdicts["dashboard"] == "warning", "no farm is up"


def test_the_doctor_looks_for_the_compiler_that_torch_would_use(farm: Farm, tmp_path: Path) -> None:
    for name, verdict, says in (
        ("mine", "ok", f"{tmp_path}/mine"),
        ("none", "warning", f"has no {tmp_path}/none, which C"),
    ):
        (tmp_path / "mine").touch(0o755)
        farm.environment.update(CXX=f"{tmp_path}/{name}", CC=f"{tmp_path}/{name}")
        answer = farm("doctor")
        (found,) = [row for row in answer.rows if row["check"] == "compiler"]
        assert (answer.code, found["verdict"]) == (0, verdict)
        assert says in found["detail"]


def test_the_doctor_names_what_is_broken_and_fails(farm: Farm) -> None:
    farm.store.root.parent.joinpath("file").write_text("")
    farm.environment["FARM_STORAGE"] = str(farm.folder / "file" / "storage")
    farm.environment["FARM_REDIS_URL"] = "redis://127.0.0.1:1/0"
    announce(farm)
    answer = farm("doctor")
    found = {row["check"]: row for row in answer.rows}
    assert answer.code == 1
    assert {found[check]["verdict"] for check in ("server", "storage", "dashboard")} == {"failed"}
    assert "Set FARM_STORAGE" in found["storage"]["detail"]
    assert "/serve.log" in found["dashboard"]["detail"]


@pytest.mark.parametrize(
    ("lines", "verdict", "words"),
    [
        (
            (*KEPT, 'rename-command CONFIG ""', 'rename-command INFO ""'),
            "warning",
            "its version, appendonly, appendfsync, maxmemory-policy cannot be seen there",
        ),
        ((*KEPT, "cluster-enabled yes"), "failed", "is a node of a Redis Cluster"),
        (("appendonly no",), "failed", "has no append-only file"),
        ((*KEPT, "user default on >other ~* &* +@all"), "failed", "Check the user and the password in FARM_REDIS_URL."),
        ((*KEPT, "user default on nopass ~* &* +@all -evalsha"), "failed", "does not let this user do that"),
        ((*KEPT, 'rename-command EVALSHA ""'), "failed", "lacks a command that the farm needs"),
    ],
)
def test_the_doctor_survives_whatever_redis_answers(
    lines: tuple[str, ...], verdict: str, words: str, farm: Farm
) -> None:
    with redis_servers(farm.folder) as serve:
        farm.environment["FARM_REDIS_URL"] = serve(*lines)
        answer = farm("doctor")
    rows = [(row["check"], row["verdict"], row["detail"]) for row in answer.rows]
    assert answer.code == (verdict == "failed")
    assert any(row[:2] == ("server", verdict) and words in row[2] for row in rows), rows
    assert [row[0] for row in rows][-2:] == ["storage", "dashboard"]


def test_the_doctor_survives_settings_and_answers_that_make_no_sense(farm: Farm, redis_url: str) -> None:
    for dashboard in (redis_url.rpartition("@")[2].partition("/")[0], "nonsense"):
        said = announce(farm).model_copy(update={"dashboard": f"http://{dashboard}" if ":" in dashboard else dashboard})
        serving.announce(settings(farm), said)
        found = {row["check"]: row["verdict"] for row in farm("doctor").rows}
        assert (found["server"], found["storage"], found["dashboard"]) == ("ok", "ok", "failed")
    (farm.folder / "farm.toml").write_text("no toml")
    answer = farm("doctor")
    assert (answer.code, answer.rows[-1]["check"], answer.rows[-1]["verdict"]) == (1, "settings", "failed")


def test_the_doctor_reads_a_cluster_file_and_says_in_one_line_what_is_wrong_with_it(farm: Farm) -> None:
    given = (ROOT / "cluster.yaml").read_text()
    file = farm.folder / "cluster.yaml"
    file.write_text(given)
    answer = farm("doctor", "--cluster", str(file))
    assert answer.code == 0
    assert answer.rows[-1]["detail"] == f"{file}: 8xa100m40 x 2, 8xh100m80 x 2; at most 4 at a time"
    file.write_text(given.replace('"farm:8xh100m80": 1', '"farm:2xh100m80": 1'))
    answer = farm("doctor", "--cluster", str(file))
    assert (answer.code, answer.rows[-1]["verdict"]) == (0, "warning")
    assert "unknown machine class 2xh100m80" in answer.rows[-1]["detail"]
    file.write_text(given.replace('farm-usd-per-hour: "21.96"', 'farm-usd-per-hour: "much"'))
    answer = farm("doctor", "--cluster", str(file))
    assert (answer.code, answer.rows[-1]["verdict"]) == (1, "failed")
    assert "are not a price" in answer.rows[-1]["detail"]
    file.write_text(given.replace("idle_timeout_minutes", "idle_minutes"))
    answer = farm("doctor", "--cluster", str(file))
    assert (answer.code, answer.rows[-1]["verdict"]) == (1, "failed")
    assert "idle_minutes: unknown key; did you mean 'idle_timeout_minutes'?" in answer.rows[-1]["detail"]


def test_serve_takes_an_autoscaler_s_file_only_with_a_ray_to_attach_to(farm: Farm) -> None:
    answer = farm("serve", "--autoscaling-config", "cluster.yaml")
    assert (answer.code, answer.out) == (2, "")
    assert "--attach HOST:PORT --autoscaling-config FILE" in answer.err


def test_down_without_a_farm_says_so(farm: Farm) -> None:
    answer = farm("down", "--json")
    assert json.loads(answer.out)["data"] == {"stopped": False, "pid": None}
    assert "no farm is up" in answer.err


def test_what_cannot_be_read_is_named_and_all_else_is_listed(farm: Farm) -> None:
    """A study with a field of a newer farm, in Redis and so for every command that lists studies."""
    farm.put()
    farm.put(name="newer", init=(1,))
    farm.queue.redis.hset("farm:studies", "newer", '{"schema":2,"study":{"name":"newer"},"colour":"red"}')
    said = "study 'newer': a newer farm wrote it (schema 2; this one reads up to 1). Update farm on this machine."
    for words in (["status"], ["doctor"]):
        assert said in farm(*words).out, words
    assert farm("doctor").code == 1
    assert len(farm("runs").rows) == 12
    answer = farm("runs", "newer")
    assert (answer.code, said in answer.err) == (1, True)


def test_status_leaves_a_finished_study_that_cannot_be_read_to_the_doctor_and_counts_it(farm: Farm) -> None:
    """It is read in a second also where there are many of them; those that have runs to come it names."""
    farm.put(init=(1,))
    farm.queue.redis.hset(farm.queue.prefix + "studies", "tiny", '{"schema": 1}')
    assert "unreadable\tstudy 'tiny': " in farm("status").out
    farm.finish_all()
    answer = farm("status")
    assert "unreadable" not in answer.out
    assert "studies\ttiny\n" in answer.out
    assert "study 'tiny': " in farm("doctor").out


def test_the_doctor_says_who_would_be_notified_and_sends_a_test(farm: Farm) -> None:
    assert [row for row in farm("doctor").rows if row["check"] == "notify"] == []
    answer = farm("doctor", "--notify")
    assert answer.code == 1
    assert 'write [notify] and urls = ["SERVICE://..."]' in answer.out
    with webhook() as hook:
        hook.answers = [404]
        file = farm.folder / "farm.toml"
        file.write_text(f'[notify]\nurls = ["{hook.url}", "slak://{SECRETS[0]}", "{hook.url}"]\n')
        details = [row["detail"] for row in farm("doctor").rows if row["check"] == "notify"]
        assert (len(details), hook.asked) == (3, 0)
        answer = farm("doctor", "--notify")
        found = [row for row in answer.rows if row["check"] == "notify"]
    assert [row["verdict"] for row in found] == ["failed", "failed", "ok"]
    assert found[0]["detail"].startswith("notify.urls[0] (json://...) did not take the test: Failed to send JSON POST")
    assert "error=404" in found[0]["detail"]
    assert "did you mean 'slack'?" in found[1]["detail"]
    assert found[2]["detail"] == "notify.urls[2] (json://...) took the test"
    assert hook.titles == ["a test"]
    assert not any(secret in answer.out + answer.err for secret in SECRETS)


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_farm_that_could_not_notify_is_not_started(command: str, farm: Farm) -> None:
    farm.environment["FARM_NOTIFY_URLS"] = f"json://127.0.0.1 slack://{SECRETS[0]}"
    answer = farm(command)
    assert answer.code == 2
    assert "notify.urls[1] (slack://...) is not a service that apprise understands" in answer.err
    assert SECRETS[0] not in answer.err
    assert not (farm.folder / "home" / "serve.log").exists()
