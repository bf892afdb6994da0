"""The live view of a run that trains: Ray's dashboard by its own API, and a real Prometheus that scrapes the farm."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from waiting import wait_until

from farm.site import serving
from farm.study.run import State

EXAMPLES = Path(__file__).parents[2] / "examples" / "monitoring"
BOARD = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
TARGETS = [(panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel["targets"]]
VARIABLES = {v["name"]: v["definition"] for v in BOARD["templating"]["list"] if v["type"] == "query"}
EXPORTED_SECONDS = 60.0  # Ray exports every 10 s, and Prometheus needs a scrape after that


class Prometheus:
    """A Prometheus under test, by its HTTP API."""

    def __init__(self, url: str):
        self.url = url

    def ask(self, path: str, **words: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urlencode(words)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str) -> list[dict[str, Any]]:
        return self.ask("query", query=expression)["result"]

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        return wait_until(lambda: self.series(expression), f"a series for {expression}", EXPORTED_SECONDS)


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus on `config`, which it is given with scrapes every second, to be quick."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    binary = shutil.which("prometheus", path=places)
    assert binary, "no prometheus: make test fetches one; or apt-get install prometheus"
    config.write_text(config.read_text().replace("interval: 10s", "interval: 1s"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}", f"--web.listen-address={address}"]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or answers(f"http://{address}/-/ready"), "it is ready", 60)
        assert process.poll() is None, Path(log.name).read_text()
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def live(farm):
    """A run that trains for as long as the tests look, and a Prometheus as examples/monitoring sets it up."""
    (run_id,) = farm.submit("live", tokens=10**9, checkpoint_seconds=10)
    facts = serving.facts(farm.settings)
    config = farm.home / "prometheus.yml"
    shutil.copy(EXAMPLES / "prometheus.yml", config)
    with prometheus(config, farm.home / "prometheus") as server:
        with farm.queue() as queue:
            wait_until(lambda: queue.listing.curve(run_id), "the run trains", 400)
        yield SimpleNamespace(farm=farm, run_id=run_id, facts=facts, prometheus=server)
    with farm.queue() as queue:
        queue.cancel(run_id)


def test_what_farm_status_says_of_the_login_is_what_the_dashboard_asks_for(live):
    """Its dialog advises `ray get-auth-token`, which knows no token but that of a Ray in ~/.ray."""
    said = {row["what"]: row["value"] for row in rows(live.farm.run("status").stdout)}
    command = said["log in with"].removeprefix("the output of: ")
    token = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert (login(live.facts.dashboard, token), login(live.facts.dashboard, "0" * 64)) == (200, 403)


def login(dashboard: str, token: str) -> int:
    """What the dashboard answers to whoever pastes `token` into its dialog."""
    header = {"Authorization": f"Bearer {token.strip()}"}
    request = urllib.request.Request(f"{dashboard}/api/authenticate", method="POST", headers=header)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def rows(text: str) -> list[dict[str, str]]:
    head, *body = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def test_the_jobs_page_has_a_row_named_after_the_run_with_its_log(live):
    job = live.farm.dashboard(f"/api/jobs/farm-{live.run_id}-a1")
    assert job["status"] == "RUNNING"
    wanted = {"study": "live", "arm": "baseline", "machine": "cpu-x1", "seeds": "42.23"}
    wanted |= {"job_name": "baseline s42.23 on cpu-x1 (live)"}
    assert wanted.items() <= job["metadata"].items()
    log = live.farm.dashboard(f"/api/jobs/farm-{live.run_id}-a1/logs")["logs"]
    assert f"{live.run_id} attempt 1: 1 x 2 x 4 sequences a step on cpu-x1" in log
    assert "Starting at step 0." in log


def test_rays_api_lists_the_run_and_its_worker(live):
    runs = {run["name"]: run for run in live.farm.dashboard("/api/train/v2/runs/v1")["train_runs"]}
    run = runs[f"{live.run_id}-a1"]
    assert run["status"] == "RUNNING"
    (attempt,) = run["attempts"]
    assert [worker["world_rank"] for worker in attempt["workers"]] == [0]
    assert run["framework_versions"]["torch"] == torch.__version__


def test_the_agent_holds_no_torch(live):
    """It would import it while the workers wait, and keep 300 MB."""
    mapped = {Path(file.path).name for file in live.farm.agent(live.run_id).memory_maps()}
    assert any(name.startswith("_raylet") for name in mapped)
    assert not [name for name in mapped if "torch" in name]


def test_show_links_to_the_job_and_the_page_answers(live):
    link = live.farm.json("show", live.run_id, "--json")["dashboard"]
    page, _, fragment = link.partition("#")
    assert answers(page), "the page itself asks for the token, not its address"
    assert live.farm.dashboard(f"/api{fragment}")["submission_id"] == f"farm-{live.run_id}-a1"


@pytest.mark.parametrize(("panel", "expression"), TARGETS)
def test_every_panel_of_the_grafana_dashboard_finds_a_series(live, panel, expression):
    query = re.sub(r"\$(\w+)", lambda name: {"study": "live", "machine": ".*", "arm": ".*"}[name[1]], expression)
    assert live.prometheus.wait_for(query), panel


def test_the_variables_of_the_grafana_dashboard_find_the_run(live):
    live.prometheus.wait_for("ray_farm_steps")
    found = {}
    for name, query in VARIABLES.items():
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
        found[name] = live.prometheus.ask(f"label/{label}/values", **{"match[]": metric})
    ours = {"study": "live", "machine": "cpu-x1", "arm": "baseline"}  # others train on this farm, too
    assert {name: value for name, value in ours.items() if value in found[name]} == ours, found


def test_the_gauges_are_those_of_the_newest_step(live):
    loss = live.prometheus.wait_for("ray_farm_loss")[0]
    wanted = {"study": "live", "run": live.run_id, "arm": "baseline", "machine": "cpu-x1"}
    assert wanted.items() <= loss["metric"].items()
    with live.farm.queue() as queue:
        run, curve = queue.listing.status(live.run_id).run, queue.listing.curve(live.run_id)
    assert float(loss["value"][1]) < curve[0].loss
    assert float(live.prometheus.series("ray_farm_learning_rate")[0]["value"][1]) == pytest.approx(1e-3)
    assert float(live.prometheus.series("ray_farm_tokens_per_second")[0]["value"][1]) > 0
    assert float(live.prometheus.series("ray_farm_grad_norm")[0]["value"][1]) > 0
    assert float(live.prometheus.series("ray_farm_steps")[0]["value"][1]) == run.recipe.steps
    step = float(live.prometheus.wait_for("ray_farm_step")[0]["value"][1])
    assert step >= 1
    newest = lambda: max((float(one["value"][1]) for one in live.prometheus.series("ray_farm_step")), default=0.0)  # noqa: E731
    wait_until(lambda: newest() > step, "the step moves on", 60)  # a scrape that came late leaves a gap


def test_memory_is_the_resident_one_and_that_of_the_gpu_where_there_is_one(live):
    series = live.prometheus.wait_for("ray_farm_memory_bytes")
    found = {each["metric"]["kind"]: float(each["value"][1]) for each in series}
    assert found.keys() == {"host"} | ({"gpu"} if torch.cuda.is_available() else set())
    assert 2**27 < found["host"] < 2**34


def test_a_prometheus_that_may_not_read_the_home_asks_the_dashboard(live, tmp_path):
    config = tmp_path / "prometheus.yml"
    text = (EXAMPLES / "prometheus-service.yml").read_text()
    assert "http://127.0.0.1:8265/" in text
    config.write_text(text.replace("http://127.0.0.1:8265", live.facts.dashboard))
    shutil.copy(live.facts.token_path, tmp_path / "ray-token")
    with prometheus(config, tmp_path / "data") as server:
        assert server.wait_for("ray_farm_loss")[0]["metric"]["run"] == live.run_id


def test_what_ray_writes_for_grafana_is_at_a_path_that_stays(live):
    written = live.farm.home / "metrics" / "grafana"
    assert f"provisioning = {written}/provisioning" in (written / "grafana.ini").read_text()
    assert list(written.glob("dashboards/*.json"))


def test_q8_a_cancelled_run_stops_and_gains_no_result(live):
    live.prometheus.wait_for("ray_farm_step")  # for the test after this one
    live.farm.wait_for_checkpoint(live.run_id)
    live.farm.run("cancel", live.run_id)
    live.farm.wait_for(live.run_id, State.CANCELLED)
    assert live.farm.store.runs.result(live.run_id) is None
    assert live.farm.store.runs.attempts(live.run_id)[-1].outcome == "cancelled"


def test_the_gauges_of_a_run_that_is_over_are_soon_gone(live):
    """Ray drops them 20 s after they were set last. The last of the module, whose run the test before has ended."""
    wait_until(lambda: not live.prometheus.series('{__name__=~"ray_farm_.+"}'), "no gauge of it is left", 60)
