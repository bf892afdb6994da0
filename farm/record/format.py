"""Writing a record down, and reading it back."""

import json
import tomllib
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from farm.study import toml
from farm.study.run import Run
from farm.study.schema import SCHEMA, check, unstamp

Read = TypeVar("Read", bound=BaseModel)


def as_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def as_record(record: BaseModel) -> bytes:
    """A record as JSON, behind its schema."""
    return as_json({"schema": SCHEMA} | record.model_dump(mode="json"))


def as_recipe(run: Run, study: str | None) -> bytes:
    """A run as TOML, which is for people, too."""
    return toml.text({"schema": SCHEMA, "study": study} | run.model_dump(mode="json")).encode()


def read_json(model: type[Read]) -> Callable[[str], Read]:
    """How to read a record that is a `model` in JSON, behind its schema."""
    return lambda text: model.model_validate_json(unstamp(text))


def read_recipe(text: str) -> tuple[Run, str | None]:
    """A run, and the name of its study."""
    table = tomllib.loads(text)
    check(table.pop("schema", SCHEMA))
    study = table.pop("study", None)
    return Run.model_validate(table), study


def read_epoch(text: str) -> int:
    """The epoch up to which a run was forgotten or cancelled."""
    return int(json.loads(text)["epoch"])


def unless_torn(read: Callable[[str], Read]) -> Callable[[str], Read | None]:
    """How to read a record that does not count while it is cut off."""
    return lambda text: None if is_torn(text) else read(text)


def is_torn(text: str) -> bool:
    """Whether a record is cut off, as a copy or a mirror may leave it: farm writes it whole."""
    try:
        json.loads(text)
    except ValueError:
        return True
    return False
