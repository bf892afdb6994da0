"""Where a record lies in the storage: the names of its files and folders, with '/' between their parts.

<storage>/.farm-storage                  the storage's own name, random, written once
<storage>/.farm-index                    the name of the Redis that is its index: two farms must not share one
<storage>/studies/<name>.json            the study as it was submitted last
<storage>/imported/<name>.json           the losses that were imported into the study
<storage>/references/<name>.json         the reference models that were scored for the study
<storage>/published/<study>/             where the report of a study was sent, a file a repo of the Hugging Face Hub
<storage>/runs/<id>/recipe.toml          the run, written once
<storage>/runs/<id>/result.json          its result, created exclusively, never changed
<storage>/runs/<id>/scores/              what its model is worth, a file an evaluation, created exclusively; beside
                                         each the values of its items, as safetensors
<storage>/runs/<id>/published/           where its model was sent, a file a repo of the Hugging Face Hub
<storage>/runs/<id>/forgotten.json       up to which epoch it was forgotten: no reindex brings those back
<storage>/runs/<id>/cancelled.json       up to which epoch it was cancelled: a result of those does not count
<storage>/runs/<id>/<epoch>/             one attempt: attempt.json ledger.jsonl samples.jsonl log.txt
                                         checkpoints/step-00000040/
<storage>/runs/<id>/<epoch>/lease.json   whose attempt it is, created exclusively before all else
"""

import re
from pathlib import Path

from farm.errors import NotFound

RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,250}")
STEP = re.compile(r"step-\d{8,}")
RUNS, STUDIES, IMPORTED, REFERENCES, PUBLISHED = "runs", "studies", "imported", "references", "published"
LOG = "log.txt"
CANCELLED, FORGOTTEN, LEASE = "cancelled.json", "forgotten.json", "lease.json"
MARKER, INDEX = ".farm-storage", ".farm-index"
CHECKPOINTS = "checkpoints"
MANIFEST, STATE = "manifest.json", "state.json"  # of a checkpoint


def run(run_id: str) -> str:
    """Raises: NotFound: not a run id."""
    if not RUN_ID.fullmatch(run_id):
        raise NotFound(f"{run_id!r} is not a run id.", remedy="See `farm runs`.")
    return f"{RUNS}/{run_id}"


def recipe(run_id: str) -> str:
    return f"{run(run_id)}/recipe.toml"


def result(run_id: str) -> str:
    return f"{run(run_id)}/result.json"


def scores(run_id: str) -> str:
    return f"{run(run_id)}/scores"


def published(run_id: str) -> str:
    return f"{run(run_id)}/{PUBLISHED}"


def cancelled(run_id: str) -> str:
    return f"{run(run_id)}/{CANCELLED}"


def forgotten(run_id: str) -> str:
    return f"{run(run_id)}/{FORGOTTEN}"


def attempt(run_id: str, epoch: int) -> str:
    """The folder that only the holder of this epoch writes in."""
    return f"{run(run_id)}/{epoch}"


def attempt_record(run_id: str, epoch: int) -> str:
    return f"{attempt(run_id, epoch)}/attempt.json"


def lease(run_id: str, epoch: int) -> str:
    return f"{attempt(run_id, epoch)}/{LEASE}"


def checkpoints(run_id: str, epoch: int) -> str:
    return f"{attempt(run_id, epoch)}/{CHECKPOINTS}"


def checkpoint(step: int) -> str:
    """The name of its folder."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """Of a checkpoint, by the name of its folder."""
    return int(name.removeprefix("step-"))


def epoch_of(path: Path) -> int:
    """Of the attempt in whose folder a file or a checkpoint lies."""
    return next(int(folder.name) for folder in path.parents if folder.name.isdecimal())


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders of the checkpoints in a local folder, whole or not, the lowest step first."""
    return sorted(path for path in folder.glob("step-*") if STEP.fullmatch(path.name))


def study(name: str) -> str:
    return f"{STUDIES}/{name}.json"


def imported(study: str) -> str:
    return f"{IMPORTED}/{study}.json"


def references(study: str) -> str:
    return f"{REFERENCES}/{study}.json"


def reported(study: str) -> str:
    return f"{PUBLISHED}/{study}"
