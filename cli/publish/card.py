"""The card of a published run: what a stranger needs to load, trust and repeat a model, from the farm's own records."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from cli import cells, render
from cli.publish.chosen import Chosen
from cli.publish.markdown import Markdown, code, fill
from cli.remarks import METHODS, RUNGS
from cli.report.provenance import changes
from cli.report.words import sentence
from farm.record.result import Result
from farm.record.sample import Sample, thin
from farm.record.score import NATS
from farm.study import toml
from farm.study.arms import BASELINE
from farm.study.recipe import TEST, Recipe
from farm.study.run import Attempt
from farm.verdict.row import Row

SAMPLES = 6  # of the first prompt, from the first to the last; of every other the last
METERS = {"nvml": "of the GPUs, by NVML", "rapl": "of the CPU packages, by RAPL"}
PATHS = (("data", "source"), ("data", "tokenizer"), ("evaluation", "source"))


class Known(NamedTuple):
    """What a card is made of, besides the run: what the storage has, and what is published along."""

    samples: Sequence[Sample]
    attempts: Sequence[Attempt]
    tokenizer: str | None  # the repo that has it
    no_tokenizer: str | None  # why this repo has none
    checkpoints: Sequence[int]


def card(chosen: Chosen, known: Known, repo: str) -> str:
    """The README.md of a model repo."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    result, run, title = chosen.result, chosen.status.run, repo.partition("/")[2]
    source = run.recipe.data.source
    tested = run.recipe.tested_data
    measured = EvalResult(
        task_type="text-generation",
        dataset_type=re.sub(r"[^\w./-]+", "-", place(tested.source).removeprefix("hf:")),
        dataset_name=place(tested.source),
        dataset_split=tested.split,
        metric_type="loss",
        metric_name=f"test loss, {NATS}",
        metric_value=round(result.test_loss, 6),
    )
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["farm", "gpt2", "ablation"],
        datasets=[source.removeprefix("hf:")] if source.startswith("hf:") else None,
        model_name=title,
        eval_results=[measured],
    )
    head = f"---\n{data.to_yaml()}\n---\n\n"
    return str(ModelCard(head + fill("run.md", **_values(chosen, known, repo))))


def place(source: str) -> str:
    """Where tokens are, for strangers: of a path on this machine its last part alone."""
    return source if source.startswith(("hf:", "s3://", "builtin:")) else PurePath(source).name or "a folder"


def _without_paths(told: str, recipe: Recipe) -> str:
    for source in (recipe.data.source, recipe.data.tokenizer):
        told = told.replace(source, place(source)) if "/" in source else told
    return told


def public(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets itself, its paths as `place` has them."""
    changes = recipe.changes()
    for table, field in PATHS:
        if (value := changes.get(table, {}).get(field)) and value not in ("gpt2", "bytes"):
            changes[table] = changes[table] | {field: place(value)}
    return changes


def _values(chosen: Chosen, known: Known, repo: str) -> dict[str, Any]:
    result, run = chosen.result, chosen.status.run
    recipe, row = run.recipe, _row(chosen)
    around = [one for one in chosen.ranked.table.rows if _beside(one, row)] if chosen.ranked and row else []
    study = chosen.ranked.study if chosen.ranked else None
    baseline = next((arm.recipe for arm in study.arms() if arm.name == BASELINE), None) if study else None
    return {
        "title": repo.partition("/")[2],
        "parameters": f"{recipe.model.parameters:,}",
        "tokens": f"{result.tokens:,}",
        "data": place(recipe.data.source),
        "origin": f"arm {run.arm} of study {chosen.study} on {run.machine}, with seeds {run.seeds.init} for the weights"
        f" and {run.seeds.train} for data and dropout",
        "loading": code(_loading(repo, known.tokenizer), "python"),
        "no_tokenizer": known.no_tokenizer and _without_paths(known.no_tokenizer, recipe),
        "revisions": Markdown(", ".join(f"`{revision(step)}`" for step in known.checkpoints)),
        "revision_example": Markdown(
            f'`from_pretrained("{repo}", revision="{revision(known.checkpoints[0])}")`' if known.checkpoints else ""
        ),
        "losses": list(_losses(chosen)),
        "spread": list(_spread(chosen, row)),
        "verdict": list(_verdict(chosen, row, around)),
        "ranking": [ranking_cells(one) for one in around],
        "study": chosen.study,
        "machine": run.machine,
        "score": row.score if row else TEST,
        "direction": row.direction if row else "lower",
        "training": list(_training(chosen, known)),
        "samples": _samples(known.samples),
        "prompts": _count(len({one.prompt for one in known.samples}), "prompt"),
        "sampling": _sampling(known.samples),
        "lineage": list(_lineage(chosen)),
        "arm": run.arm,
        "changes": list(changes(baseline, recipe, public)) if baseline else [],
        "no_changes": "is the baseline" if run.arm == BASELINE else "changes nothing that is on record",
        "recipe": code(toml.text(public(recipe)), "toml"),
    }


def revision(step: int) -> str:
    """The branch of a checkpoint."""
    return f"step-{step:08d}"


def _row(chosen: Chosen) -> Row | None:
    """The row of the table that the run is part of."""
    rows = chosen.ranked.table.rows if chosen.ranked else ()
    return next((row for row in rows if chosen.status.id in row.runs), None)


def _beside(one: Row, row: Row) -> bool:
    return (one.evaluation, one.machine) == (row.evaluation, row.machine)


def _loading(repo: str, tokenizer: str | None) -> str:
    lines = [f"from transformers import AutoModelForCausalLM{', AutoTokenizer' if tokenizer else ''}", ""]
    lines += [f'model = AutoModelForCausalLM.from_pretrained("{repo}")']
    if tokenizer is None:
        return "\n".join([*lines, "logits = model(tokens).logits  # tokens: LongTensor [batch, context]"])
    lines += [f'tokenizer = AutoTokenizer.from_pretrained("{tokenizer}")']
    lines += ['prompt = tokenizer("Every effort moves you", return_tensors="pt")']
    lines += ["said = model.generate(**prompt, max_new_tokens=20, do_sample=True, temperature=1.0, top_k=25)"]
    return "\n".join([*lines, "print(tokenizer.decode(said[0]))"])


def _losses(chosen: Chosen) -> Iterator[tuple[str, str]]:
    result, own = chosen.result, next((one for one in chosen.scores if one.name == TEST), None)
    error = f" ± {1.96 * own.standard_error:.4f} (95 %, over test items)" if own and own.standard_error else ""
    yield (
        f"test slice, {result.test_tokens:,} tokens that it was not trained on ({result.evaluation})",
        f"{result.test_loss:.4f}{error} {NATS}",
    )
    if result.validation:
        last = result.validation[-1]
        yield f"validation after step {last.step:,}", f"{last.loss:.4f} {NATS}"
    yield "training, mean over the last tenth of the steps", f"{result.train_loss:.4f} {NATS}"
    for score in chosen.scores:
        if score is not own:
            error = "" if score.standard_error is None else f" ± {1.96 * score.standard_error:.4f} (95 %)"
            better = "higher" if score.direction == "higher" else "lower"
            yield (
                f"{score.name} ({score.evaluation}), {score.count:,} items",
                f"{score.value:.4f}{error} {score.unit}," + (f" {better} is better"),
            )


def _spread(chosen: Chosen, row: Row | None) -> Iterator[str]:
    """What the arm is worth over its seeds: the run is one of them."""
    if row is None:
        return
    if row.sd is None:
        yield f"{row.arm} has one seed pair on {row.machine}, so nothing here says how much the loss varies with seeds."
        return
    from scipy.stats import t

    half = float(t.ppf(0.975, row.n - 1)) * row.sd / row.n**0.5
    unit = "nats" if row.unit == NATS else row.unit
    yield (
        f"Over {row.n} seed pairs, {row.arm} on {row.machine} has a mean {row.score} of {row.mean:.4f} {unit}"
        f" (95 % interval {cells.interval(row.mean - half, row.mean + half, '.4f')}, SD {row.sd:.4f})."
        f" {_standing(chosen, row)}"
    )


def _standing(chosen: Chosen, row: Row) -> str:
    """Where the model stands among the runs of its arm: whoever takes the best of several takes its luck along."""
    seen = chosen.ranked.sight.results if chosen.ranked else ()
    worth = {one.run_id: one.test_loss for one in seen if one.run_id in row.runs}
    own = worth[chosen.status.id]
    better = sum(value < own if row.direction == "lower" else value > own for value in worth.values())
    behind = f"of the {_count(len(worth), 'run')} behind that"
    if not better:
        return f"This model has the best one {behind}."
    return f"{better:,} {behind} {'has' if better == 1 else 'have'} a better one than this model."


def _verdict(chosen: Chosen, row: Row | None, around: Sequence[Row]) -> Iterator[str]:
    if row is None:
        why = "has no row of it" if chosen.ranked else "is not on record any more"
        yield f"There is none: the study {chosen.study} {why}."
        return
    if row.aside:
        yield f"{row.arm} on {row.machine} is not ranked: {row.aside}."
    elif row.arm == BASELINE:
        yield f"This is the baseline on {row.machine}, with which every other arm is compared."
    elif row.verdict:
        yield sentence(row)
    else:
        yield f"No baseline on {row.machine} is finished, so there is nothing to compare {row.arm} with."
    if row.arm == BASELINE:
        yield from (sentence(one) for one in around if one.verdict and not one.aside)
    told = [one for one in around if one.method] if row.arm == BASELINE else [row]
    for method in dict.fromkeys(one.method for one in told if one.method):
        yield f"Method: {METHODS[method]}."
    for rung in dict.fromkeys(one.rung for one in told if one.method):
        yield f"Tested against {RUNGS[rung]}."


def ranking_cells(row: Row) -> list[str]:
    """A line of the ranking, as every card has it."""
    verdict = row.verdict or ("not ranked" if row.aside else render.UNKNOWN)
    numbers = [render.loss(row.mean), render.loss(row.sd), render.signed(row.delta)]
    seeds = cells.seeds(row.n, row.asked)
    return [
        render.count(row.rank),
        cells.arm(row),
        seeds,
        *numbers,
        cells.interval(row.ci_low, row.ci_high),
        verdict,
    ]


def _training(chosen: Chosen, known: Known) -> Iterator[tuple[str, str]]:
    result, recipe = chosen.result, chosen.result.recipe
    hardware, train = result.hardware, recipe.train
    memory = f"{render.gib(hardware.memory_bytes)} GiB"
    gpus = "" if hardware.accelerator == "cpu" else f"{hardware.accelerators} x {hardware.accelerator}, {memory} each; "
    yield "machine class", result.machine
    yield "hardware", f"{gpus}{hardware.cpu}, {hardware.cores} cores{'' if gpus else f', {memory} of memory'}"
    yield "batch", batch(result)
    yield "steps", f"{result.steps:,}, so {result.tokens:,} tokens" + _irregular(result)
    yield "seeds", f"{result.seeds.init} for the weights, {result.seeds.train} for the order of the data and dropout"
    yield "data", f"{place(recipe.data.source)}, split {recipe.data.split}" + _revision(recipe)
    yield "tested on", f"{place(recipe.tested_data.source)}, split {recipe.tested_data.split}"
    yield "learning rate", f"{train.learning_rate:g}, schedule {_schedule(recipe)}"
    yield "precision", f"{train.precision}; kernels: {', then '.join(result.kernels)}"
    yield "machine time", f"{render.clock(result.seconds / 3600)}, {result.tokens_per_second:,.0f} tokens/s"
    if result.utilisation:
        yield "utilisation", f"{result.utilisation.flops:.0%} of the measured peak of matrix products (MFU)"
    prices = f" ({render.prices(result.prices)})" if result.prices else ""
    yield "cost", "unknown: its machine class has no price" if result.usd is None else f"${result.usd:,.2f}{prices}"
    meter = METERS.get(result.energy_meter or "", "a meter")
    yield "energy", "not measured" if result.kwh is None else f"{result.kwh:.4g} kWh ({meter})"
    if known.attempts:
        broken = [one for one in known.attempts if one.outcome not in (None, "succeeded")]
        ended = ", ".join(f"{one.outcome}{f' ({one.cause})' if one.cause else ''}" for one in broken)
        yield "attempts", f"{len(known.attempts)}" + (f"; those before ended: {ended}" if broken else "")


def batch(result: Result) -> str:
    """The arithmetic of a step: what a forward pass takes, how often, by how many workers."""
    plan, context = result.plan, result.recipe.model.context
    size = f"{plan.batch:,} sequences of {context:,} tokens, {result.recipe.tokens_per_step:,} tokens a step"
    if plan.shares:
        passes = " + ".join(map(str, plan.shares))
        return f"microbatch {plan.microbatch} x ({passes}) passes of {plan.world} unlike workers = {size}"
    workers = f"{plan.world} worker{'s' * (plan.world != 1)}"
    return f"microbatch {plan.microbatch} x {plan.accumulation} accumulated x {workers} = {size}"


def _irregular(result: Result) -> str:
    told = [f"{count:,} {what}" for count, what in _counts(result) if count]
    return f" ({', '.join(told)})" if told else ""


def _counts(result: Result) -> tuple[tuple[int, str], ...]:
    return (result.skipped_steps, "skipped"), (result.clipped_steps, "clipped")


def _revision(recipe: Recipe) -> str:
    return f", revision {recipe.data.revision}" if recipe.data.revision else ""


def _schedule(recipe: Recipe) -> str:
    schedule = recipe.train.schedule.model_dump(mode="json", exclude_defaults=True)
    more = ", ".join(f"{key} {value}" for key, value in schedule.items() if key != "kind")
    return f"{schedule.get('kind', 'constant')}{f' ({more})' if more else ''}"


def _samples(samples: Sequence[Sample]) -> list[tuple[str, str, Markdown]]:
    """How the model became coherent by the first prompt, and what it says to the others in the end."""
    found: list[Sample] = []
    for prompt in dict.fromkeys(one.prompt for one in samples):
        found += thin(samples, prompt, SAMPLES)[0 if not found else -1 :]
    return [
        (f"{one.step:,}", one.prompt, code(f"{one.prompt}{' ' * (one.tokenizer is None)}{one.text}")) for one in found
    ]


def _sampling(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    one = samples[-1]
    how = f"temperature {one.temperature:g}, top-k {one.top_k}, seed {one.seed}"
    return how if one.tokenizer else f"{how}; as token ids, for want of a tokenizer"


def _lineage(chosen: Chosen) -> Iterator[tuple[str, str]]:
    result, run, software = chosen.result, chosen.status.run, chosen.result.provenance
    yield "study", chosen.study
    yield "arm", run.arm
    yield "run", run.id
    if result.adopted:
        yield "trained as", f"{result.adopted}: the same recipe, seeds and machine class"
    yield "recipe (sha256)", run.recipe.digest
    commit = f", commit {software.commit}{' (changed)' if software.dirty else ''}" if software.commit else ""
    yield "software", f"farm {software.farm}{commit}, Python {software.python}, torch {software.torch}"
    yield "sources of farm (sha256)", software.code
    prints = result.fingerprints
    yield "first weights (sha256)", prints.initial
    yield "tokens trained on (sha256)", prints.tokens.trained
    yield "tokens tested on (sha256)", prints.tokens.tested
    yield "last weights (sha256)", prints.final


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
