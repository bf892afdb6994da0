"""The files that start a cluster: Ray's launcher accepts them, and their machines are the farm's machine classes."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from farm.machine import BUILT_IN

ROOT = Path(__file__).parents[2]
FILES = ["cluster.yaml", "examples/onprem.yaml"]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it talks to any cloud."""
    ready = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = config["available_node_types"]
    return {name: kind for name, kind in types.items() if name != config["head_node_type"]}


@pytest.mark.parametrize("name", FILES)
def test_rays_launcher_accepts_the_file(name):
    prepared(load(name))


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_key_is_rejected(name):
    with pytest.raises((ValidationError, ValueError), match=r"idle_timeout_hours"):
        prepared(load(name) | {"idle_timeout_hours": 1})


def test_an_unknown_key_of_a_node_type_is_rejected():
    config = load("cluster.yaml")
    config["available_node_types"]["8xa100m40"]["label"] = {}
    with pytest.raises((ValidationError, ValueError), match=r"'label' was unexpected"):
        prepared(config)


def test_each_worker_type_is_a_machine_class_that_the_farm_knows():
    types = workers(load("cluster.yaml"))
    assert types.keys() == {"8xa100m40", "8xh100m80"}
    for name, kind in types.items():
        machine = BUILT_IN[name]
        assert kind["resources"]["GPU"] == machine.accelerators
        classes = {key: count for key, count in kind["resources"].items() if key.startswith("farm:")}
        assert classes == {machine.resource: 1}
        assert kind["labels"] == {"farm-machine": name}


def test_nothing_is_paid_for_while_nothing_is_queued_and_nothing_is_placed_on_the_head():
    config = prepared(load("cluster.yaml"))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert {kind["min_workers"] for kind in types.values()} == {0}
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
    assert head["resources"] == {"CPU": 0}


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
