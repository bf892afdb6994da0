"""`farm machines`: what is known of each class, and how a probe becomes a plan."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from farm.queue.node import Node
from farm.queue.values import Supply
from farm.study.machine import BUILT_IN
from farm.study.study import Study
from workers.attempt.probing import key

from .conftest import ROOT, Farm

BESIDES_TORCH = 650_000_000  # bytes: one sequence of the study below needs 340 MB, two need 710 to 1000


def test_a_class_says_what_was_probed(farm: Farm) -> None:
    cpu = BUILT_IN["cpu"].model_copy(update={"probes": {"m:fp32": 3}})
    farm.queue.roster.register(cpu, "node-1", 60)
    told = {row["machine"]: row for row in json.loads(farm("machines", "--json").out)["data"]}
    assert (told["cpu"]["probes"], told["cpu"]["source"], told["cpu"]["nodes"]) == ({"m:fp32": 3}, "its nodes", 1)
    assert told["cpu-x1"]["probes"] == {}


def test_a_class_says_what_its_nodes_run_or_why_they_are_idle(farm: Farm) -> None:
    farm.put()
    done, here = farm.claim(), farm.claim()
    farm.finish(done, 3.0)
    nodes = [
        Node(id="node-1", name="attic", host="attic", address="10.0.0.6", units={"cpu": 1}),
        Node(id="node-2", name="cellar", host="cellar", address="10.0.0.7", units={"cpu": 1, "cpu-x1": 2}),
        Node(id="node-3", name="roof", host="roof", address="10.0.0.8", units={"cpu-x1": 2}),
    ]
    farm.queue.roster.sight(nodes, 60)
    farm.queue.roster.drain("node-2", "by hand")
    told = {row["machine"]: row for row in json.loads(farm("machines", "--json").out)["data"]}
    assert [(node["node"], node["doing"]) for node in told["cpu"]["on"]] == [
        ("attic", f"{here.run.id} at step 1"),
        ("cellar", "drained: by hand"),
    ]
    assert (told["cpu"]["slots"], told["cpu-x1"]["slots"], told["cpu-x2"]["slots"]) == (1, 2, 0)
    assert (told["cpu"]["nodes"], told["cpu-x1"]["nodes"], told["cpu-x2"]["nodes"]) == (1, 1, 0), (
        "a drained one is none"
    )
    assert told["cpu-x1"]["on"][1]["doing"] == "idle: nothing queued for cpu-x1"
    assert told["cpu"]["seen_tokens_per_second"] == round(
        farm.queue.listing.status(done.run.id).result.tokens_per_second
    )
    assert told["cpu-x1"]["seen_tokens_per_second"] is None
    (row,) = [row for row in farm("machines").rows if row["machine"] == "cpu"]
    assert row["now"] == f"attic: {here.run.id} at step 1; cellar: drained: by hand"


def test_hardware_of_which_only_the_price_is_known_is_unknown(farm: Farm) -> None:
    Path("farm.toml").write_text("[machines.1xh100m80]\nusd_per_hour = 3.99\n")
    (one,) = [row for row in farm("machines").rows if row["machine"] == "1xh100m80"]
    assert (one["accelerator"], one["accelerators"], one["memory_bytes"]) == ("", "", "")
    assert one["usd_per_hour"] == "3.99"


def test_a_class_says_how_many_nodes_an_autoscaler_may_start(farm: Farm) -> None:
    farm.queue.roster.provide({"8xa100m40": Supply(most=2)}, 60)
    told = {row["machine"]: row["may_start"] for row in farm("machines").rows}
    assert (told["8xa100m40"], told["8xh100m80"]) == ("2", "0")


@pytest.mark.parametrize(("name", "code"), [("missing.toml", 2), ("nope", 3)])
def test_only_a_study_can_be_probed_for(farm: Farm, name: str, code: int) -> None:
    answer = farm("machines", "--probe", name)
    assert (answer.code, answer.out) == (code, "")


def test_a_cpu_is_not_probed_without_a_limit(farm: Farm) -> None:
    answer = farm("machines", "--probe", farm.file())
    assert (answer.code, answer.out) == (1, "")
    assert "a CPU's memory is not probed" in answer.err
    assert farm.queue.roster.machines() == {}


def test_what_a_probe_finds_is_what_plans_are_made_with(farm: Farm) -> None:
    """Under a limit on the address space, a CPU is probed like any other device."""
    path = farm.file()
    with open(path) as file:
        text = file.read().replace("context = 32", "context = 2048").replace("width = 16", "width = 64")
    text = text.replace("layers = 1", "layers = 2").replace("vocab = 50257", "vocab = 64")
    text = text.replace("batch = 8", 'batch = 2\nkernels = "torch"').replace("2560", "40960")
    with open(path, "w") as file:
        file.write(text.split("[interventions.remove-dropout]")[0])
    (by_formula,) = json.loads(farm("plan", path, "--json").out)["data"]
    assert by_formula["microbatch"] == 2
    bounded = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    measure = "import model.train\nprint([l for l in open('/proc/self/status') if 'VmPeak' in l][0].split()[1])"
    loaded = subprocess.run(
        [sys.executable, "-c", measure], cwd=ROOT, env=bounded, capture_output=True, text=True, check=True
    )
    limit = int(loaded.stdout) + BESIDES_TORCH // 1024
    words = f"ulimit -v {limit} && exec {sys.executable} -m cli.main machines --probe {path} --json"
    environment = bounded | farm.environment | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        ["bash", "-c", words], env=environment, cwd=farm.folder, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    recipe = Study.load(farm.folder / "tiny.toml").arms()[0].recipe
    found = farm.queue.roster.machines()["cpu"].probes[key(recipe)]
    assert 1 <= found < 4
    assert f"cpu: microbatches of up to {found} fit" in said.stderr
    assert farm.queue.roster.offers()["cpu"] == [], f"{platform.node()} offers nothing by being probed"
    (planned,) = json.loads(farm("plan", path, "--json").out)["data"]
    assert (planned["microbatch_basis"], planned["microbatch"]) == ("probe", min(found, 2)), "a divisor of the batch 2"
