"""`farm noise [STUDY]`"""

from collections.abc import Iterator, Sequence

from cli import render
from cli.access import is_study, load_results, queue, study_or_newest
from cli.options import Json, StudyName
from cli.render import Column, Sheet, say
from cli.unread import NOTHING
from farm.record.imported import EVALUATION as IMPORTED
from farm.record.result import Result
from farm.study.machine import is_mixed
from farm.verdict.cohort import by_evaluation
from farm.verdict.noise import HardwareEffect, Noise, Observation, ladder

COLUMNS = (
    Column("rung", "what changes"),
    Column("sd", "SD", render.loss, is_number=True, digits=6),
    Column("ci_low", "95 % from", render.loss, is_number=True, digits=6),
    Column("ci_high", "to", render.loss, is_number=True, digits=6),
    Column("df", "df", render.or_unknown(lambda df: f"{df:.1f}"), is_number=True, is_spare=True, digits=1),
    Column("runs", "runs", render.count, is_number=True, is_spare=True),
    Column("why", "note", render.text, is_prose=True),
    Column("evaluation", "evaluation", is_spare=True),
)


def noise(study: StudyName = None, as_json: Json = False) -> None:
    """Show how much the test loss varies with a rerun, other hardware, and other seeds.

    Each line is the SD of one run's score (study.score: the test loss in nats, unless it names another) when only the
    thing named there changes; the noise of a plain rerun is part of each. The mean of each arm on each machine is
    removed first, and all arms are taken to be equally noisy. A number that the runs cannot tell is left out, and the
    note says why. Below, the difference between every two machine classes that trained the same recipes and seeds, and
    whether the arms have the same order on both.
    """
    with queue() as open_queue:
        name = study_or_newest(open_queue, study)
        imported = open_queue.studies.imported(name).runs
        found = None if imported and not is_study(open_queue, name) else load_results(open_queue, name)
    results, passed = (found.results, found.unread) if found else ([], NOTHING)
    told = {evaluation: ladder(runs) for evaluation, runs in comparable(results)}
    if known := [
        Observation(run.arm, run.machine, run.seeds, run.rerun, run.test_loss) for run in imported if run.seeds
    ]:
        told[IMPORTED] = ladder(known)
    rows = [{"evaluation": key} | rung.model_dump(mode="json") for key, seen in told.items() for rung in seen.rungs]
    if as_json:
        hardware = [
            {"evaluation": key} | pair.model_dump(mode="json") for key, seen in told.items() for pair in seen.hardware
        ]
        render.emit_json("farm.noise/1", rows, study=name, hardware=hardware, unreadable=passed.every)
        passed.end()
        return
    render.emit(Sheet("farm.noise/1", COLUMNS, rows, title=name))
    if not told and not passed.runs and not imported:
        say(f"{name}: {passed.none_finished}")
    for remark in _remarks(told):
        say(remark)
    if unknown := len(imported) - len(known):
        say(f"{IMPORTED}: {unknown} of {len(imported)} losses lack a seed, and are left out")
    passed.end()


def comparable(results: Sequence[Result]) -> Iterator[tuple[str, list[Observation]]]:
    """Evaluation -> its runs that may be compared.

    A mixed group is no machine class, and a training that several arms adopted counts once.
    """
    for evaluation, together in by_evaluation(results):
        once: dict[str, Result] = {}
        for result in together:
            if not is_mixed(result.machine):
                once.setdefault(result.adopted or result.run_id, result)
        yield evaluation, [_run(result) for result in once.values()]


def _run(result: Result) -> Observation:
    return Observation(result.arm, result.machine, result.seeds, result.rerun, result.test_loss)


def _remarks(told: dict[str, Noise]) -> Iterator[str]:
    for seen in told.values():
        for rung in seen.rungs:
            if rung.sd == 0:
                yield f"{rung.rung}: the runs agree to within the rounding of a 64-bit number, so there is no interval"
        for pair in seen.hardware:
            yield hardware_line(pair)


def hardware_line(pair: HardwareEffect) -> str:
    """The effect of the second of two machine classes, and whether the ranking survives it."""
    left, right = pair.machines
    many = f"{pair.pairs} pair{'s' * (pair.pairs != 1)} of runs"
    edges = (
        "one pair gives no interval" if pair.ci_low is None else f"95 % from {pair.ci_low:+.4f} to {pair.ci_high:+.4f}"
    )
    effect = f"hardware: {right} less {left}: {pair.difference:+.4f} ({edges}), {many}"
    p = "" if pair.interaction_p is None else f" (p = {pair.interaction_p:.3f} that arms react alike)"
    return f"{effect}; the arms' order is the same on both: {pair.survives}{p}"
