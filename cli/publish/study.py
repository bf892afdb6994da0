"""A study as a dataset repo: its report, its ranking, its file, and a card."""

import json
from collections.abc import Iterator, Sequence

from cli import render
from cli.cells import machine as called
from cli.publish.card import public, ranking_cells
from cli.publish.collection import Member
from cli.publish.markdown import Markdown, fill, text
from cli.publish.parcel import MAIN, Branch
from cli.report.material import Material
from cli.report.provenance import changes
from cli.report.words import answer
from farm.errors import NotFound
from farm.study.arms import BASELINE
from model.hub import CARD, Content


def branch(material: Material, repo: str, hub: str = "", models: Sequence[Member] = ()) -> Branch:
    """The files of the repo; the card has links to the published `models` on the `hub`.

    Raises: NotFound: there is no result to publish.
    """
    if not material.table.rows:
        raise NotFound(
            f"{material.name}: {material.passed.none_finished}; nothing was sent.",
            remedy=f"Wait for one: farm watch {material.name}",
        )
    from cli.report.page import page

    # The page says when it was made. That of its newest result makes the same page of the same study.
    ended = [one.ended for one in material.statuses if one.ended]
    material = material._replace(when=max(ended, default=0.0))
    table = {"schema": "farm.table/1", "data": [row.model_dump(mode="json") for row in material.table.rows]}
    contents: dict[str, Content] = {
        CARD: card(material, repo, hub, models).encode(),
        "report.html": page(material).encode(),
        "ranking.json": (json.dumps(table, indent=2) + "\n").encode(),
    }
    if material.file:
        contents["study.toml"] = material.file.encode()
    facts = {"of": f"study {material.name}", "runs": [status.id for status in material.statuses if status.result]}
    return Branch(MAIN, contents, facts)


def card(material: Material, repo: str, hub: str, models: Sequence[Member]) -> str:
    """The README.md of the dataset repo."""
    from huggingface_hub import DatasetCard, DatasetCardData

    title = repo.partition("/")[2]
    data = DatasetCardData(tags=["farm", "ablation", "gpt2"], pretty_name=title, viewer=False)
    finished = sum(status.result is not None for status in material.statuses)
    values = {
        "title": title,
        "study": material.name,
        "question": material.question,
        "runs": f"{finished:,} of {len(material.statuses):,} runs are finished",
        "answer": list(answer(material)),
        "rankings": list(_rankings(material)),
        "remarks": [render.line(remark).strip() for remark in material.remarks],
        "changes": list(_changes(material)),
        "models": [(Markdown(f"[{text(one.repo)}]({hub}/{one.repo})"), one.note) for one in models],
    }
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{fill('study.md', **values)}"))


def _rankings(material: Material) -> Iterator[tuple[str, list[list[str]]]]:
    rows = material.table.rows
    for evaluation, machine in dict.fromkeys((row.evaluation, row.machine) for row in rows):
        here = [row for row in rows if (row.evaluation, row.machine) == (evaluation, machine)]
        heading = f"On {called(machine)}, by {here[0].score} ({evaluation}); {here[0].direction} is better"
        yield heading, [ranking_cells(row) for row in here]


def _changes(material: Material) -> Iterator[tuple[str, str]]:
    arms = {arm.name: arm.recipe for arm in material.study.arms()} if material.study else {}
    if BASELINE in arms:
        for name, recipe in arms.items():
            changed = [f"{path}: {was} → {now}" for path, was, now in changes(arms[BASELINE], recipe, public)]
            yield name, "; ".join(changed) or "nothing"
