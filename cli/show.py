"""`farm show RUN|STUDY`"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from cli import render
from cli.access import is_study, queue
from cli.options import Json, RunOrStudy
from cli.progress import last_validation
from cli.render import Column, Sheet, ago, duration, loss, say, sparkline
from cli.runs import explain, outlook
from cli.storage import within_sight
from cli.unread import Unread, unread
from farm.errors import Conflict, FarmError
from farm.queue.queue import Queue
from farm.queue.values import Event, Point, Status
from farm.record.imported import PREFIX, ImportedRun
from farm.record.publication import Publication, PublishedReport
from farm.record.sample import Sample, thin
from farm.record.score import Score
from farm.record.store import Store
from farm.site import serving
from farm.site.settings import Settings
from farm.study.run import Attempt, State

EVENTS = 8  # shown; --json has them all
SAMPLES = 5  # of one prompt, likewise
COLUMNS = (Column("what", ""), Column("value", "", render.text, is_prose=True))


def show(run: RunOrStudy, as_json: Json = False) -> None:
    """Show everything about one run, or a study in short: its runs, arms and machines.

    Both say where `farm publish` sent the run's model, or the study's report and models: repo, commit, and when.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        if is_study(open_queue, run):
            picture = open_queue.listing.picture(run)
            _show_study(settings, run, picture.statuses, unread(picture, run), as_json)
            return
        if elsewhere := _elsewhere(open_queue, run):
            _show_imported(*elsewhere, as_json)
            return
        status = open_queue.listing.status(run)
        scores = open_queue.evaluations.scores(status.run.id, "run").get(status.run.id, ())
        curve, events = open_queue.listing.curve(status.run.id), open_queue.listing.events(status.run.id)
        waits = status.state is State.QUEUED  # why it does depends on all others that do
        why = explain(status, outlook(settings, open_queue).why if waits else {})
    attempts, samples = kept_attempts(settings, status.run.id), kept_samples(settings, status)
    link, sent = dashboard_link(settings, status), published(settings, [status.run.id])
    if as_json:
        place = Store(settings.storage).place(status.run.id)
        told: dict[str, Any] = {"id": status.run.id, "imported": False, "why": why, "dashboard": link, "folder": place}
        told |= {"scores": [score.model_dump(mode="json") for score in scores]}
        told |= {"samples": [sample.model_dump(mode="json") for sample in samples]}
        told |= {"published": None if sent is None else [_fields(one) for one in sent]}
        told |= {"attempts_kept": attempts, "curve": [point.model_dump(mode="json") for point in curve]}
        told |= {"validation": _newest_validation(status, curve)}
        told |= {"events": [event.model_dump(mode="json") for event in events]}
        render.emit_json("farm.show/1", status.model_dump(mode="json") | told)
        return
    step = max(status.step, curve[-1].step) if curve else status.step  # the curve is ahead of the heartbeat
    lines = [
        *_life(status, step, why, link),
        *_science(status),
        *_worth(scores),
        *_said(samples),
        *_past(status, attempts),
        *_history(events),
        *_records(settings, status, curve),
        *_sent(sent),
    ]
    render.emit(Sheet("farm.show/1", COLUMNS, [{"what": what, "value": value} for what, value in lines]))


def _show_study(settings: Settings, name: str, statuses: Sequence[Status], passed: Unread, as_json: bool) -> None:
    """Raises: typer.Exit: some of its runs could not be read."""
    for line in passed.lines:
        say(line)
    runs = [status.run for status in statuses]
    sent = published(settings, [run.id for run in runs], name)
    states = Counter(str(status.state) for status in statuses)
    arms, machines = (list(dict.fromkeys(words)) for words in ((it.arm for it in runs), (it.machine for it in runs)))
    seeds = list(dict.fromkeys(f"{run.seeds.init}.{run.seeds.train}" for run in runs))
    submitted = min((status.submitted for status in statuses), default=None)
    if as_json:
        told: dict[str, Any] = {"study": name, "runs": len(runs), "states": states, "arms": arms, "machines": machines}
        told |= {"seeds": seeds, "submitted": submitted}
        told |= {"published": None if sent is None else [_fields(one) for one in sent]}
        render.emit_json("farm.show-study/1", told, unreadable=passed.every)
        passed.end()
        return
    lines = [("study", name), ("runs", f"{len(runs)}: " + ", ".join(f"{states[one]} {one}" for one in states))]
    lines += [("arms", ", ".join(arms)), ("machines", ", ".join(machines)), ("seeds", ", ".join(seeds))]
    lines += [] if submitted is None else [("submitted", f"{duration(ago(submitted))} ago")]
    lines += _sent(sent)
    rows = [{"what": what, "value": value} for what, value in lines]
    render.emit(Sheet("farm.show-study/1", COLUMNS, rows))
    passed.end()


def published(
    settings: Settings, run_ids: Sequence[str], study: str | None = None
) -> list[Publication | PublishedReport] | None:
    """Where the report of `study` and the models of these runs were published, the earliest first; None where the
    storage cannot be read from here. Says what of it cannot be read.
    """
    store = within_sight(settings)
    if store is None:
        return None
    try:
        reports, unread = store.publications.of_study(study) if study else ([], [])
        found: list[Publication | PublishedReport] = [*reports]
        for run_id in run_ids:
            models, bad = store.publications.of(run_id)
            found, unread = [*found, *models], [*unread, *bad]
    except (FarmError, OSError):
        return None
    for line in unread:
        say(f"warning: {line}")
    return sorted(found, key=lambda one: one.when)


def _sent(sent: Sequence[Publication | PublishedReport] | None) -> Iterator[tuple[str, str]]:
    for one in sent or ():
        what = f"report of {one.study}" if isinstance(one, PublishedReport) else one.run_id
        yield "published", f"{one.url}: {what}, commit {one.commit[:12]}, {duration(ago(one.when))} ago"


def _fields(one: Publication | PublishedReport) -> dict[str, Any]:
    return one.model_dump(mode="json") | {"url": one.url}


def _elsewhere(queue: Queue, start: str) -> tuple[str, ImportedRun] | None:
    """The imported run whose id begins so, and its study. Raises: Conflict: several do."""
    if not start.startswith(PREFIX):  # of the ids of imported runs
        return None
    known = [(study, run) for study, one in queue.studies.all_imported().items() for run in one.runs]
    found = [one for one in known if one[1].id.startswith(start)]
    if len({run.id for _, run in found}) > 1:
        some = ", ".join(run.id for _, run in found[:3])
        raise Conflict(f"{len(found)} imported runs begin with {start!r}: {some}.", remedy="Write more of the id.")
    return found[0] if found else None


def _show_imported(study: str, run: ImportedRun, as_json: bool) -> None:
    if as_json:
        told = {"id": run.id, "study": study, "imported": True, "seeds": run.seeds_told}
        render.emit_json("farm.show/1", run.model_dump(mode="json") | told)
        return
    lines = [("run", run.id), ("study", study), ("state", "imported: trained elsewhere, and not checked here")]
    lines += [("arm", run.arm), ("machine", run.machine), ("seeds", run.seeds_told), ("rerun", str(run.rerun))]
    lines += [("test loss", f"{run.test_loss:.6f}, as its source says"), ("source", run.source)]
    for name in ("hours", "usd", "tokens_per_second", "tokens"):
        if (value := getattr(run, name)) is not None:
            lines.append((name.replace("_", " "), f"{value:,}"))
    lines.append(("recipe", "not imported" if run.recipe is None else run.recipe.digest[:12]))
    lines += [] if run.recipe is None else [(f"  {path}", value) for path, value in _flat(run.recipe.changes())]
    render.emit(Sheet("farm.show/1", COLUMNS, [{"what": what, "value": value} for what, value in lines]))


def _newest_validation(status: Status, curve: list[Point]) -> dict[str, Any] | None:
    """The newest validation, of the result or of a run that has none yet."""
    if status.result and status.result.validation:
        last = status.result.validation[-1]
        return {"step": last.step, "loss": last.loss}
    point = last_validation(curve)
    return {"step": point.step, "loss": point.validation_loss} if point else None


def kept_attempts(settings: Settings, run_id: str) -> list[Attempt]:
    """The attempts that the run directory holds; none where the storage cannot be read from here."""
    with suppress(FarmError, OSError):
        return list(Store(settings.storage).runs.attempts(run_id))
    return []


def kept_samples(settings: Settings, status: Status) -> list[Sample]:
    """The samples of a run's training; none where the storage cannot be read from here."""
    with suppress(FarmError, OSError):
        return Store(settings.storage).samples.of((status.result and status.result.adopted) or status.run.id)
    return []


def dashboard_link(settings: Settings, status: Status) -> str | None:
    """The page of the run's Ray job, while the farm is up."""
    up = serving.facts(settings)
    return f"{up.dashboard.rstrip('/')}/#/jobs/{quote(status.job, safe='')}" if up and status.job else None


def _life(status: Status, step: int, why: str | None, link: str | None) -> Iterator[tuple[str, str]]:
    run = status.run
    yield "run", run.id
    yield "study", status.study
    yield "state", f"{status.state}{', being cancelled' if status.cancelling else ''}"
    if why:
        yield "why", why
    yield "step", f"{step:,} of {run.recipe.steps:,}"
    yield "submitted", f"{duration(ago(status.submitted))} ago"
    if status.started is not None:
        yield "started", f"{duration(ago(status.started))} ago"
    if status.ended is not None:
        yield "ended", f"{duration(ago(status.ended))} ago"
    yield "attempts", _attempts(status)
    for what, value in (("worker", status.worker), ("node", status.node), ("job", status.job), ("dashboard", link)):
        if value:
            yield what, value


def _attempts(status: Status) -> str:
    """How many began and failed, over all of the run's life; and how many of these count since it was last retried."""
    failed = len(status.causes)
    since = f" ({status.attempts} since the last retry)" if status.attempts < failed else ""
    return f"{status.epoch} begun, {failed} failed{since}"


def _science(status: Status) -> Iterator[tuple[str, str]]:
    run, result = status.run, status.result
    yield "arm", run.arm
    yield "machine", run.machine
    yield "seeds", f"init {run.seeds.init}, train {run.seeds.train}" + (f", rerun {run.rerun}" if run.rerun else "")
    recipe = run.recipe
    yield "recipe", f"{recipe.digest[:12]}: {recipe.model.parameters:,} parameters, {recipe.train.tokens:,} tokens"
    for path, value in _flat(recipe.changes()):
        yield f"  {path}", value
    if result is None:
        return
    if result.adopted:
        yield "result of", f"{result.adopted}: the same recipe, seeds and machine, so nothing was trained here"
    yield "test loss", f"{result.test_loss:.6f} ({result.evaluation}, {result.test_tokens:,} tokens)"
    if result.validation:
        last, share = result.validation[-1], result.validation_seconds / result.train_seconds
        took = f"{len(result.validation)} points; {duration(result.validation_seconds)}, {share:.1%} of the training"
        yield "validation", f"loss {loss(last.loss)} at step {last.step:,} ({took})"
    yield "train loss", f"{loss(result.train_loss)}; lowest {loss(result.best_loss)} at step {result.best_step:,}"
    yield "plan", f"{result.plan} (world x microbatch x accumulation)"
    yield "took", f"{duration(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s" + _cost(result.usd)
    if reached := result.utilisation:
        peaks, teras = reached.peaks, f"{reached.peaks.flops_per_second / 1e12:,.0f} TFLOP/s"
        moved = f"at least {reached.bandwidth:.0%} of {peaks.bytes_per_second / 1e9:,.0f} GB/s of memory"
        yield "reached", f"{reached.flops:.0%} of {teras} of matrix products (MFU), {moved}; both measured on this GPU"
    if result.kwh is not None:
        yield "energy", f"{result.kwh:.4g} kWh over all attempts ({_METERS.get(result.energy_meter or '', 'a meter')})"
    hardware, software = result.hardware, result.provenance
    accelerators = f"{hardware.accelerators} x {hardware.accelerator}"
    yield "hardware", f"{accelerators}, {hardware.cpu}, {hardware.cores} cores, on {hardware.host}"
    commit = f", commit {software.commit[:12]}{' (changed)' if software.dirty else ''}" if software.commit else ""
    yield "kernels", ", then ".join(result.kernels)
    yield "compiled", ", then ".join("yes" if on else "no" for on in result.compiled)
    yield "software", f"farm {software.farm}{commit}, python {software.python}, torch {software.torch}"
    yield "init", result.fingerprints.initial
    yield "trained on", result.fingerprints.tokens.trained
    yield "tested on", result.fingerprints.tokens.tested
    yield "weights", result.fingerprints.final


_METERS = {"nvml": "of the GPUs, by NVML", "rapl": "of the CPU packages, by RAPL"}


def _worth(scores: Iterable[Score]) -> Iterator[tuple[str, str]]:
    for score in scores:
        error = "" if score.standard_error is None else f" ± {score.standard_error:.4f}"
        better = "" if score.direction == "lower" else ", higher is better"
        what = f"({score.evaluation}, {score.count:,} items, standard error of these{better})"
        yield "score", f"{score.value:.6f}{error} {score.unit} {what}"


def _said(samples: list[Sample]) -> Iterator[tuple[str, str]]:
    """How the model became coherent by the first prompt, and what it says to the others now."""
    for number, prompt in enumerate(dict.fromkeys(sample.prompt for sample in samples)):
        for sample in thin(samples, prompt, SAMPLES) if number == 0 else [_last(samples, prompt)]:
            yield "sample", f'step {sample.step:,}: "{sample.prompt}" {sample.text}'


def _last(samples: list[Sample], prompt: str) -> Sample:
    return next(sample for sample in reversed(samples) if sample.prompt == prompt)


def _cost(usd: float | None) -> str:
    return "" if usd is None else f", ${usd:,.2f}"


def _flat(tree: dict, path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _flat(value, here)
        else:
            yield here, str(value)


def _past(status: Status, attempts: list[Attempt]) -> Iterator[tuple[str, str]]:
    for attempt in attempts:
        resumed = f", from step {attempt.resumed_from.step:,}" if attempt.resumed_from else ""
        cause = f": {attempt.cause}" if attempt.cause else ""
        host = attempt.hardware.get("host", attempt.worker)
        yield f"attempt {attempt.epoch}", f"{attempt.outcome}{cause} on {host}{resumed}"
    for failure in status.causes:
        yield f"cause {failure.epoch}", f"{failure.cause} at step {failure.step:,}: {failure.message}"


def _history(events: list[Event]) -> Iterator[tuple[str, str]]:
    for event in events[-EVENTS:]:
        under = f" (attempt {event.epoch})" if event.epoch else ""
        yield "event", f"{duration(ago(event.at))} ago{under}: {event.event}: {event.detail}"


def _records(settings: Settings, status: Status, curve: list[Point]) -> Iterator[tuple[str, str]]:
    if status.checkpoint:
        yield "checkpoint", f"step {status.checkpoint.step:,}: {settings.storage}/{status.checkpoint.path}"
    yield "folder", Store(settings.storage).place(status.run.id)
    if curve:
        losses = [point.loss for point in curve]
        yield "curve", f"{sparkline(losses)}"
        yield "", f"loss {loss(losses[0])} at step {curve[0].step:,} to {loss(losses[-1])} at step {curve[-1].step:,}"
    if (last := last_validation(curve)) and not status.result:
        yield "validation", f"loss {loss(last.validation_loss)} at step {last.step:,}"
