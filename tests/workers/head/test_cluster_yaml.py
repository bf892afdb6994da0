"""The files that start a cluster: Ray's launcher accepts them, and their machines are the farm's machine classes."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax
from ray.autoscaler._private.autoscaler import StandardAutoscaler
from ray.autoscaler._private.load_metrics import LoadMetrics
from ray.autoscaler._private.util import prepare_config, validate_config
from waiting import wait_until

from farm.errors import BadSetting
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine, Price
from workers.head import clusterfile
from workers.head.clusterfile import Fleet, Kind
from workers.node import labels

ROOT = Path(__file__).parents[3]
USD = labels.USD_LABEL
FILES = ["cluster.yaml", "examples/onprem.yaml"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it talks to any cloud."""
    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def aws(usd: float) -> Price:
    return Price(usd_per_hour=usd, source="AWS-on-demand-us-east-1", date="2025-06")


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = config["available_node_types"]
    return {name: kind for name, kind in types.items() if name != config["head_node_type"]}


@pytest.mark.parametrize("name", FILES)
def test_rays_launcher_accepts_the_file(name):
    prepared(load(name))


@pytest.mark.parametrize("name", FILES)
def test_the_farm_finds_nothing_to_say_against_the_file(name):
    assert list(clusterfile.doubts(clusterfile.load(ROOT / name), BUILT_IN.keys())) == []


def test_what_the_autoscaler_may_start_is_read_from_the_file():
    dollars = {"8xa100m40": 21.96, "8xh100m80": 55.04}
    kinds = {name: Kind({name: 1}, 2, aws(usd)) for name, usd in dollars.items()}
    assert clusterfile.fleet(clusterfile.load(ROOT / "cluster.yaml")) == Fleet(kinds, 4)
    assert clusterfile.fleet(clusterfile.load(ROOT / "examples/onprem.yaml")).kinds == {}


def test_a_prepared_file_as_the_head_has_it_is_read_the_same(tmp_path):
    """`ray up` leaves ~/ray_bootstrap_config.yaml on the head, with every default filled in."""
    for name in FILES:
        path = tmp_path / "ray_bootstrap_config.yaml"
        path.write_text(yaml.safe_dump(prepared(load(name))))
        assert clusterfile.fleet(clusterfile.load(path)) == clusterfile.fleet(clusterfile.load(ROOT / name))


def changed(tmp_path, change, name="cluster.yaml"):
    """The path of a copy of `name` that `change` has been at."""
    config = load(name)
    change(config)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda c: c.update(idle_timeout_hours=1),
            "idle_timeout_hours: unknown key; did you mean 'idle_timeout_minutes'?",
        ),
        (
            lambda c: c["available_node_types"]["8xa100m40"].update(label={}),
            "available_node_types.8xa100m40.label: unknown key; did you mean 'labels'?",
        ),
        (lambda c: c["auth"].update(user="me"), "auth.user: unknown key; did you mean 'ssh_user'?"),
        (lambda c: c["available_node_types"]["8xa100m40"]["resources"].update(GPU=0.5), "resources.GPU: 0.5 is not of"),
        (lambda c: c["available_node_types"]["8xa100m40"].pop("resources"), "'resources' is a required property."),
        (lambda c: c.update(max_workers="four"), "max_workers: 'four' is not of type 'integer'."),
        (lambda c: c.update(head_node_type="hed"), "`head_node_type` must be one of `available_node_types`."),
        (lambda c: c["provider"].update(type="lambda"), "Unsupported node provider: lambda."),
        (lambda c: c.pop("provider"), "'provider' is missing."),
    ],
)
def test_what_ray_would_not_take_is_one_line_that_says_what_to_do(tmp_path, change, says):
    path = changed(tmp_path, change)
    with pytest.raises(BadSetting) as caught:
        clusterfile.load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert says in said
    assert said.endswith(f"Fix it, then: farm doctor --cluster {path}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "not YAML"), ("- x", "is not a cluster file"), (None, "No such file")]
)
def test_what_is_no_cluster_file_is_said_in_one_line(tmp_path, text, says):
    path = tmp_path / "broken.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadSetting, match=says) as caught:
        clusterfile.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(head_start_ray_commands=["ray start --head"]), "do not start an autoscaler"),
        (lambda c: c["available_node_types"]["head"].update(resources={"CPU": 2}), "head: a head that trains"),
        (
            lambda c: c["available_node_types"]["8xa100m40"].update(resources={"GPU": 8}),
            "8xa100m40 offers no machine class",
        ),
        (
            lambda c: c["available_node_types"]["8xa100m40"]["resources"].update({"farm:odd": 1}),
            "unknown machine class odd",
        ),
        (
            lambda c: c["available_node_types"]["8xa100m40"]["labels"].pop("farm-usd-per-hour"),
            "8xa100m40 has no price",
        ),
        (
            lambda c: c["available_node_types"]["8xa100m40"]["labels"].pop("farm-price-date"),
            "8xa100m40: its price has no date",
        ),
    ],
)
def test_what_ray_takes_and_the_farm_does_not_want_is_said(tmp_path, change, says):
    (doubt,) = clusterfile.doubts(clusterfile.load(changed(tmp_path, change)), BUILT_IN.keys())
    assert says in doubt


@pytest.mark.parametrize("bad", ["free", "-1", "nan"])
def test_a_label_that_is_not_a_price_is_refused_in_one_line(tmp_path, bad):
    path = changed(tmp_path, lambda c: c["available_node_types"]["8xa100m40"]["labels"].update({USD: bad}))
    with pytest.raises(BadSetting, match=f"farm-usd-per-hour: '{bad}'.* are not a price. Write dollars per hour"):
        clusterfile.fleet(clusterfile.load(path))


def test_machines_of_ones_own_without_a_price_are_said(tmp_path):
    config = load("examples/onprem.yaml")
    config["setup_commands"] = [command for command in config["setup_commands"] if "usd_per_hour" not in command]
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    (doubt,) = clusterfile.doubts(clusterfile.load(path), BUILT_IN.keys())
    assert "no price" in doubt


def test_the_config_that_onprem_writes_is_one_that_the_farm_reads(tmp_path):
    (command,) = [text for text in load("examples/onprem.yaml")["setup_commands"] if "usd_per_hour" in text]
    subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    read = Settings.load({"FARM_HOME": str(tmp_path)}, (tmp_path / ".config/farm/config.toml",)).machines
    assert {str(price) for machine in read.values() for price in machine.prices} == {"by our own machine"}


def test_of_two_node_types_for_a_class_the_dearer_one_is_planned_with():
    kinds = {"spot": Kind({"big": 1}, 1, aws(1.0)), "sure": Kind({"big": 1}, 1, aws(3.0)), "odd": Kind({"big": 1}, 1)}
    assert Fleet(kinds, 3).price("big") == aws(3.0)


def test_a_node_that_the_launcher_started_knows_its_price(monkeypatch):
    """Ray hands the labels of a node type to its start commands, of which `farm join` is one."""
    said = load("cluster.yaml")["available_node_types"]["8xa100m40"]["labels"]
    monkeypatch.setenv("RAY_OVERRIDE_LABELS", json.dumps(said))
    assert labels.own_price() == aws(21.96)
    monkeypatch.delenv("RAY_OVERRIDE_LABELS")
    assert labels.own_price() is None


def test_a_class_that_farm_toml_declares_is_known(tmp_path):
    path = changed(tmp_path, lambda c: c["available_node_types"]["8xa100m40"]["resources"].update({"farm:odd": 1}))
    assert list(clusterfile.doubts(clusterfile.load(path), {*BUILT_IN, Machine(name="odd").name})) == []


def test_each_worker_type_is_a_machine_class_that_the_farm_knows():
    types = workers(load("cluster.yaml"))
    assert types.keys() == {"8xa100m40", "8xh100m80"}
    for name, kind in types.items():
        machine = BUILT_IN[name]
        assert kind["resources"]["GPU"] == machine.accelerators
        classes = {key: count for key, count in kind["resources"].items() if key.startswith("farm:")}
        assert classes == {machine.resource: 1}
        assert kind["labels"]["farm-machine"] == name
        assert set(kind["labels"]) - {"farm-machine"} == {labels.USD_LABEL, labels.SOURCE_LABEL, labels.DATE_LABEL}
        validate_node_label_syntax(kind["labels"])


def test_nothing_is_paid_for_while_nothing_is_queued_and_nothing_is_placed_on_the_head():
    config = prepared(load("cluster.yaml"))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 15
    assert (head["resources"], head["max_workers"]) == ({"CPU": 0}, 0)


@pytest.mark.parametrize("name", FILES)
def test_the_head_starts_ray_without_cpus_with_a_memory_and_an_autoscaler_and_then_the_dispatcher(name):
    commands = prepared(load(name))["head_start_ray_commands"]
    (start,) = [command for command in commands if "ray start" in command]
    for words in ("--head", "--num-cpus=0", "--autoscaling-config=~/ray_bootstrap_config.yaml", "--redis-password"):
        assert words in start
    address = start.split("RAY_REDIS_ADDRESS=")[1].split()[0]
    config = load(name)
    servers = "\n".join(config["head_setup_commands"])
    assert f"for port in 6380 {address.rpartition(':')[2]}" in servers, "Ray's memory of the cluster has its own Redis"
    assert ":6380/" in "\n".join(config["setup_commands"]), "the farm's is another"
    assert "farm serve --attach" in "\n".join(commands)
    assert ("--autoscaling-config ~/ray" in "\n".join(commands)) == (name == "cluster.yaml"), "what waits is told"


def test_the_head_s_autoscaler_starts_the_machines_of_onprem(tmp_path, monkeypatch):
    """With the launcher it is the autoscaler, not `ray up`, that starts workers, and it must know of the head first."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text("a key")
    config = clusterfile.load(ROOT / "examples/onprem.yaml") | {"file_mounts": {}}
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.write_text(yaml.safe_dump(config))
    assert "export RAY_enable_autoscaler_v2=0" in "\n".join(config["setup_commands"])  # version 1 is the one below
    autoscaler = StandardAutoscaler(str(bootstrap), LoadMetrics(), gcs_client=None)
    assert autoscaler.provider.non_terminated_nodes({}) == ["10.0.0.5"]
    autoscaler.update()
    every = {"10.0.0.5", "10.0.0.6", "10.0.0.7"}
    wait_until(lambda: set(autoscaler.provider.non_terminated_nodes({})) == every, "both are being started")


def test_a_machine_of_ones_own_that_was_told_to_leave_is_not_started_again(tmp_path):
    """Ray's autoscaler gives the commands again 30 s after it last heard of a machine."""
    (tmp_path / "env").touch()
    for name in ("ray", "farm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> ~/calls\n')
        (tmp_path / name).chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.5"}
    for _ in range(2):
        for command in load("examples/onprem.yaml")["worker_start_ray_commands"]:
            subprocess.run(["bash", "-c", command], env=environment, check=True)
        wait_until((tmp_path / "left").exists, "farm join has returned 0")
    assert (tmp_path / "calls").read_text() == "ray stop\nfarm join 10.0.0.5:6379\n"


@pytest.mark.parametrize("name", FILES)
def test_every_node_installs_this_checkout_and_joins(name):
    config = prepared(load(name))
    assert config["file_mounts"]["~/farm"] == "."
    assert "pip install -q ~/'farm[node]'" in "\n".join(config["setup_commands"])
    assert "farm join $RAY_HEAD_IP:6379" in "\n".join(config["worker_start_ray_commands"])


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_a_shell_command(name):
    config = load(name)
    commands = [command for key in config if key.endswith("_commands") for command in config[key]]
    assert len(commands) >= 8
    for command in commands:
        checked = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True)
        assert (checked.returncode, checked.stderr) == (0, ""), command


@pytest.mark.parametrize("name", FILES)
def test_no_secret_stands_in_the_file_and_every_server_asks_for_one(name):
    text = (ROOT / name).read_text()
    assert text.count("redis-server -") == text.count('echo "requirepass $(cat ~/secrets/redis-password)" |') == 1
    assert text.count("requirepass") == 1
    assert "RAY_AUTH_MODE=token" in text
