"""Ray's jobs where Ray does not answer; tests/walk has those of a Ray that does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

from workers.jobs import Jobs, job_id

VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}


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
    token = tmp_path / "token"
    token.write_text("secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Stuck) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield Jobs(f"http://127.0.0.1:{server.server_port}", token, seconds=0.2)
        finally:
            Stuck.over.set()
            server.shutdown()
            serving.join()


def test_a_job_is_named_after_its_run_and_epoch() -> None:
    assert job_id("cpu-x1-baseline-s42.23-1f3a9c2e", 3) == "farm-cpu-x1-baseline-s42.23-1f3a9c2e-a3"


def test_a_dashboard_that_never_answers_is_not_waited_for(stuck: Jobs) -> None:
    assert "timed out" in str(stuck.stop("farm-a-a1"))
    assert stuck.info("farm-a-a1") is None
    refusal = stuck.submit("farm-a-a1", "true", metadata={}, resources={}, cpus=0.0, node="node")
    assert "timed out" in str(refusal)
