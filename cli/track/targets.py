"""Trackers: where people already look at curves. Each says how far it has a run, and takes the points after that.

The library of each is imported when it is used, and none of them is needed by anything else here.
"""

import hashlib
import json
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cli.track.points import Point, Tracked
from farm.errors import BadSetting, nearest
from farm.files import write_whole
from farm.site.urls import hide_password
from farm.study.run import State

MLFLOW_POINTS = 150  # in a request: MLflow takes 1,000 values in one, and all of them or none


class Target(Protocol):
    """A tracker that is open."""

    name: str  # for people: no secret is in it

    def reached(self, run: Tracked) -> int:
        """The last step of a run that it has; 0: none."""

    def take(self, run: Tracked, points: Sequence[Point]) -> None:
        """Return when it has them: they follow on `reached`, steps ascending."""

    def close(self, run: Tracked, state: State | None) -> None:
        """All of a run was taken that is final; None: it is not, and another time there is more."""


class TensorBoard:
    """Event files under a folder, one folder a run. A step is one event, so that it is there whole or not at all."""

    def __init__(self, folder: str, cursors: Path):
        _library("tensorboardX", "tensorboard")
        self._folder, self.name = Path(folder).expanduser().absolute(), f"tensorboard={folder}"
        self._writers: dict[str, Any] = {}

    def reached(self, run: Tracked) -> int:
        return max((_last_step(path) for path in self._place(run).glob("events.out.tfevents.*")), default=0)

    def take(self, run: Tracked, points: Sequence[Point]) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # FileWriter's flush does not wait for its own thread
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if run.id not in self._writers:
            self._place(run).mkdir(parents=True, exist_ok=True)
            suffix = f".{secrets.token_hex(4)}"  # the names have whole seconds, and one of the same name is overwritten
            self._writers[run.id] = EventsWriter(str(self._place(run) / "events"), suffix)
        writer = self._writers[run.id]
        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            writer.write_event(Event(wall_time=point.at, step=point.step, summary=Summary(value=values)))
        writer.flush()

    def close(self, run: Tracked, state: State | None) -> None:
        if writer := self._writers.pop(run.id, None):
            writer.close()

    def _place(self, run: Tracked) -> Path:
        return self._folder / run.study / run.id


def _last_step(path: Path) -> int:
    """The last step in an event file. One that a crash has cut in the middle of an event ends before that."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    last = 0
    with path.open("rb") as file, suppress(DecodeError):
        while len(head := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", head[:8])
            if len(content := file.read(length + 4)) < length + 4:
                break
            last = max(last, Event.FromString(content[:-4]).step)
    return last


class MLflow:
    """A run of an experiment that is called as the study, on a server or in its local files."""

    def __init__(self, uri: str, cursors: Path):
        _library("mlflow", "mlflow")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # farm tries again itself; 7 take minutes
        from mlflow import MlflowClient

        self.name = f"mlflow={hide_password(uri)}"
        self._client = MlflowClient(uri)
        self._runs: dict[str, str] = {}

    def reached(self, run: Tracked) -> int:
        return max((one.step for one in self._client.get_metric_history(self._run(run), "lr")), default=0)

    def take(self, run: Tracked, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        for start in range(0, len(points), MLFLOW_POINTS):
            metrics = [
                Metric(name, value, round(point.at * 1000), point.step)
                for point in points[start : start + MLFLOW_POINTS]
                for name, value in point.values.items()
            ]
            self._client.log_batch(self._run(run), metrics=metrics)

    def close(self, run: Tracked, state: State | None) -> None:
        said = {State.SUCCEEDED: "FINISHED", State.FAILED: "FAILED", State.CANCELLED: "KILLED"}
        if state:
            self._client.set_terminated(self._run(run), said[state])

    def _run(self, run: Tracked) -> str:
        if run.id not in self._runs:
            self._runs[run.id] = self._find(run) or self._create(run)
        return self._runs[run.id]

    def _experiment(self, run: Tracked) -> str:
        found = self._client.get_experiment_by_name(run.study)
        return found.experiment_id if found else self._client.create_experiment(run.study)

    def _find(self, run: Tracked) -> str | None:
        found = self._client.search_runs([self._experiment(run)], f"tags.`farm.run` = '{run.id}'")
        return found[0].info.run_id if found else None

    def _create(self, run: Tracked) -> str:
        from mlflow.entities import Param

        tags, started = {"farm.run": run.id}, round(run.started * 1000)
        made = self._client.create_run(self._experiment(run), started, tags, run_name=run.id).info.run_id
        params = [Param(key, str(value)) for key, value in run.config.items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(made, params=params[start : start + 100])
        return made


class _Cursors:
    """Up to which step a tracker has each run, kept in the farm's home for those that do not say so themselves."""

    def __init__(self, folder: Path):
        self._folder = folder

    def reached(self, run: Tracked) -> int:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(self._path(run).read_text(encoding="utf-8"))["step"])
        return 0

    def note(self, run: Tracked, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(run), json.dumps({"step": step}).encode())

    def _path(self, run: Tracked) -> Path:
        return self._folder / f"{run.id}.json"


class _Sessions(_Cursors):
    """A tracker of which each run is a session of its own: one that has taken points is left open for more."""

    def __init__(self, project: str, cursors: Path):
        super().__init__(cursors)
        self._project = project
        self._open: dict[str, Any] = {}

    def take(self, run: Tracked, points: Sequence[Point]) -> None:
        """The step is noted when the library has taken the point; its own process writes it down and sends it."""
        session = self._open.get(run.id) or self._open.setdefault(run.id, self._begin(run))
        for point in points:
            session.log(point.values, step=point.step)
        self.note(run, points[-1].step)

    def close(self, run: Tracked, state: State | None) -> None:
        if session := self._open.pop(run.id, None):
            session.finish()

    def _begin(self, run: Tracked) -> Any:
        raise NotImplementedError


class WandB(_Sessions):
    """A run of a project; WANDB_MODE=offline keeps it here for `wandb sync`."""

    def __init__(self, project: str, cursors: Path):
        _library("wandb", "wandb")
        super().__init__(project, cursors)
        self.name = f"wandb={project}"

    def _begin(self, run: Tracked) -> Any:
        import wandb

        short = hashlib.sha256(run.id.encode()).hexdigest()[:16]  # a run's id may be too long for theirs
        settings = wandb.Settings(silent=True, x_disable_stats=True, disable_git=True, disable_code=True, console="off")
        return wandb.init(
            project=self._project, group=run.study, id=short, name=run.id, config=run.config, resume="allow",
            reinit="create_new", settings=settings,
        )  # fmt: skip


class Trackio(_Sessions):
    """A run of a project in Trackio's local database, or in the Space that its own settings name."""

    def __init__(self, project: str, cursors: Path):
        _library("trackio", "trackio")
        super().__init__(project, cursors)
        self.name = f"trackio={project}"

    def _begin(self, run: Tracked) -> Any:
        import trackio

        return trackio.init(
            project=self._project,
            group=run.study,
            name=run.id,
            config=run.config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,  # of this machine, which need not be the one that trains
            auto_log_gpu=False,
        )


class _Kind(NamedTuple):
    make: Callable[[str, Path], Target]
    value: str


KINDS = {
    "tensorboard": _Kind(TensorBoard, "DIR"),
    "mlflow": _Kind(MLflow, "URI"),
    "wandb": _Kind(WandB, "PROJECT"),
    "trackio": _Kind(Trackio, "PROJECT"),
}


def place(word: str, home: Path) -> Path:
    """The folder in the farm's home for what concerns the tracker that `word` names."""
    return home / "track" / hashlib.sha256(word.encode()).hexdigest()[:16]


def open_target(word: str, home: Path) -> Target:
    """The tracker that `word` names, as in tensorboard=DIR.

    Raises: BadSetting: there is none of that kind, or its library is not installed.
    """
    kind, _, value = word.partition("=")
    if kind not in KINDS or not value:
        forms = ", ".join(f"{name}={known.value}" for name, known in KINDS.items())
        hint = nearest(kind, KINDS) if kind not in KINDS else f": it names no {KINDS[kind].value}."
        raise BadSetting(f"--to {hide_password(word)!r} is not a tracker{hint}", remedy=f"Known: {forms}.")
    return KINDS[kind].make(value, place(word, home))


def _library(name: str, extra: str) -> None:
    try:
        import_module(name)
    except ImportError:
        raise BadSetting(f"{name} is not installed here.", remedy=f"pip install 'farm[{extra}]'") from None
