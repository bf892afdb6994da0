"""Ray's jobs where Ray does not answer; tests/walk has those of a Ray that does."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from dispatching import VERSION, answering
from ray.job_submission import JobDetails, JobStatus, JobType

from workers.head.jobs import Answering, Jobs, job_id, last_words


class Stuck(BaseHTTPRequestHandler):
    """A dashboard that says who it is, then takes every call and answers none."""

    over = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(VERSION).encode())
        else:
            self.over.wait()

    do_POST = do_GET


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[Jobs]:
    with answering(Stuck, tmp_path, seconds=0.2) as jobs:
        try:
            yield jobs
        finally:
            Stuck.over.set()


def test_a_job_is_named_after_its_run_and_epoch() -> None:
    assert job_id("cpu-x1-baseline-s42.23-1f3a9c2e", 3) == "farm-cpu-x1-baseline-s42.23-1f3a9c2e-a3"


FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n"
RAYS_OWN = "Running entrypoint for job farm-a-a1: exec python3 -m workers.attempt.agent --run a\n"


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (-9, "", "it was killed by SIGKILL before it printed anything"),
        (1, "", "it ended with exit code 1 before it printed anything"),
        (1, "Traceback ...\nImportError: no module named farm\n", "ImportError: no module named farm"),
    ],
)
def test_the_last_words_of_a_job_are_its_own_and_not_ray_s(code: int, said: str, words: str) -> None:
    message = FAILED.format(code) + RAYS_OWN + said
    assert last_words(failed(message=message, driver_exit_code=code)) == words
    assert last_words(failed(message="Unexpected error occurred: no room", driver_exit_code=None)).endswith("no room")


def failed(**more: Any) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, status=JobStatus.FAILED, entrypoint="", **more)


def test_a_dashboard_that_never_answers_is_not_waited_for(stuck: Jobs) -> None:
    assert "timed out" in str(stuck.stop("farm-a-a1"))
    assert stuck.info("farm-a-a1") is None
    refusal = stuck.submit("farm-a-a1", "true", metadata={}, resources={}, cpus=0.0, node="node")
    assert "timed out" in str(refusal)


def test_the_token_goes_to_nobody_who_only_has_the_dashboards_port(tmp_path: Path) -> None:
    """A dashboard has died, and a program of somebody else's has its port: it hears nothing at all."""
    (tmp_path / "token").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConnectionError, match="its token was not sent"):
            Jobs(url, tmp_path / "token", answering=Answering(url, "0" * 56))
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.accept()


LISTENER = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
)


def test_the_dashboard_of_the_cluster_is_known_by_its_cluster_and_its_port() -> None:
    words = [sys.executable, "-c", LISTENER, "--cluster-id-hex=c0ffee"]
    with subprocess.Popen(words, stdin=-1, stdout=-1, text=True) as dashboard:
        assert dashboard.stdout is not None
        url = f"http://127.0.0.1:{int(dashboard.stdout.readline())}"
        answering = Answering(url, "c0ffee")
        answering()
        with pytest.raises(ConnectionError):
            Answering(url, "another")()
        dashboard.kill()
        dashboard.wait()
        with pytest.raises(ConnectionError):
            answering()
