"""The pages that are made from the program: fresh, whole, and with examples that work."""

import tomllib

import pytest

from cli.main import COMMANDS
from cli.reference import DOCS, HIDDEN, PAGES, SECTIONS, TABLES, keys
from cli.rooms import PACKAGES, ROOT
from farm.study.form import Change, Stack, StudyTable
from farm.study.machine import Machine
from farm.study.study import Study

NEEDED: dict[object, dict[str, object]] = {  # beside the key that is looked at
    StudyTable: {"name": "s", "machines": ["cpu"]},
    Stack: {"of": ["a"]},
    Machine: {"name": "m", "usd_per_hour": 1.0},
    "reduction": {"canonical_microbatch": 4},
    "revision": {"source": "hf:a/b"},
}
ROWS = [(model, *row) for title, _, model in SECTIONS for row in keys(title, model)]


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_fresh(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page](), "stale: make docs"


def test_every_key_of_a_study_is_there() -> None:
    """Those of the tables that a study holds, and those of a recipe, which an intervention holds as plain tables."""
    told = {title for title, *_ in SECTIONS}
    tables = {"[study]", "[stacks]", "[policy]", "[samples]", "[sweeps.NAME]", "[evaluations.NAME]"}
    assert tables | TABLES <= told
    tables = {
        "study",
        "baseline",
        "interventions",
        "sweeps",
        "stacks",
        "more_seeds",
        "evaluations",
        "machines",
        "policy",
        "samples",
    }
    assert Study.model_fields.keys() == tables | {"looks"}, "which farm resolve writes, and no file"
    assert "[more_seeds]" in PAGES["study.md"]()
    for title, _, model in SECTIONS:
        left_out = {path.rpartition(".")[2] for path in HIDDEN if path.startswith(f"{title}.")}
        names = {row[0].strip("`") for row in keys(title, model)}
        assert names == model.model_fields.keys() - left_out - (TABLES if issubclass(model, Change) else set())


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0].__name__}.{row[1].strip('`')}" for row in ROWS])
def test_a_key_says_what_it_is_and_its_example_is_another_value_that_it_takes(row: tuple) -> None:
    model, key, kind, default, meaning, example = row
    name = key.strip("`")
    assert kind
    assert default
    assert len(meaning) > 5
    value = tomllib.loads(example.strip("`"))[name]
    is_only = kind == f"`{example.strip('`').partition(' = ')[2]}`"
    taken = getattr(model.model_validate(NEEDED.get(model, {}) | NEEDED.get(name, {}) | {name: value}), name)
    assert taken != model.model_fields[name].default or is_only


def test_the_example_of_the_page_is_a_study() -> None:
    text = PAGES["study.md"]().partition("```toml\n")[2].partition("```")[0]
    assert [arm.name for arm in Study.parse(text).arms()] == ["baseline", "remove-dropout", "schedule", "both"]


def test_every_command_is_on_its_page() -> None:
    page = PAGES["commands.md"]()
    assert all(f"### `farm {name}`\n" in page for name in COMMANDS)


def test_every_file_says_what_it_is_for() -> None:
    page = PAGES["rooms.md"]()
    assert "|  |" not in page
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    assert all(f"(../{path.relative_to(ROOT)})" in page for path in files)
