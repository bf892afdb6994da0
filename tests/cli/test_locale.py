"""Files are UTF-8 under every locale: names, questions and settings that ASCII cannot spell."""

import json
from pathlib import Path

import pytest

from .conftest import Farm

# The second is how an old system's locale looks to Python: what is not told otherwise is read and written as ASCII.
# The third is the first by another name.
LOCALES = [
    pytest.param({"LC_ALL": "C"}, id="C"),
    pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, id="ASCII"),
    pytest.param({"LC_ALL": "POSIX"}, id="POSIX", marks=pytest.mark.long),
]


@pytest.fixture
def foreign(farm: Farm) -> Farm:
    """A farm whose settings and study are full of other alphabets."""
    farm.store.root.mkdir()
    (farm.folder / "farm.toml").write_text("# Größe: 数\n[machines.home]\nusd_per_hour = 1.0\n", encoding="utf-8")
    text = Path(farm.file()).read_text(encoding="utf-8")
    text = text.replace('name = "tiny"', 'name = "tiny"\nquestion = "Größe oder 数?"')
    (farm.folder / "größe-数.toml").write_text(text, encoding="utf-8")
    return farm


@pytest.mark.parametrize("locale", LOCALES)
def test_the_locale_changes_nothing_that_is_kept(foreign: Farm, locale: dict[str, str]) -> None:
    assert run(foreign, "plan", "größe-数.toml", **locale)["total"]["runs"] == 9
    assert len(run(foreign, "submit", "größe-数.toml", **locale)["data"]) == 9
    assert foreign.queue.studies.one("tiny").study.question == "Größe oder 数?"
    kept = json.loads((foreign.store.root / "studies" / "tiny.json").read_text(encoding="utf-8"))
    assert kept["study"]["question"] == "Größe oder 数?"
    assert len(run(foreign, "runs", "tiny", **locale)["data"]) == 9


def run(farm: Farm, *words: str, **environment: str) -> dict:
    """What a command says in JSON, under another locale."""
    with farm.start(*words, "--json", LANG="", LANGUAGE="", **environment) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)
