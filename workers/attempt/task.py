"""The task that an agent gives to the worker processes of its attempt."""

from pydantic import Field

from farm.record.result import Exam, Tokens
from farm.study.planner import Plan
from farm.study.recipe import Frozen
from farm.study.run import Lease, Run
from farm.study.samples import Samples

STOP_FILE = "stop"  # in the attempt's folder: the agent writes it, rank 0 reads it
PULSE_FILE = "pulse"  # beside it: rank 0 touches it while the evaluation, which has no steps, advances


class Place(Frozen):
    """The share of one node in a mixed group. Ranks follow the order of places."""

    node: str = Field(description="Ray's id of it")
    machine: str
    workers: int
    threads: int | None = Field(description="torch threads per worker; None: the node's cores, shared")


class Scoring(Frozen):
    """All that the process needs to know which scores a model."""

    run: Run = Field(description="that trained it")
    exam: Exam
    checkpoint: str = Field(description="its folder on this node")
    weights: str = Field(description="sha256 of them, as the result has it")
    size: int = Field(description="sequences in a batch, as at the end of training: it may change the last bits")
    threads: int = Field(description="of torch, for the same reason")
    cache: str
    pulse: str = Field(description="the file to touch while it advances")
    name: str = Field(description="of this attempt")


class Resuming(Frozen):
    """Where training goes on."""

    checkpoint: str = Field(description="its folder on this node")
    epoch: int = Field(description="of the attempt that made it")


class Task(Frozen):
    """All that a worker process needs to know, as plain data. Holds no secret: others can see it in Ray."""

    run: Run
    study: str
    plan: Plan
    lease: Lease
    folder: str = Field(description="the attempt's folder")
    place: str = Field(description="the same, relative to the storage root")
    cache: str = Field(description="the node's corpus cache")
    resume: Resuming | None = None
    tokens: Tokens = Field(description="that every node must find in its corpus")
    exams: tuple[Exam, ...] = Field((), description="further evaluations at the end, with the tokens of each")
    samples: Samples = Field(Samples(), description="what rank 0 samples meanwhile, as the study says")
    threads: int
    places: tuple[Place, ...] = Field((), description="of a mixed group; folder, cache and threads are the first's")
    is_mirrored: bool = Field(description="checkpoints count once they are in the bucket, and the agent says so")
