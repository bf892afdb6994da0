"""What the models say: how each arm becomes coherent, checkpoint by checkpoint, arms side by side."""

from collections.abc import Iterator, Mapping, Sequence

from cli import render
from cli.report.material import Material
from cli.report.parts import Part, folded, heading, table, text
from farm.record.sample import Sample
from farm.stats import thin_out
from farm.study.run import Run

ABREAST = 4  # arms in one table
ROWS = 11  # steps that are shown of a prompt


def parts(material: Material) -> Iterator[Part]:
    """For each prompt a row a step and a column an arm: of each arm the first run that has samples, seeds as listed."""
    chosen: dict[str, tuple[Run, Sequence[Sample]]] = {}
    for status in material.statuses:
        if samples := material.samples.get(status.run.id):
            chosen.setdefault(status.run.arm, (status.run, samples))
    if not chosen:
        return
    seeds = (
        ""
        if material.run
        else " Each arm is shown by its first run that has samples: "
        + "; ".join(f"{arm} by {run.id}" for arm, (run, _) in chosen.items())
    )
    _, first = next(iter(chosen.values()))
    how = f"temperature {first[0].temperature:g}, top-k {first[0].top_k}, seed {first[0].seed}"
    yield text(f"Drawn while training, {how}. They are for looking at: the ranking does not depend on them.{seeds}.")
    said = {arm: samples for arm, (_, samples) in chosen.items()}
    for number, prompt in enumerate(dict.fromkeys(one.prompt for samples in said.values() for one in samples)):
        tables = list(_tables(prompt, said))
        if number == 0:
            yield heading(f"“{render.line(prompt)}”")
            yield from tables
        else:
            yield folded(f"“{render.line(prompt)}”", tables)


def _tables(prompt: str, said: Mapping[str, Sequence[Sample]]) -> Iterator[Part]:
    texts = {arm: {one.step: one.text for one in samples if one.prompt == prompt} for arm, samples in said.items()}
    steps = _steps([set(of_arm) for of_arm in texts.values() if of_arm])
    for at in range(0, len(texts), ABREAST):
        arms = list(texts)[at : at + ABREAST]
        rows = [(f"{step:,}", *(render.line(texts[arm].get(step, "")) for arm in arms)) for step in steps]
        yield table(f"What follows “{render.line(prompt)}” after a step", ("step", *arms), rows)


def _steps(of_arms: Sequence[set[int]]) -> list[int]:
    """At most ROWS steps, from the first to the last: those that all arms were sampled at, if there are several."""
    shared = set.intersection(*of_arms)
    return thin_out(sorted(shared if len(shared) > 1 else set.union(*of_arms)), ROWS)
