"""The text of a new study file.

A remark is `# words`. A line that is off is `#key = value`, or a `#[table]` and the lines right below it: it is valid
as soon as the # is taken away.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import tomli_w

from cli import render
from cli.init.machines import Here, describe
from cli.init.size import CPU_SECONDS, GPU_SECONDS, Chosen, Hours
from cli.reference import toml
from farm.study.machine import BUILT_IN, Machine
from farm.study.recipe import Recipe
from farm.study.toml import key as spelled

if TYPE_CHECKING:
    from model.corpus.nearby import Corpus

SEEDS = (42, 22, 67)  # of the weights: those of the published battery
ARMS = 3  # the baseline and two interventions
BASES = {
    "measured": "as the same recipe took there",
    "scaled": "from other runs there, by the arithmetic of a token",
    "declared": "by the declared speed of the class",
    "assumed": "assumed; farm plan says more once a run has finished there",
}
WIDTH = 116  # of a remark
COLUMN = 40  # where remarks behind values begin


class Draft(NamedTuple):
    """All that a study file is made of. `others` are corpora that were found and not taken, in words."""

    file: str
    name: str
    here: Here
    corpus: "Corpus"
    why: str  # of the corpus
    others: Sequence[str]
    chosen: Chosen

    @property
    def recipe(self) -> Recipe:
        return self.chosen.recipe

    @property
    def runs(self) -> int:
        return ARMS * len(SEEDS) * len(self.chosen.machines)

    def total(self, one: Hours) -> float:
        """Hours until all runs of a class are over, with as many at a time as there are slots for."""
        return one.hours * -(-ARMS * len(SEEDS) // max(1, self.here.slots.get(one.machine, 1)))


def write(draft: Draft) -> str:
    """The text of the file."""
    parts = (_head, _study, _model, _train, _data, _evaluation, _interventions, _rest, _machines)
    return "\n".join("".join(f"{line}\n" for line in part(draft)) for part in parts).rstrip("\n") + "\n"


def _head(draft: Draft) -> Iterator[str]:
    yield from _remark(
        "A study: one baseline, named changes to it, seeds and machines. farm init wrote it for the machines and the"
        " data that it found; all of it may be changed. docs/study.md has every key."
    )
    yield "#"
    yield f"#   farm plan {draft.file}               # runs, hours, dollars, and what is wrong; queues nothing"
    yield f"#   farm submit {draft.file} --wait      # queue it, watch it, print the table"
    yield "#"
    yield from _remark(
        "A line such as #key = value, without a space behind the #, is off: take the # away to set it. A #[table] goes"
        " with the lines right below it."
    )


def _study(draft: Draft) -> Iterator[str]:
    chosen, here = draft.chosen, draft.here
    yield "[study]"
    yield _set("name", draft.name)
    yield _set("question", "Which changes to the baseline lower its test loss, and by more than another seed would?")
    yield _set("design", "one-at-a-time", "train the baseline, and each intervention alone")
    yield _set("machines", chosen.machines, "every arm is trained on each class that is named here")
    seeds = f"seeds = {{ init = {list(SEEDS)}, train = [23] }}"
    yield f"{seeds}   # every arm once from each of these weights: a difference needs an error bar"
    yield _off("margin", 0.01, 'the smallest difference in test loss that matters: arms can then be "same"')
    yield ""
    yield from _remark(f"Found: {here.why}.")
    for name in here.classes:
        why = chosen.left_out.get(name) or ("" if name in chosen.machines else "the same cores again")
        yield from _remark(f"  {name}: {describe(here.known[name])}" + (f"; not named: {why}" if why else ""))
    for one in chosen.hours:
        yield from _remark(
            f"Time on {one.machine}: about {render.clock(one.hours)} a run, {BASES[one.basis]}. Its"
            f" {ARMS * len(SEEDS)} runs: about {render.clock(draft.total(one))},"
            f" {here.slots.get(one.machine, 1)} at a time."
        )


def _model(draft: Draft) -> Iterator[str]:
    model = draft.recipe.model
    yield from _remark(f"The model: a GPT-2 of {model.parameters:,} parameters." + _larger(draft))
    yield "[baseline.model]"
    yield _set("vocab", model.vocab, _vocab(draft))
    yield _set("context", model.context, "tokens that a prediction may look back on")
    yield _set("width", model.width)
    yield _set("layers", model.layers)
    yield _set("heads", model.heads, "must divide width")
    yield _set("dropout", model.dropout)
    yield _off("init", "sequential", "weights as plain torch draws them, one tensor after the other")


def _larger(draft: Draft) -> str:
    if draft.recipe.model.parameters >= Recipe().model.parameters * 0.5 and draft.chosen.larger is None:
        return " It is the published baseline, 163M parameters with GPT-2's vocabulary."
    return f" Not {draft.chosen.larger}." if draft.chosen.larger else ""


def _vocab(draft: Draft) -> str:
    vocab, corpus = draft.recipe.model.vocab, draft.corpus
    if corpus.tokenizer == "bytes":
        return "bytes and an end-of-text"
    if vocab == Recipe().model.vocab:
        return "GPT-2's tokens"
    return "room for every token of 16 bits" if vocab == 65536 else "as many different tokens as the data has"


def _train(draft: Draft) -> Iterator[str]:
    recipe = draft.recipe
    yield from _remark(_budget(draft))
    yield "[baseline.train]"
    yield _set("batch", recipe.train.batch, "sequences a step, on every machine: the planner splits them")
    yield _set(
        "tokens", recipe.train.tokens, f"{recipe.steps:,} steps of {recipe.train.batch} x {recipe.model.context}"
    )
    yield _set("learning_rate", recipe.train.learning_rate)
    is_cpu = recipe.train.precision == "fp32"
    yield _set("precision", recipe.train.precision, "on every machine" if is_cpu else "with a loss scale")
    yield _off("clip_grad_norm", 1.0, "cut the gradient's norm to this; left out, it is not clipped")
    yield _off("weight_decay", 0.01, "left out, 0.1")


def _budget(draft: Draft) -> str:
    """Why a run has so many tokens."""
    corpus, tokens = draft.corpus, draft.recipe.train.tokens
    slowest = max(draft.chosen.hours, key=lambda one: one.hours)
    is_cpu = draft.here.known[slowest.machine].is_cpu
    limit = (CPU_SECONDS if is_cpu else GPU_SECONDS) / 3600
    if tokens == Recipe().train.tokens:
        return "The budget: that of the published runs."
    per = tokens / draft.recipe.model.parameters
    few = f" That is {per:.2g} tokens a parameter: a ranking of early training." if per < 10 else ""
    if corpus.train is not None and tokens > 0.85 * corpus.train * (0.9 if corpus.is_shared else 1):
        return f"The budget: one pass over the data, so that no token is seen twice.{few}"
    return f"The budget: what {slowest.machine} trains in about {render.clock(limit)}.{few}"


def _data(draft: Draft) -> Iterator[str]:
    corpus, data = draft.corpus, draft.recipe.data
    yield from _remark(f"The data: {draft.why}." + _counts(corpus))
    for other in draft.others:
        yield from _remark(f"  also there: {other}")
    if draft.others:
        yield from _remark("Another one has another size, so let farm init look at it: farm init --force --data SOURCE")
    yield "[baseline.data]"
    where = "comes with Python" if corpus.source.startswith("builtin:") else "every node must see it under this path"
    if corpus.source.startswith(("hf:", "s3://")):
        where = "each node fetches it when its first run starts"
    yield _set("source", corpus.source, where)
    if data.tokenizer != Recipe().data.tokenizer:
        yield _set(
            "tokenizer", data.tokenizer, "each byte is a token" if corpus.kind == "text" else "what made the tokens"
        )
    if data.text_field != Recipe().data.text_field:
        yield _set("text_field", data.text_field, "the column or key that holds a document")
    if data.order == "shuffled":
        yield _set("order", data.order, "another order for another train seed")
    yield _off("repeat", True, "allow more than one pass, for more tokens than there are")


def _counts(corpus: "Corpus") -> str:
    if corpus.train is None:
        return " It was not looked at: nothing is fetched just for that, and each node checks it."
    if corpus.is_shared:
        return f" {corpus.train:,} tokens, of which the last tenth is kept for the test."
    return f" {corpus.train:,} tokens to train on, {corpus.test or 0:,} to test on."


def _evaluation(draft: Draft) -> Iterator[str]:
    evaluation, context = draft.recipe.evaluation, draft.recipe.model.context
    yield "[baseline.evaluation]"
    if evaluation.split != Recipe().evaluation.split:
        yield _set("split", evaluation.split, "the corpus has no validation split")
    where = "behind all that is trained on" if draft.corpus.is_shared else f"of the {evaluation.split} split"
    yield _set("offset", evaluation.offset, f"the test begins at this token {where}")
    tested = evaluation.sequences * context
    yield _set("sequences", evaluation.sequences, f"{tested:,} tokens: the fewer, the more the loss depends on them")
    yield _off("every", 0.1, "validate at each tenth of the run; left out, at each twentieth")


def _interventions(draft: Draft) -> Iterator[str]:
    yield from _remark("The interventions: a name, and nothing but the difference to the baseline.")
    yield ""
    yield "[interventions.remove-dropout]"
    yield _set("model.dropout", 0.0)
    yield ""
    yield "[interventions.schedule-learning-rate]"
    yield _set("train.learning_rate", draft.chosen.size.peak, "the peak")
    yield 'train.schedule = { kind = "warmup-cosine", warmup = 0.05, floor = 0.1 }   # 5 % up, then down to a tenth'
    for name, place, value, why in (
        ("gradient-clipping", "train.clip_grad_norm", 3.5, ""),
        ("weight-tying", "model.tie_weights", True, "one matrix for both ends, as in GPT-2"),
        ("qkv-bias", "model.qkv_bias", True, "as in GPT-2"),
    ):
        yield ""
        yield f"#[interventions.{name}]"
        yield _off(place, value, why)


def _rest(draft: Draft) -> Iterator[str]:
    yield from _remark("Several at once: the gains need not add up.")
    yield "#[stacks]"
    yield _off("both", ["remove-dropout", "schedule-learning-rate"])
    yield ""
    yield from _remark("Prompts that the model goes on from in training, ten times a run; left out, one prompt.")
    yield "#[samples]"
    yield _off("prompts", ["Every effort moves you", "The"])
    yield _off("tokens", 50, "that follow each")
    yield ""
    yield from _remark("Limits: once one is reached, runs save a checkpoint and wait.")
    yield "#[policy]"
    yield _off("usd_limit", 50.0, "dollars of the whole study; classes without a price are not counted")
    hours = sum(one.hours for one in draft.chosen.hours) * ARMS * len(SEEDS)
    yield _off(
        "hours_limit",
        max(0.5, float(f"{2 * hours:.1g}")),
        "node hours of the whole study; about twice what it takes, or more",
    )


def _machines(draft: Draft) -> Iterator[str]:
    """Tables of machine classes: in force for those that no farm knows yet, off for others. A table has to say all of a
    class that is not built in.
    """
    known, strange = draft.here.known, [name for name in draft.chosen.machines if name in draft.here.strange]
    if strange:
        yield from _remark("Classes that no machine has joined with yet, as they were found here.")
    for name in strange:
        yield f"[machines.{spelled(name)}]"
        yield from _facts(known[name], _set)
        yield from _worth(known[name])
    if not strange:
        one = known[draft.chosen.machines[0]]
        yield from _remark(f"What {one.name} costs and how fast it is, if you know better than farm machines.")
        yield f"#[machines.{spelled(one.name)}]"
        yield from () if one.name in BUILT_IN else _facts(one, _off)
        yield from _worth(one)


def _facts(machine: Machine, spell: Callable[[str, Any, str], str]) -> Iterator[str]:
    yield spell("accelerator", machine.accelerator, "")
    yield spell("accelerators", machine.accelerators, "train one run together")
    yield spell("memory", machine.memory, f"bytes of each: {machine.memory / 2**30:.1f} GiB")
    yield spell("bf16", machine.bf16, "")


def _worth(machine: Machine) -> Iterator[str]:
    yield _off("usd_per_hour", 0.25, "dollars an hour of the whole machine")
    speed = 20 if machine.is_cpu else 20_000
    yield _off("tokens_per_second", speed, "on the 163M baseline: then farm plan knows the hours")


def _remark(text: str) -> Iterator[str]:
    """Words as a comment, folded."""
    line, indent = "#", text[: len(text) - len(text.lstrip())]
    for word in render.line(text).split():
        if len(line) + len(word) > WIDTH:
            yield line
            line = f"# {indent} " if indent else "#"
        line += f" {indent if line == '#' else ''}{word}"
    yield line


def _set(key: str, value: Any, why: str = "", width: int = COLUMN) -> str:
    code = f"{key} = {_value(value)}"
    return f"{code.ljust(width)} # {why}" if why else code


def _off(key: str, value: Any, why: str = "") -> str:
    return f"#{_set(key, value, why, COLUMN - 1)}"


def _value(value: Any) -> str:
    """As a study file spells it; text as TOML has it, whatever characters it holds."""
    if isinstance(value, str):
        return tomli_w.dumps({"a": value}).removeprefix("a = ").rstrip("\n")
    return toml(value)
