"""The command line as a person has it: real arguments, a real redis-server, a home of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hub_server import Hub, serving
from redis import Redis
from results import result, study_text, tiny_study
from typer.testing import CliRunner

from cli.main import app
from farm.queue.queue import Queue
from farm.queue.values import Claim, Point
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.run import State
from farm.study.study import Study

ROOT = Path(__file__).resolve().parent.parent.parent


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """TSV, by heading."""
        head, *body = [line.split("\t") for line in self.out.splitlines()]
        return [dict(zip(head, cells, strict=True)) for cells in body]


class Farm:
    """A farm with nobody to train: the tests are its workers."""

    def __init__(self, folder: Path, client: Redis, url: str):
        self.folder, self.queue = folder, Queue(client, backoff_seconds=60)
        self.store = Store(folder / "storage")
        self.environment = {
            "HOME": str(folder),
            "FARM_HOME": str(folder / "home"),
            "FARM_STORAGE": str(self.store.root),
            "FARM_REDIS_URL": url,
            "NO_COLOR": "",
            "COLUMNS": "200",
        }

    def __call__(self, *words: str, reads: str | None = None) -> Answer:
        """A command in this process, its output going to a pipe; `reads` is its standard input."""
        said = CliRunner().invoke(app, list(words), input=reads, env=self.environment)
        return Answer(said.exit_code, said.stdout, said.stderr)

    @contextmanager
    def start(self, *words: str, **environment: str) -> Iterator[subprocess.Popen]:
        """The same in a process of its own, which does not outlive the test."""
        with subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            cwd=self.folder,
            env=os.environ | self.environment | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def file(self, **changes: Any) -> str:
        """The path of a tiny study's file."""
        path = self.folder / f"{changes.get('name', 'tiny')}.toml"
        path.write_text(study_text(**changes))
        return str(path)

    def put(self, **changes: Any) -> Study:
        """Submit a tiny study, past the command line."""
        study = tiny_study(**changes)
        self.queue.put(study)
        return study

    def serve(self) -> None:
        """What a farm does first when it starts: its Redis is the index of its storage from then on."""
        reindex(self.store, self.queue, is_own=True)

    def claim(self, machine: str = "cpu") -> Claim:
        """Lease the next run, and say where it is."""
        claim = self.queue.claim(machine, "worker", 60)
        assert claim is not None, "nothing to claim"
        lease = self.queue.renew(claim.lease, 1, job=f"farm-{claim.run.id}-a{claim.lease.epoch}", node="node-1")
        return Claim(lease=lease, run=claim.run, study=claim.study, checkpoint=claim.checkpoint)

    def finish(self, claim: Claim, test_loss: float) -> None:
        """Finish a leased run."""
        self.queue.finish(claim.lease, result(claim.run, test_loss, epoch=claim.lease.epoch))

    def finish_all(self, machine: str = "cpu", shift: float = 0.0) -> None:
        """Finish every queued run of a class, at losses that its arm and seed decide."""
        base = {"baseline": 3.69, "remove-dropout": 3.64, "gradient-clipping": 3.70}
        while self.queue.listing.backlog().get(machine):
            claim = self.claim(machine)
            self.finish(claim, base[claim.run.arm] + claim.run.seeds.init / 1000 + shift)

    def fail(self, claim: Claim, cause: str = "nonfinite", message: str = "the loss is nan", step: int = 5) -> None:
        """Fail a leased run for good."""
        state = self.queue.fail(claim.lease, cause, message, step, retryable=False)
        assert state is State.FAILED

    def curve(self, claim: Claim, *losses: float) -> None:
        """Report losses of steps 1, 2, ..."""
        points = [Point(step=step, loss=loss, lr=1e-3, tokens_per_second=9.0) for step, loss in enumerate(losses, 1)]
        self.queue.record(claim.lease, points)


@pytest.fixture
def farm(redis: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """A farm with an empty Redis, in a folder without any farm.toml."""
    monkeypatch.chdir(tmp_path)
    return Farm(tmp_path, redis, redis_url)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, and a token of `us` that may write to `us` and `lab`."""
    from huggingface_hub import constants

    with serving(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        hub.add_token("hf_write", "us", orgs=[("lab", "write"), ("readers", "read")])
        yield hub


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client tries again at once, and gives up on a silence soon."""
    from huggingface_hub.utils import _http

    from model import hub_answers

    monkeypatch.setattr(_http, "time", SimpleNamespace(**vars(time) | {"sleep": lambda _: None}))
    monkeypatch.setattr(hub_answers, "SILENCE_SECONDS", 1.0)
