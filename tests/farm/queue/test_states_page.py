"""docs/state-machine.md is true to the scripts: its states, its verbs, and which of these change a state."""

import re
from pathlib import Path

from farm.queue import queue
from farm.study.run import State

LUA = Path(queue.__file__).parent / "lua"
PAGE = (Path(queue.__file__).parents[2] / "docs" / "state-machine.md").read_text(encoding="utf-8")
EDGES = re.findall(r"^    (\S+) --> (\S+): (.+)$", PAGE, flags=re.MULTILINE)
ROWS = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))

# What transitions.lua has to change a state with, or to end a run.
CHANGES = re.compile(
    r"\b(?:move|settle|requeue|cancel|count_failure|lift|erase|sweep|put_aside)\("
    rf"|'state', '(?:{'|'.join(State)})'"
)


def test_the_diagram_has_every_state_and_only_the_final_ones_end() -> None:
    assert {end for edge in EDGES for end in edge[:2]} - {"[*]"} == set(State)
    assert {start for start, end, _ in EDGES if end == "[*]"} == {state for state in State if state.is_final}


def test_every_verb_of_the_diagram_is_in_the_table() -> None:
    labels = ",".join(re.sub(r"\(.*?\)", "", label) for *_, label in EDGES)
    assert {verb.strip() for verb in labels.split(",")} <= ROWS


def test_the_verbs_of_the_table_are_the_scripts_that_change_a_state() -> None:
    scripts = {path.stem: re.sub(r"--.*", "", path.read_text(encoding="utf-8")) for path in LUA.glob("*.lua")}
    del scripts["transitions"]
    assert {name for name, text in scripts.items() if CHANGES.search(text)} == ROWS
