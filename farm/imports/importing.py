"""The outcome of `farm import`: a study file with the arms that they name, and imported losses.

Rows (farm.imports.rows) say losses, run folders (farm.imports.harness) say recipes; together they say both.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from farm.errors import BadImport
from farm.imports import harness, rows
from farm.imports.harness import RunFolder
from farm.record.imported import ImportedRun
from farm.study import toml
from farm.study.arms import BASELINE
from farm.study.differences import differences
from farm.study.faults import full_stop
from farm.study.machine import BUILT_IN, is_name, parts, slug
from farm.study.recipe import NONE, Recipe, Seeds
from farm.study.study import Study

KINDS = (".csv", ".json", ".jsonl")


class Note(NamedTuple):
    """Something that does not come over as it was, and why."""

    source: str
    text: str


class Read(NamedTuple):
    """All that the files say."""

    name: str  # of the study
    study: str  # the text of a study file
    runs: tuple[ImportedRun, ...]
    arms: dict[str, tuple[str, ...]]  # of run folders: an arm whose recipe they say -> the machines that it ran on
    left_out: tuple[Note, ...]
    notes: tuple[Note, ...]


class _ImportedArm(NamedTuple):
    recipe: Recipe
    machines: tuple[str, ...]


def read(paths: Sequence[Path], name: str | None = None) -> Read:
    """Files of rows and run folders as one study, called `name` or after the first of them.

    Raises: BadImport: names file, line and column; a line for each fault.
    """
    folders: list[RunFolder] = []
    runs: list[ImportedRun] = []
    notes: list[Note] = []
    for path in paths:
        if path.is_dir():
            folders += harness.read(path)
        elif path.suffix.lower() in KINDS:
            said = rows.read(path)
            runs += said.runs
            notes += [Note(str(path), f"column {column} is not read") for column in said.unread]
        else:
            kinds = ", ".join(KINDS)
            missing = "is neither a file nor a folder" if not path.exists() else f"is none of {kinds}, nor a folder"
            raise BadImport(f"{path}: {missing}.", remedy="Name a list of losses, or a folder of run folders.")
    name = name or _named_after(paths[0])
    found = _arms(folders)
    if not runs and not found.arms:
        first, *more = [f"{note.source}: {full_stop(note.text)}" for note in found.left_out]
        raise BadImport(first, also=tuple(more))
    runs = [run.model_copy(update={"recipe": found.told.get((run.arm, run.machine))}) for run in runs]
    text = _text(name, found.arms, runs, [str(path) for path in paths])
    Study.parse(text, "the study file")  # a name that is too long, or a stranger thing
    recipes = {name: arm.machines for name, arm in found.arms.items()}
    return Read(name, text, tuple(runs), recipes, tuple(found.left_out), (*notes, *found.notes))


def _named_after(path: Path) -> str:
    stem = path.resolve().stem if path.is_file() else path.resolve().name
    name = slug(stem)
    if not is_name(name):
        raise BadImport(f"{path}: this is not a valid name for a study.", remedy="Name one: --study NAME")
    return name


class _Folders(NamedTuple):
    """The contents of run folders: the arms of a study file; (arm, machine) of a folder -> its recipe; what is to be
    told.
    """

    arms: dict[str, _ImportedArm]
    told: dict[tuple[str, str], Recipe]
    left_out: list[Note]
    notes: list[Note]


def _arms(folders: Iterable[RunFolder]) -> _Folders:
    """The arms that run folders name.

    The recipe of the arm called `baseline` is the baseline's, and an arm that has the same is the baseline once more.
    Where there is none of that name, the farm's own defaults are the baseline, which are those of the published series.
    """
    known = [folder for folder in folders if folder.recipe is not None]
    left_out = [Note(str(folder.path), folder.why) for folder in folders if folder.why]
    notes = [Note(str(folder.path), text) for folder in folders for text in folder.notes]
    baseline = next((folder.recipe for folder in known if folder.arm == BASELINE), None)
    if known and baseline is None:
        notes.append(
            Note(
                str(known[0].path.parent), "no run folder is called MACHINE-baseline: farm's defaults are the baseline"
            )
        )
    found: dict[str, _ImportedArm] = {BASELINE: _ImportedArm(baseline or Recipe(), ())} if known else {}
    told: dict[tuple[str, str], Recipe] = {}
    for folder in known:
        recipe, arm = folder.recipe, folder.arm
        assert recipe is not None
        if recipe == found[BASELINE].recipe and arm != BASELINE:
            notes.append(
                Note(str(folder.path), "has the baseline's recipe, so it counts as another run of the baseline")
            )
            arm = BASELINE
        if arm in found and found[arm].recipe != recipe:
            arm = f"{arm}-{folder.machine}"
            notes.append(Note(str(folder.path), f"another run folder has another {folder.arm}: this one is arm {arm}"))
        if found.setdefault(arm, _ImportedArm(recipe, ())).recipe != recipe:
            left_out.append(Note(str(folder.path), f"another run folder has another {arm}"))
            continue
        found[arm] = _ImportedArm(recipe, tuple(dict.fromkeys([*found[arm].machines, folder.machine])))
        told[folder.arm, folder.machine] = recipe
    return _Folders(found, told, left_out, notes)


def _text(name: str, arms: Mapping[str, _ImportedArm], runs: Sequence[ImportedRun], sources: Sequence[str]) -> str:
    """A study file that trains what was imported: the recipes where they are known, the names of arms where not."""
    machines = _machines(arms, runs)
    seeds = list(dict.fromkeys(run.seeds for run in runs if run.seeds))
    return "\n".join(
        [
            f"# Made by: farm import {' '.join(sources)}",
            "# Submitted, it trains the imported arms here; the imported losses stay apart from those of its runs.",
            "# A value that is not written here has farm's default (docs/study.md).",
            "",
            "[study]",
            f"name = {json.dumps(name)}",
            f"machines = {json.dumps(machines)}",
            *_seeds(seeds, any(run.seeds is None for run in runs)),
            "",
            *_baseline(arms),
            *_interventions(arms, machines),
            *_unknown(arms, runs),
        ]
    )


def _machines(arms: Mapping[str, _ImportedArm], runs: Sequence[ImportedRun]) -> list[str]:
    """Those of the baseline, or else all."""
    baseline = arms[BASELINE].machines if arms else ()
    every = [machine for arm in arms.values() for machine in arm.machines]
    return list(dict.fromkeys(baseline or every or [run.machine for run in runs]))


def _seeds(known: Sequence[Seeds], is_partial: bool) -> Iterator[str]:
    if known:
        yield f"seeds = {json.dumps([[seeds.init, seeds.train] for seeds in known])}"
    if is_partial or not known:
        yield "# Not all imported losses come with both seeds; where one is not known, none is written here."


def _baseline(arms: Mapping[str, _ImportedArm]) -> Iterator[str]:
    if not arms:
        yield "# The losses say nothing of the recipes: write below what the baseline and each arm change."
        yield "[baseline]"
    else:
        yield "[baseline]"
        yield from _lines(Recipe(), arms[BASELINE].recipe)
    yield ""


def _interventions(arms: Mapping[str, _ImportedArm], machines: Sequence[str]) -> Iterator[str]:
    for name, arm in arms.items():
        if name != BASELINE:
            yield f"[interventions.{toml.key(name)}]"
            if list(arm.machines) != list(machines):
                yield f"machines = {json.dumps(arm.machines)}"
            yield from _lines(arms[BASELINE].recipe, arm.recipe)
            yield ""


def _unknown(arms: Mapping[str, _ImportedArm], runs: Sequence[ImportedRun]) -> Iterator[str]:
    """The arms known by their losses only."""
    for name in dict.fromkeys(run.arm for run in runs):
        if name not in arms and name != BASELINE:
            yield f"# [interventions.{toml.key(name)}]"
            yield "# what it changes is not imported"
            yield ""


def _lines(one: Recipe, other: Recipe) -> Iterator[str]:
    """The keys of a study file that make `other` of `one`."""
    for path, _, value in differences(one.model_dump(mode="json"), other.model_dump(mode="json")):
        yield f"{path} = {json.dumps(NONE if value is None else value)}"


def unknown_machines(read: Read, known: Mapping[str, object]) -> list[str]:
    """The machine classes that the study file names and that nothing describes."""
    study = Study.parse(read.study)
    named = {part for arm in study.arms() for machine in arm.machines for part in parts(machine)}
    return sorted(named - known.keys() - BUILT_IN.keys())
