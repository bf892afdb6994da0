"""A checkpoint is a folder that is there in full or not at all.

    step-00000040/  manifest.json  state.json  weights.safetensors  optimiser.safetensors

It is written under another name, flushed to the disk, and renamed. Its manifest holds the sha256 of every file, and
none is used before its digest was checked, because a flipped bit loads without a word. No pickle; and no torch, so that
the agent can choose a checkpoint.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file

from farm.errors import CheckpointInvalid
from farm.files import flush, flush_folder, place, plain, storage_errors
from farm.record import layout
from farm.study.planner import Plan
from farm.study.run import Run

FORMAT = "farm.checkpoint/1"
FILES = (layout.STATE, "weights.safetensors", "optimiser.safetensors")
KEPT = 2
DTYPES = {"float32": "F32", "float64": "F64"}


class Identity(NamedTuple):
    """Whose checkpoint it is."""

    run: str
    world: int
    reduction: str

    @classmethod
    def of(cls, run: Run, plan: Plan) -> "Identity":
        return cls(run.digest, plan.world, run.recipe.train.reduction)


class Contents(NamedTuple):
    """The state that a run needs to go on: tensors by name, and `progress`, which is JSON."""

    step: int
    weights: Mapping[str, np.ndarray]
    moments: Mapping[str, np.ndarray]
    progress: dict[str, Any]


class Saved(NamedTuple):
    """A checkpoint that is on the disk. `sha256` is its manifest's."""

    step: int
    path: Path
    sha256: str


def folder_of(root: Path, step: int) -> Path:
    return root / layout.checkpoint(step)


def write(root: Path, identity: Identity, contents: Contents) -> Saved:
    """Save below `root` and return once it would survive a power cut. At any moment the older ones stay valid.

    Raises: StorageFull: nothing was changed.
    """
    folder = folder_of(root, contents.step)
    draft = root / f"tmp-{folder.name}"
    try:
        with storage_errors(draft):
            root.mkdir(exist_ok=True)  # no parents: a storage that is gone must not be created again
            _forget([draft])
            draft.mkdir()
            sha256 = _write_files(draft, identity, contents)
            _forget([folder])  # the same step of the same run, from before a restart
            place(draft, folder)
    except BaseException:
        _forget([draft])
        raise
    _forget(layout.checkpoints_in(root)[:-KEPT])
    return Saved(contents.step, folder, sha256)


def read(folder: Path, run: Run, plan: Plan) -> Contents:
    """Read what `write` saved, to the bit.

    Raises: CheckpointInvalid: a file is missing or damaged, or it belongs to another run, or the fast reduction would
    go on with another number of workers, which would not give the same bits.
    """
    manifest = verify(folder)
    _check_owner(folder, manifest, Identity.of(run, plan))
    return Contents(
        step=manifest["step"],
        weights=load_file(folder / "weights.safetensors"),
        moments=load_file(folder / "optimiser.safetensors"),
        progress=json.loads((folder / layout.STATE).read_text(encoding="utf-8")),
    )


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after checking every file against it.

    Raises: CheckpointInvalid
    """
    try:
        with plain(folder / layout.MANIFEST) as file:
            manifest = json.loads(file.read())
        if manifest["format"] != FORMAT or set(manifest["files"]) != set(FILES):
            raise CheckpointInvalid(f"{folder}: not a {FORMAT} checkpoint.")
        if not isinstance(manifest["step"], int):
            raise CheckpointInvalid(f"{folder}: its step is {manifest['step']!r}.")
        Identity(manifest["run"], manifest["world"], manifest["reduction"])
        for name, expected in manifest["files"].items():
            with plain(folder / name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected["sha256"]:
                raise CheckpointInvalid(f"{folder / name}: sha256 {found[:12]}, not {expected['sha256'][:12]}.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{folder}: {type(error).__name__}: {error}.") from error
    return manifest


def newest_valid(roots: Iterable[Path], run: Run, plan: Plan) -> Saved | None:
    """The checkpoint of the highest step below `roots` that `read` would take; damaged ones are passed over."""
    folders = (folder for root in roots for folder in layout.checkpoints_in(root))
    return first_valid(sorted(folders, key=lambda folder: folder.name, reverse=True), run, plan)


def first_valid(folders: Iterable[Path], run: Run, plan: Plan) -> Saved | None:
    """The first checkpoint of `folders` that `read` would take; no further one is asked for."""
    for folder in folders:
        with suppress(CheckpointInvalid):
            return valid(folder, run, plan)
    return None


def valid(folder: Path, run: Run, plan: Plan) -> Saved:
    """The checkpoint in `folder`, which `read` would take.

    Raises: CheckpointInvalid: as `read`
    """
    manifest = verify(folder)
    _check_owner(folder, manifest, Identity.of(run, plan))
    return Saved(manifest["step"], folder, hashlib.sha256((folder / layout.MANIFEST).read_bytes()).hexdigest())


def _check_owner(folder: Path, manifest: dict[str, Any], wanted: Identity) -> None:
    found = Identity(manifest["run"], manifest["world"], manifest["reduction"])
    if found.run != wanted.run:
        raise CheckpointInvalid(f"{folder} belongs to run {found.run[:8]}, not to {wanted.run[:8]}.")
    if found.world != wanted.world and wanted.reduction == "fast":
        raise CheckpointInvalid(
            f"{folder} was saved by {found.world} workers and cannot go on with {wanted.world} to the same bits.",
            remedy='Use that many workers again, or train.reduction = "canonical".',
        )


def _forget(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path, identity: Identity, contents: Contents) -> str:
    """Every file and then the manifest; returns the manifest's sha256."""
    pieces = (_json(contents.progress), _safetensors(contents.weights), _safetensors(contents.moments))
    files = {name: _put(folder / name, parts) for name, parts in zip(FILES, pieces, strict=True)}
    manifest = {"format": FORMAT, "step": contents.step, **identity._asdict(), "files": files}
    written = _put(folder / layout.MANIFEST, _json(manifest))
    flush_folder(folder)
    return written["sha256"]


def _put(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file, hashing it on the way, and flush it to the disk."""
    sha, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
            sha.update(piece)
            size += len(piece)
        flush(file)
    return {"bytes": size, "sha256": sha.hexdigest()}


def _json(value: dict[str, Any]) -> Iterator[bytes]:
    yield json.dumps(value, indent=1, allow_nan=False).encode()


def _safetensors(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece: the library would need a second copy in memory to hash it on the way."""
    header, offset = {}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for array in arrays.values():
        yield array.reshape(-1).view(np.uint8).data
