"""`python -m cli.reference`, which `make docs` runs: docs/study.md, docs/commands.md and docs/rooms.md."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cli.rooms import rooms
from farm.study.form import Change, Stack, StudyTable, Sweep
from farm.study.fractions import MOST, sizes
from farm.study.machine import Machine
from farm.study.recipe import NONE, Data, Evaluation, FurtherEvaluation, Model, Schedule, Train
from farm.study.run import Policy
from farm.study.samples import Samples

DOCS = Path(__file__).resolve().parent.parent / "docs"
MADE = "<!-- Made by `make docs` from what the program knows; a test fails when it is stale. Do not edit. -->"
WIDTH = 100  # of the help of a command

STUDY = f"""# Study files

{MADE}

A study is one TOML file: a baseline, named changes to it, seeds and machines. `farm plan FILE` forecasts what it would
take and lists everything that is wrong with it; `farm submit FILE` queues it. `-` instead of FILE is standard input.

```toml
[study]
name = "my-study"
machines = ["8xa100m40", "1xrtx3090"]
seeds = {{ init = [42, 22, 67], train = [23] }}

[baseline.train]
learning_rate = 6e-4

[interventions.remove-dropout]
model.dropout = 0.0

[interventions.schedule]
train.schedule = {{ kind = "warmup-cosine", warmup = 0.05, floor = 0.1 }}

[stacks]
both = ["remove-dropout", "schedule"]
```

A key that is left out has its default, and all defaults together are the published baseline. An intervention says only
what it changes in the baseline. Where a key may be unset, the word `"{NONE}"` unsets what the baseline sets:
`train.clip_grad_norm = "{NONE}"` trains an arm without clipping over a baseline that clips. (A tag that is called
{NONE} must therefore be given by its commit.) Names are 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or a
digit.
"""

MORE_SEEDS = """
## `[more_seeds]`

Seed pairs of single arms beside those that they have anyway: `remove-dropout = [[68, 23], [69, 23]]`, and the baseline
by its name, `baseline`. `farm seeds add` and `farm resolve` add such pairs to a submitted study, which keeps them when
its file is submitted again.
"""

DESIGNS = """
`design` says which arms there are besides the baseline and the stacks:

| design | arms |
|---|---|
| `one-at-a-time` | each intervention alone |
| `stack` | the named stacks alone; where none is named, the ladder that adds one intervention after the other |
| `leave-one-out` | all interventions together, and all but each |
| `factorial` | every combination |
| `fraction` | the combinations of an even number of them, a half fraction; with `resolution` or `arms`, a smaller one |

A fraction tells the effects of single interventions apart at resolution 3, keeps them clear of interactions of two at
4, and tells those interactions apart, too, at 5. `resolution = 4` takes the smallest that has it; `arms = 32` takes the
one of that size that aliases the fewest effects. These exist; the baseline counts as an arm:

| interventions | arms, and the resolution of the fraction |
|---|---|
{fractions}

Seeds are always two numbers. `{{ init = [1, 2], train = [7, 8] }}` is every combination, four pairs;
`[[1, 7], [2, 8]]` is these two pairs. Runs of one pair begin from the same weights and see the same data.
"""

SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("[study]", "", StudyTable),
    (
        "[baseline] and [interventions.NAME]",
        "The tables `model`, `train`, `data` and `evaluation`, below, and where this arm departs from `[study]`. An"
        " intervention writes `model.dropout = 0.0` or has a table `[interventions.NAME.model]`, as you like.",
        Change,
    ),
    ("model", "`[baseline.model]`, or `model.KEY` in an intervention: the network.", Model),
    ("train", "`[baseline.train]`, or `train.KEY`: how it is trained, always with AdamW.", Train),
    ("train.schedule", "`[baseline.train.schedule]`, or `train.schedule = { ... }`.", Schedule),
    ("data", "`[baseline.data]`, or `data.KEY`: what it is trained on.", Data),
    ("evaluation", "`[baseline.evaluation]`, or `evaluation.KEY`: the test at the end.", Evaluation),
    (
        "[sweeps.NAME]",
        "An arm for each of several values: `[sweeps.lr]` with `train.learning_rate = [2e-4, 8e-4]` trains `lr-0.0002`"
        " and `lr-0.0008`. Values that are not lists are set in all of them. Exactly one field has a list, unless"
        " `grid = true` crosses several. A value that the baseline has already makes no arm, and stacks may name a"
        " sweep's arms.",
        Sweep,
    ),
    (
        "[stacks]",
        'Several interventions at once, `NAME = ["one", "another"]`, or a table `[stacks.NAME]` with these keys. Two'
        " that set one field to different values are refused.",
        Stack,
    ),
    (
        "[evaluations.NAME]",
        "Another slice that every trained model is scored on, beside the test at the end, which is called `test_loss`."
        " Keys left out are taken from the arm's own `evaluation`; a revision goes with its source. Evaluations"
        " change no run: they can be added to a study whose runs have finished, and then `farm eval` scores those.",
        FurtherEvaluation,
    ),
    (
        "[machines.NAME]",
        "A machine class that no node has registered yet, here or in `farm.toml`. Keys left out come from the"
        " built-in class of that name (`farm machines` lists them).",
        Machine,
    ),
    (
        "[samples]",
        "Prompts that models go on from while they are trained; `farm show` shows the samples. None of it changes a bit"
        " of a training, or a run's id: a run keeps the samples that it was trained with, and `farm sample` takes"
        " others from its checkpoints. A model reads the newest tokens that fit into `model.context`.",
        Samples,
    ),
    ("[policy]", "How the farm treats the runs. None of it changes a loss, or a run's id.", Policy),
)
HIDDEN = {"[machines.NAME].name", "[machines.NAME].probes"}  # what the farm says itself
TABLES = {"model", "train", "data", "evaluation"}

# How people write it, where the model's own word for the type would not say.
TYPES = {
    "seeds": "`{ init = [...], train = [...] }`, or a list of pairs",
    "memory": 'bytes, or text such as "40GiB"',
    "schedule": "a table, below",
    "prompts": "a list of texts",
}
EXAMPLES = {
    "[study].name": '"dropout"',
    "[study].question": '"Does dropout help when every token is seen once?"',
    "[study].machines": '["8xa100m40", "1xrtx3090"]',
    "[study].seeds": "{ init = [42, 22, 67], train = [23] }",
    "[study].resolution": "5",
    "[study].arms": "32",
    "[study].score": '"wiki"',
    "[study].margin": "0.005",
    "[study].twins": "true",
    "[study].reruns": "1",
    "[study].first_rerun": "1",
    "[baseline] and [interventions.NAME].machines": '["cpu-x1"]',
    "[baseline] and [interventions.NAME].seeds": "[[42, 23], [22, 23]]",
    "model.vocab": "257",
    "model.vocab_multiple": "128",
    "model.context": "256",
    "model.width": "384",
    "model.layers": "6",
    "model.heads": "6",
    "model.dropout": "0.0",
    "train.batch": "480",
    "train.tokens": "1_000_000_000",
    "train.learning_rate": "6e-4",
    "train.schedule": '{ kind = "warmup-cosine", warmup = 0.05, floor = 0.1 }',
    "train.weight_decay": "0.01",
    "train.betas": "[0.9, 0.95]",
    "train.eps": "1e-6",
    "train.clip_grad_norm": "1.0",
    "train.canonical_microbatch": "4",
    "train.schedule.warmup": "0.05",
    "train.schedule.floor": "0.1",
    "data.source": '"/farm/tokens"',
    "data.revision": '"v1.0"',
    "data.split": '"train-10B"',
    "data.tokenizer": '"bytes"',
    "data.text_field": '"content"',
    "evaluation.source": '"/farm/tokens"',
    "evaluation.revision": '"v1.0"',
    "evaluation.split": '"test"',
    "evaluation.offset": "0",
    "evaluation.sequences": "512",
    "evaluation.context": "256",
    "evaluation.every": "500",
    "evaluation.validation_sequences": "64",
    "[sweeps.NAME].machines": '["cpu-x1"]',
    "[sweeps.NAME].seeds": "[[42, 23], [22, 23]]",
    "[stacks].of": '["remove-dropout", "schedule"]',
    "[stacks].machines": '["8xa100m40"]',
    "[stacks].seeds": "{ init = [42] }",
    "[evaluations.NAME].source": '"/farm/wiki"',
    "[evaluations.NAME].revision": '"v1.0"',
    "[evaluations.NAME].split": '"test"',
    "[evaluations.NAME].offset": "0",
    "[evaluations.NAME].sequences": "512",
    "[evaluations.NAME].context": "256",
    "[evaluations.NAME].precision": '"bf16"',
    "[machines.NAME].accelerator": '"H100-SXM5-80GB"',
    "[machines.NAME].accelerators": "8",
    "[machines.NAME].memory": '"80GiB"',
    "[machines.NAME].instruction_set": '"AVX-512"',
    "[machines.NAME].usd_per_hour": "23.92",
    "[machines.NAME].price_source": '"list price of VENDOR"',
    "[machines.NAME].price_date": '"2026-11-20"',
    "[machines.NAME].tokens_per_second": "640_000",
    "[machines.NAME].microbatch": "24",
    "[machines.NAME].threads": "8",
    "[samples].prompts": '["Every effort moves you", "The cat"]',
    "[samples].every": "500",
    "[samples].tokens": "50",
    "[samples].temperature": "0.7",
    "[samples].top_k": "50",
    "[samples].seed": "1",
    "[policy].priority": "10",
    "[policy].attempts": "5",
    "[policy].checkpoint_seconds": "300",
    "[policy].usd_limit": "250",
    "[policy].hours_limit": "40",
    "[policy].hang_seconds": "3600",
}


def study() -> str:
    """docs/study.md"""
    parts = [STUDY]
    for title, said, model in SECTIONS:
        parts.append(f"\n## {_heading(title)}\n" + (f"\n{said}\n" if said else "") + f"\n{_table(title, model)}")
        parts += [MORE_SEEDS] if model is Stack else []
        parts += [DESIGNS.format(fractions=_fractions())] if model is StudyTable else []
    return "".join(parts)


def _fractions() -> str:
    """A row for each number of interventions: its fractions, each with its resolution."""
    return "\n".join(
        f"| {k} | {', '.join(f'{one.arms:,} ({one.resolution})' for one in sizes(k))} |" for k in range(3, MOST + 1)
    )


def _heading(title: str) -> str:
    return " and ".join(f"`{part}`" for part in title.split(" and "))


def _table(title: str, model: type[BaseModel]) -> str:
    rows = "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in keys(title, model))
    return f"| key | value | default | what it is | example |\n|---|---|---|---|---|\n{rows}"


def keys(title: str, model: type[BaseModel]) -> Iterator[tuple[str, str, str, str, str]]:
    """A row for each key of a table: its name, type and range, default, meaning, and another value."""
    schema = model.model_json_schema()
    for name, field in schema["properties"].items():
        path = f"{title}.{name}"
        if path in HIDDEN or (issubclass(model, Change) and name in TABLES):
            continue
        default = "required" if name in schema.get("required", ()) else f"`{_default(name, field)}`"
        example = EXAMPLES.get(path) or _other(field)
        yield (
            f"`{name}`",
            TYPES.get(name) or _type(field),
            default,
            model.model_fields[name].description or "",
            f"`{name} = {example}`",
        )


def _type(field: Mapping[str, Any]) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    told = " or ".join(_one_type(kind) for kind in kinds)
    return f'{told}, or `"{NONE}"`' if "anyOf" in field else told


def _one_type(kind: Mapping[str, Any]) -> str:
    if words := kind.get("enum") or ([kind["const"]] if "const" in kind else []):
        return ", ".join(f"`{json.dumps(word)}`" for word in words)
    if kind.get("type") == "array":
        many = f"{kind['maxItems']} numbers" if "prefixItems" in kind else f"{_one_type(kind['items'])}s"
        return f"a list of {many.replace('texts', 'names')}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    return words[kind["type"]] + _range(kind)


def _range(kind: Mapping[str, Any]) -> str:
    if "minimum" in kind and "maximum" in kind:
        return f", {kind['minimum']:,} to {kind['maximum']:,}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {word} {kind[key]:,}" for key, word in bounds.items() if key in kind)


def _default(name: str, field: Mapping[str, Any]) -> str:
    default = field.get("default")
    if name == "seeds" and default is not None:
        return str([[pair["init"], pair["train"]] for pair in default])
    return toml(NONE if default is None else default)


def _other(field: Mapping[str, Any]) -> str:
    """A value that is not the default, of the few that there are."""
    words = field.get("enum") or ([True, False] if field.get("type") == "boolean" else [field["default"]])
    return toml(next((word for word in words if word != field.get("default")), field.get("default")))


def toml(value: Any) -> str:
    """A value as a study file spells it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:_}"
    return json.dumps(value) if isinstance(value, bool | str) else repr(value)


def commands() -> str:
    """docs/commands.md"""
    from typer.main import get_command

    from cli.main import GROUPS, app

    group = get_command(app)
    parts = [
        f"# Commands\n\n{MADE}\n\nThe output of `farm COMMAND --help`. Data goes to stdout, all else to stderr:"
        " tables on a terminal, tab-separated\nvalues in a pipe, JSON with `--json`. Exit codes: 0 ok, 1 failed,"
        " 2 usage or a bad study, 3 not found, 4 refused,\n"
        "5 unreachable, 6 conflict, 7 a guard (pass it with `-y`), 130 interrupted.\n\n"
        "An error that a page says more about ends with its name, such as `docs/data.md#sources`. Where this\n"
        'documentation is served, `docs_url = "https://..."` in farm.toml (or `FARM_DOCS_URL`) makes it an address.\n'
    ]
    for title, names in GROUPS.items():
        parts.append(f"\n## {title}\n")
        for name in names.split():
            context = group.make_context("farm", [name], resilient_parsing=True)
            parts += _helps(group.commands[name], name, context)  # type: ignore[attr-defined]
    return "".join(parts)


def _helps(command: Any, name: str, parent: Any) -> Iterator[str]:
    """The help of a command, and of each that is a second word of it."""
    own = type(parent)(command, parent=parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    lines = (line.rstrip() for line in command.get_help(own).splitlines())
    yield f"\n### `{own.command_path}`\n\n```text\n" + "\n".join(lines) + "\n```\n"
    for word, member in getattr(command, "commands", {}).items():
        yield from _helps(member, word, own)


PAGES = {"study.md": study, "commands.md": commands, "rooms.md": lambda: rooms(MADE)}

if __name__ == "__main__":
    for page, text in PAGES.items():
        (DOCS / page).write_text(text(), encoding="utf-8")
