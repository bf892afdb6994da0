"""Run folders of the public harness whose series this farm's baseline is from: their recipes, in the farm's words.

`runs/<machine>-<arm>/` holds `model.json` and `train.json`, and after training `checkpoints/*/meta.json`; no test loss.
What a recipe cannot say is listed, and a run is left out, and listed, if that may change its loss.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from farm.errors import BadImport
from farm.study.faults import explain
from farm.study.recipe import Recipe

NAME_OF_A_RUN = re.compile(r"(?P<machine>(?P<gpus>[1-9]\d{0,3})x[a-z][a-z0-9.]*)(?:-(?P<arm>[a-z0-9][a-z0-9._-]*))?")
# Their key -> ours.
MODEL = {
    "vocab_size": "vocab",
    "context_length": "context",
    "emb_dim": "width",
    "n_heads": "heads",
    "n_layers": "layers",
    "drop_rate": "dropout",
    "qkv_bias": "qkv_bias",
    "tie_weights": "tie_weights",
}
NEEDED_OF_MODEL = tuple(MODEL)[:-1]
NEEDED_OF_TRAIN = ("microbatch_size", "dataset", "min_train_tokens")
# The harness's own defaults, where train.json does not say.
DEFAULTS: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "start_train_token": 0,
    "clipping_max_norm": None,
    "weight_decay": 0.1,
    "learning_rate": 4e-4,
    "schedule_learning_rate": False,
    "warmup_period_percent": 0,
    "use_amp": True,
    "random_seed": 42,  # of the weights; the dropout that follows goes on with the same stream of numbers
}
FLOOR = 0.1  # of its cosine
# Keys that are read and change no loss: how often it saved and validated, and on what.
HARMLESS = ("checkpoint_interval", "validation_interval", "validation_batches", "start_val_token")


class RunFolder(NamedTuple):
    """One run folder, as far as it can be said here."""

    path: Path
    machine: str
    arm: str
    recipe: Recipe | None  # None: see `why`
    init_seed: int | None
    why: str | None = None  # why it is left out
    notes: tuple[str, ...] = ()  # what else does not go with it


def read(path: Path) -> list[RunFolder]:
    """The run folders in `path`: a checkout, its `runs`, or one of them.

    Raises: BadImport: there is none.
    """
    places = [path] if (path / "model.json").exists() else []
    places = places or [file.parent for below in ("runs/*", "*") for file in sorted(path.glob(f"{below}/train.json"))]
    if not places:
        raise BadImport(
            f"{path}: holds no run folder.",
            remedy="Name a folder of runs/NAME/ with model.json and train.json in each.",
        )
    return [_folder(place) for place in places]


def _folder(path: Path) -> RunFolder:
    named = NAME_OF_A_RUN.fullmatch(path.resolve().name)
    if named is None:
        why = "its name does not begin with a machine, as in 8xa100m40-qkv-bias"
        return RunFolder(path, "", path.name, None, None, why)
    machine, gpus, arm = named["machine"], int(named["gpus"]), named["arm"]
    left = RunFolder(path, machine, arm or path.name, None, None)
    if arm is None:
        return left._replace(why=f"its name has no arm after the machine {machine}")
    try:
        model, train = _read(path / "model.json", NEEDED_OF_MODEL), _read(path / "train.json", NEEDED_OF_TRAIN)
        recipe, notes = _recipe(model, DEFAULTS | train, gpus)
        steps = _progress(path, recipe)
        return left._replace(recipe=recipe, init_seed=_seed(train), notes=(*notes, *steps))
    except _CannotSay as error:
        return left._replace(why=str(error))


class _CannotSay(Exception):
    """A recipe cannot say that."""


def _read(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _CannotSay(f"{path.name}: {error.strerror}") from None
    except ValueError as error:
        raise _CannotSay(f"{path.name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise _CannotSay(f"{path.name} is not an object")
    if missing := [key for key in needed if key not in found]:
        raise _CannotSay(f"{path.name} lacks {', '.join(missing)}")
    return found


def _recipe(model: Mapping[str, Any], train: Mapping[str, Any], gpus: int) -> tuple[Recipe, list[str]]:
    """The recipe, and what of the files it does not say but that changes no loss."""
    if cannot := [*_strange(model, train), *_other_data(train)]:
        raise _CannotSay("; ".join(cannot))
    whole = [train[key] for key in ("microbatch_size", "gradient_accumulation_steps")]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in whole):
        raise _CannotSay("train.json: microbatch_size and gradient_accumulation_steps must be whole numbers")
    patch = {
        "model": {ours: model[theirs] for theirs, ours in MODEL.items() if theirs in model},
        "train": {
            "batch": whole[0] * whole[1] * gpus,
            "tokens": train["min_train_tokens"],
            "learning_rate": train["learning_rate"],
            "weight_decay": train["weight_decay"],
            "clip_grad_norm": train["clipping_max_norm"],
            "precision": "fp16" if train["use_amp"] else "fp32",
            "schedule": _schedule(train),
        },
        "data": {"source": f"hf:{train['dataset']}"},
    }
    try:
        recipe = Recipe().with_patch(patch)
    except ValidationError as error:
        raise _CannotSay("; ".join(fault.line for fault in explain(error, Recipe))) from None
    notes = [f"{', '.join(kept)}: not carried over, changes no loss"] if (kept := _harmless(train)) else []
    if not train["use_amp"]:
        notes.append('use_amp = false is precision = "fp32" here; where its code allowed TF32, write "tf32"')
    return recipe, notes


def _strange(model: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    if "moe" in model:
        yield "model.json: moe: a mixture-of-experts layer cannot be expressed"
    for file, table, known in (
        ("model.json", model, {*MODEL, "moe"}),
        ("train.json", train, {*NEEDED_OF_TRAIN, *DEFAULTS, *HARMLESS}),
    ):
        yield from (f"{file}: {key}: cannot be expressed" for key in table if key not in known)


def _other_data(train: Mapping[str, Any]) -> Iterator[str]:
    if train["start_train_token"] != 0:
        given = _show(train["start_train_token"])
        yield f"train.json: start_train_token: training here begins at the first token of the corpus, not at {given}"
    if train["min_train_tokens"] == -1:
        yield "train.json: min_train_tokens: -1, the whole corpus, cannot be expressed; write how many tokens that is"


def _harmless(train: Mapping[str, Any]) -> list[str]:
    return [key for key in HARMLESS if key in train]


def _schedule(train: Mapping[str, Any]) -> dict[str, Any]:
    if not train["schedule_learning_rate"]:
        return {"kind": "constant"}
    percent = train["warmup_period_percent"]
    if isinstance(percent, bool) or not isinstance(percent, int | float):
        raise _CannotSay(f"train.json: warmup_period_percent: {_show(percent)} is not a number")
    return {"kind": "warmup-cosine", "warmup": round(percent / 100, 12), "floor": FLOOR}


def _seed(train: Mapping[str, Any]) -> int | None:
    seed = train.get("random_seed", DEFAULTS["random_seed"])
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _progress(path: Path, recipe: Recipe) -> list[str]:
    """How far its newest checkpoint is, where one is on record and not at the end."""
    done = []
    for file in path.glob("checkpoints/*/meta.json"):
        try:
            done.append(int(json.loads(file.read_text(encoding="utf-8"))["global_step"]) + 1)
        except (OSError, ValueError, TypeError, KeyError):
            return [f"{file.relative_to(path)} cannot be read"]
    if done and max(done) < recipe.steps:
        return [f"its newest checkpoint is at step {max(done):,} of {recipe.steps:,}: it has not finished"]
    return []


def _show(value: Any) -> str:
    return json.dumps(value)[:80]
