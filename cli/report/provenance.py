"""Where a report's numbers come from: recipes, machines, software, fingerprints, attempts, and how to do it again."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from cli import render
from cli.report.material import Material
from cli.report.parts import Part, code, folded, heading, table, text
from farm.queue.values import Status
from farm.study.arms import BASELINE
from farm.study.differences import differences
from farm.study.recipe import Recipe

RUNS = ("run", "arm", "machine", "seeds", "state", "score", "plan", "hardware")
SOFTWARE = ("run", "farm", "commit", "Python", "torch", "Ray", "driver", "CUDA", "kernels", "compiled")
PRINTS = ("run", "first weights", "tokens trained on", "tokens tested on", "last weights", "sources of farm")
ATTEMPTS = ("run", "attempt", "how it ended", "on", "began", "took", "from step", "why")


def parts(material: Material) -> Iterator[Part]:
    yield from _recipes(material)
    yield heading("The run" if material.run else "Runs")
    yield from _runs(material)
    yield heading("Attempts")
    yield from _attempts(material)
    yield from _again(material)


def _recipes(material: Material) -> Iterator[Part]:
    if not material.study:
        return
    yield heading("What the arms change")
    arms = {arm.name: arm.recipe for arm in material.study.arms()}
    base = arms.get(BASELINE, Recipe())
    if material.run:
        arms = {material.run.run.arm: material.run.run.recipe}
    rows = [(name, ", ".join(_changes(recipe, base)) or "nothing") for name, recipe in arms.items()]
    yield table("Recipes, as differences to the baseline", ("arm", "differs in"), rows)
    rows = [(path, str(now)) for path, _, now in differences({}, _flat(base.changes()))]
    if rows:
        baseline = table("The baseline, as differences to farm's defaults", ("setting", "value"), rows)
        yield folded("What the baseline sets itself; all else has farm's defaults", [baseline])


def _flat(tree: dict, path: str = "") -> dict:
    found: dict = {}
    for key, value in tree.items():
        found |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def changes(
    base: Recipe, recipe: Recipe, tables: Callable[[Recipe], dict[str, Any]] = Recipe.changes
) -> Iterator[tuple[str, Any, Any]]:
    """The settings in which the `tables` of `recipe` differ from those of `base`, and the values of both."""
    for path, was, now in differences(tables(base), tables(recipe)):
        yield path, base.setting(path) if was is None else was, recipe.setting(path) if now is None else now


def _changes(recipe: Recipe, base: Recipe) -> Iterator[str]:
    return (f"{path}: {was} -> {now}" for path, was, now in changes(base, recipe))


def _runs(material: Material) -> Iterator[Part]:
    scores = {result.run_id: result.test_loss for result in material.results}
    yield table("Every run", RUNS, [_run(status, scores.get(status.run.id)) for status in material.statuses])
    done = [(status.run.id, status.result) for status in material.statuses if status.result]
    if not done:
        return
    software = [
        (
            run_id,
            one.provenance.farm,
            f"{(one.provenance.commit or render.UNKNOWN)[:12]}{' (changed)' if one.provenance.dirty else ''}",
            one.provenance.python,
            one.provenance.torch,
            render.text(one.provenance.ray),
            render.text(one.hardware.driver),
            render.text(one.hardware.cuda),
            ", then ".join(one.kernels),
            ", then ".join("yes" if on else "no" for on in one.compiled),
        )
        for run_id, one in done
    ]
    yield folded("Software of every run", [table("Software", SOFTWARE, software)])
    prints = [
        (
            run_id,
            one.fingerprints.initial,
            one.fingerprints.tokens.trained,
            one.fingerprints.tokens.tested,
            one.fingerprints.final,
            one.provenance.code,
        )
        for run_id, one in done
    ]
    yield folded("Fingerprints of every run (sha256)", [table("Fingerprints", PRINTS, prints)])


def _run(status: Status, score: float | None) -> list[str]:
    run, result = status.run, status.result
    seeds = f"{run.seeds}{f' rerun {run.rerun}' if run.rerun else ''}"
    told = [run.id, run.arm, run.machine, seeds, str(status.state), render.loss(score)]
    if result is None:
        return [*told, render.UNKNOWN, render.UNKNOWN]
    hardware = result.hardware
    what = hardware.cpu if not hardware.accelerators else f"{hardware.accelerators} x {hardware.accelerator}"
    return [*told, str(result.plan), f"{what} on {hardware.host}"]


def _attempts(material: Material) -> Iterator[Part]:
    rows = [
        (
            run_id,
            str(attempt.epoch),
            attempt.outcome,
            str(attempt.hardware.get("host", attempt.worker)) or render.UNKNOWN,
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(attempt.started)),
            render.duration(attempt.ended - attempt.started) if attempt.ended else render.UNKNOWN,
            f"{attempt.resumed_from.step:,}" if attempt.resumed_from else "0",
            f"{attempt.cause}: {attempt.message}" if attempt.cause else "",
        )
        for run_id, found in material.attempts.items()
        for attempt in found
    ]
    if rows:
        yield table("Every attempt and how it ended (times in UTC)", ATTEMPTS, rows)
    else:
        yield text("No attempt is on record where this page was made.")


def _again(material: Material) -> Iterator[Part]:
    if not material.file:
        return
    yield heading("How to reproduce it")
    versions = sorted({f"farm {r.provenance.farm}, torch {r.provenance.torch}" for r in material.results})
    with_ = f" These results were made with {' and '.join(versions)}." if versions else ""
    also = f" It trains the whole study; the run is {material.run.run.id}." if material.run else ""
    yield text(f"Save this as {material.name}.toml and run: farm submit {material.name}.toml.{also}{with_}")
    yield text("The fingerprints above tell whether a repetition began from the same weights and read the same tokens.")
    yield code(material.file, f"The study file {material.name}.toml")
