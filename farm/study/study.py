"""A study file: one baseline, named changes to it, seeds and machines. It is read, and examined as a whole.

TOML, at most 1 MiB, data only. See examples/ for two complete ones.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from farm.errors import BadStudy
from farm.study import meant
from farm.study.arms import BASELINE, Arm, UncheckedStudy
from farm.study.endpoint import S3_URI
from farm.study.faults import Fault, explain, full_stop, without
from farm.study.findings import Findings
from farm.study.looks import Looks
from farm.study.machine import declare
from farm.study.recipe import Recipe
from farm.study.toml import name_of, read, tables

MAX_RUNS = 10_000
MAX_FAULTS = 30  # that are told
PAGE = "docs/study.md"
TABLES = {  # -> the heading of its keys
    **{name: name for name in ("study", "model", "train", "data", "evaluation", "stacks", "samples", "policy")},
    "schedule": "trainschedule",
    "baseline": "baseline-and-interventionsname",
    "interventions": "baseline-and-interventionsname",
    "sweeps": "sweepsname",
    "more_seeds": "more_seeds",
    "evaluations": "evaluationsname",
    "machines": "machinesname",
}
SOURCE = re.compile(rf"builtin:python-reference|hf:\w[\w.-]*/\w[\w.-]*|[/~].*|{S3_URI.pattern}", re.DOTALL)


class Study(UncheckedStudy):
    """The unit of submit, progress, cancel, retry and table."""

    @classmethod
    def load(cls, path: Path) -> "Study":
        """Read a study file, or standard input where `path` is "-".

        Raises: BadStudy: it is not there, not a file, not TOML, too large, or says something that makes no sense.
        """
        return Draft.load(path).whole()

    @classmethod
    def parse(cls, text: str, source: str = "study") -> "Study":
        """Read a study from the text of a file. `source` names it in errors.

        Raises: BadStudy
        """
        return cls.build(tables(text, source), source)

    @classmethod
    def build(cls, data: dict[str, Any], source: str = "study") -> "Study":
        """A study from its tables.

        Raises: BadStudy: a line for each fault, which names the field, its value and the right form.
        """
        return _draft(data, source).whole()

    @model_validator(mode="before")
    @classmethod
    def _name_the_machines(cls, data: Any) -> Any:
        """[machines.x] gives its own name; what it leaves out it takes from the built-in class of that name."""
        if not isinstance(data, dict) or not isinstance(data.get("machines"), dict):
            return data
        return data | {"machines": {key: declare(key, value, "the study") for key, value in data["machines"].items()}}

    @field_validator("looks", mode="before")
    @classmethod
    def _are_the_farm_s_own(cls, value: Any, info: ValidationInfo) -> Any:
        """A file's tables are Python's; what the farm has written comes as JSON."""
        if info.mode == "python" and isinstance(value, dict):
            raise ValueError("farm resolve writes this; leave it out")
        return Looks.model_validate_json(json.dumps(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _is_whole(self, info: ValidationInfo) -> Self:
        """Its arms make sense. What does not is added to the `Findings` that the caller gave, or raised."""
        found = info.context if isinstance(info.context, Findings) else Findings()
        found.examine(self)
        if found.lines and found is not info.context:
            raise ValueError("; ".join(found.lines))
        return self


class Draft(NamedTuple):
    """A study file as far as it makes sense: the study (without what is wrong) and the faults.

    `arms` are those that stand, `partial` those of which some values are wrong, but not the precision.
    """

    source: str
    study: Study | None
    arms: tuple[Arm, ...]
    partial: tuple[Arm, ...]
    faults: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> "Draft":
        """Read a study file, or standard input where `path` is "-".

        Raises: BadStudy: there are no tables to speak of.
        """
        return _draft(tables(read(path), name_of(path)), name_of(path))

    def whole(self) -> Study:
        """The study. Raises: BadStudy: something is wrong with it."""
        if self.study is None or self.faults:
            raise self.refusal()
        return self.study

    def refusal(self, more: Iterable[str] = ()) -> BadStudy:
        """The error that says all that is wrong, one line each; `more` are faults that others found."""
        lines = [f"{self.source}: {full_stop(fault)}" for fault in dict.fromkeys([*self.faults, *more])]
        if len(lines) > MAX_FAULTS:
            lines[MAX_FAULTS:] = [f"{self.source}: {len(lines) - MAX_FAULTS:,} more faults."]
        pages = {_page(fault.partition(":")[0]) for fault in self.faults}
        page = pages.pop() if len(pages) == 1 else PAGE
        return BadStudy(lines[0], also=tuple(lines[1:]), field=self.faults[0].split(":")[0], page=page)


def _page(field: str) -> str:
    """The keys of the table that a field belongs to."""
    words = field.split(".")
    table = next((word for word in reversed(words[:-1]) if word in (*Recipe.model_fields, "schedule")), words[0])
    return f"{PAGE}#{TABLES[table]}" if table in TABLES else PAGE


def _draft(data: dict[str, Any], source: str) -> Draft:
    """All that is wrong with a study, as far as each part of it can be judged."""
    found = Findings()
    try:
        study: Study | None = Study.model_validate(data, context=found)
        faults = found.lines
    except RecursionError:
        raise BadStudy(f"{source}: tables nested too deeply.", remedy="See examples/demo.toml.") from None
    except ValidationError as error:
        wrong = explain(error, Study)
        found, study = _what_is_left(data, wrong)
        faults = [*(fault.line for fault in wrong), *found.lines]
    if study and not faults:
        count = sum(len(arm.seeds) * len(arm.machines) for arm in found.arms) * (study.study.reruns + 1)
        faults += [f"{count:,} runs; a study has at most {MAX_RUNS:,}; split it"] if count > MAX_RUNS else []
    faults = [*faults, *_unusable(found.sources)]
    return Draft(source, study, tuple(found.arms), tuple(found.partial), tuple(faults))


def _what_is_left(data: dict[str, Any], wrong: list[Fault]) -> tuple[Findings, Study | None]:
    """Find the other faults of a study, apart from the faults of form in `wrong`."""
    places = [fault.place for fault in wrong]
    doubtful = {str(place[1]) for place in places if place[0] == "interventions" and len(place) > 1}
    doubtful |= {BASELINE} if any(place[0] == "baseline" for place in places) else set()
    doubtful |= {""} if any(place in (("study", "design"), ("study",)) for place in places) else set()
    # Of an evaluation with a fault nothing is judged: what is left of it may be what another scores.
    found, rest = (
        Findings(doubtful),
        without(data, [place[:2] if place[0] == "evaluations" else place for place in places]),
    )
    if any(len(place) == 1 for place in places):  # an intervention may be in a table of another name
        rest.pop("stacks", None)
    rest["study"] = {"name": "unnamed", "machines": ["cpu"]} | rest.get("study", {})
    if any(place[0] == "evaluations" for place in places):  # the one that is meant may be among them
        rest["study"].pop("score", None)
    try:
        study = Study.model_validate(rest, context=found)
    except (ValidationError, RecursionError):  # it does not come apart here
        return Findings(), None
    if any(place[:2] in (("study",), ("study", "machines")) or place[0] == "machines" for place in places):
        found.arms = [arm._replace(machines=()) for arm in found.arms]  # on which it trains is open
        found.partial = [arm._replace(machines=()) for arm in found.partial]
    return found, study


def _unusable(sources: dict[str, str]) -> list[str]:
    """The corpora that no node can have: what can be said before one looks."""
    return [
        f"{where} = {source!r} is not a valid corpus source{meant.source(source)}. Use"
        " 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees"
        for source, where in sources.items()
        if not SOURCE.fullmatch(source)
    ]
