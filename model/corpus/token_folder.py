"""A folder of tokens that `farm data prepare` made: its manifest, and whether it is still what that says.

`manifest.json` is written last: a folder that has one is finished. It holds no path of this machine and no time, so
that the same inputs give the same bytes everywhere.
"""

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from farm.errors import BadCorpus, Conflict
from farm.study.recipe import Frozen
from model.corpus.kept import sha256_of
from model.corpus.names import some

MANIFEST = "manifest.json"
SCHEMA: Final = "farm.tokens/1"
WORK = ".preparing"  # what an unfinished folder holds


class Input(Frozen):
    """A file that the tokens were made of."""

    split: str
    name: str
    bytes: int
    sha256: str


class Asked(Frozen):
    """What was asked for, which two calls for the same folder must agree in."""

    source: str
    revision: str | None = None
    tokenizer: str
    text_field: str
    validation: float | int | None = None


class Made(Frozen):
    """A file of tokens: `fingerprint` is the sha256 of its tokens, `sha256` that of the file."""

    file: str
    tokens: int
    documents: int
    bytes: int
    fingerprint: str
    sha256: str


class Vocabulary(Frozen):
    """The tokenizer behind the tokens: `sha256` is that of a tokenizer.json."""

    name: str
    vocab: int
    end_of_text: int
    sha256: str | None = None


class Manifest(Frozen):
    """What a token folder says of itself. `key` is the fingerprint of all that decides about its tokens."""

    schema_: Literal["farm.tokens/1"] = Field(alias="schema")
    key: str
    asked: Asked
    tokenizer: Vocabulary
    inputs: tuple[Input, ...]
    parts: dict[str, Made]

    def to_json(self) -> bytes:
        """The content of the file."""
        return (json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n").encode()


def read(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, None where there is none.

    Raises: BadCorpus: it cannot be read. OSError
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        raise BadCorpus(
            f"{path} is not a manifest that farm data prepare wrote.",
            remedy="Name another folder, or remove that file.",
        ) from None


def find_damage(folder: Path, manifest: Manifest, cache: Path) -> list[str]:
    """The files of a folder that are not, or no longer, what its manifest says."""
    found = []
    for made in manifest.parts.values():
        path = folder / made.file
        if not path.is_file() or path.stat().st_size != made.bytes or sha256_of(path, cache) != made.sha256:
            found.append(made.file)
    return found


def check_free(folder: Path, asked: Asked) -> Manifest | None:
    """See that `folder` may become that of `asked`; returns its manifest if it is one already.

    Raises: Conflict: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is a file.", remedy="Name a folder for the tokens.")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    manifest = read(folder) if there else None
    if there and manifest is None and WORK not in there:
        raise Conflict(
            f"{folder} holds {some(there)}, which farm data prepare did not make.",
            remedy="Name a new or empty folder, or move those files away.",
            page="docs/data.md#making-tokens",
        )
    if manifest and manifest.asked != asked:
        then, now = manifest.asked.model_dump(), asked.model_dump()
        differs = [name for name in then if then[name] != now[name]]
        told = ", ".join(f"{name.replace('_', ' ')} {_told(then[name])}, not {_told(now[name])}" for name in differs)
        raise Conflict(
            f"{folder} holds tokens that were made otherwise: {told}.",
            remedy=f"Name another folder, or remove {folder}.",
            page="docs/data.md#making-tokens",
        )
    return manifest


def _told(value: Any) -> str:
    return "none" if value is None else str(value)
