"""Ray's jobs, one an attempt. A Ray that does not answer, or says no, is an answer here, not an exception."""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from ray.job_submission import JobDetails

from farm.errors import first_line, last_line
from workers.ray_internals.job_client import Client
from workers.ray_internals.phrases import JOB_BEGINS
from workers.ray_internals.processes import cluster_mark

ANSWER_SECONDS = 30.0  # for Ray's dashboard: it may be alive, take the call and never answer
_AWAY = (RuntimeError, ConnectionError, OSError)  # what the client raises: RuntimeError for every word of Ray's


def job_id(run_id: str, epoch: int) -> str:
    """The Ray submission id of an attempt; the dashboard's Jobs page shows it."""
    return f"farm-{run_id}-a{epoch}"


def last_words(info: JobDetails) -> str:
    """Why a job failed: the last thing that it said itself, or how it ended if it had said nothing yet."""
    said, code = last_line(info.message or ""), info.driver_exit_code
    if not said.startswith(JOB_BEGINS) or code is None:  # that line is Ray's own
        return said
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"it {ended} before it printed anything"


class Answering:
    """Checks who answers at a dashboard's address, before each request: another program may have its port by now,
    to which our secret would go."""

    def __init__(self, url: str, cluster_id: str):
        self._port, self._mark = urlsplit(url).port, cluster_mark(cluster_id)
        self._process: psutil.Process | None = None

    def __call__(self) -> None:
        """Raises: ConnectionError: not the dashboard of that cluster, as far as this machine's process table tells."""
        if self._process is None or not self._listens(self._process):
            self._process = next(filter(self._listens, psutil.process_iter()), None)
        if self._process is None:
            raise ConnectionError(
                f"no process listening at port {self._port} on this machine is this Ray's dashboard,"
                " so its token was not sent"
            )

    def _listens(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            if not process.is_running() or process.uids().effective not in (0, os.geteuid()):
                return False
            if self._mark not in process.cmdline():
                return False
            heard = (one for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
            return any(one.laddr.port == self._port for one in heard)
        return False


class Jobs:
    """The jobs of the Ray whose dashboard is at `url`; `token` is the file with its secret.

    `answering` raises ConnectionError where another answers there: then nothing is sent.

    Raises: ConnectionError: nothing answers there.
    """

    def __init__(
        self,
        url: str,
        token: Path,
        seconds: float = ANSWER_SECONDS,
        *,
        answering: Callable[[], None] = lambda: None,
    ):
        self._client = Client(url, token.read_text(encoding="utf-8").strip(), seconds, answering)

    def away(self) -> str | None:
        """Why no job can be submitted now, as far as can be told without one; None if nothing speaks against it."""
        try:
            self._client.get_version()
        except _AWAY as error:
            return first_line(error)
        return None

    def submit(
        self,
        job: str,
        entrypoint: str,
        *,
        metadata: dict[str, str],
        resources: Mapping[str, float],
        cpus: float,
        node: str,
    ) -> str | None:
        """Have `entrypoint` run on the Ray node `node`, holding `resources` and `cpus`.

        Returns Ray's reason for refusing, or None.
        """
        try:
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                metadata=metadata,
                entrypoint_resources=dict(resources),
                entrypoint_num_cpus=cpus,
                entrypoint_label_selector={"ray.io/node-id": node},
            )
        except _AWAY as error:
            return first_line(error)
        return None

    def stop(self, job: str) -> str | None:
        """Ask `job` to stop, SIGTERM first. Returns why it could not be asked; there may be no such job."""
        try:
            self._client.stop_job(job)
        except _AWAY as error:
            return first_line(error)
        return None

    def is_unknown(self, job: str) -> bool:
        """Whether Ray says that it has no such job; False when it cannot be asked."""
        try:
            return self._client.knows_no(job)
        except _AWAY:
            return False

    def info(self, job: str) -> JobDetails | None:
        """Ray's details of `job`; None when it does not know the job, or cannot be asked."""
        try:
            return self._client.get_job_info(job)
        except _AWAY:
            return None
