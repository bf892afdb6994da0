"""The faults of a file of tables: of each the path, the value, and the right form where that is clear."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from farm.errors import in_plain_words, nearest
from farm.study import meant

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """One thing that is wrong: where, pydantic's name for it, and the line that says so, without its full stop."""

    place: Place
    kind: str
    line: str

    def below(self, path: str) -> str:
        """The line, where what was examined is at `path`."""
        return f"{path}.{self.line}" if self.place else f"{path}: {self.line}"

    @property
    def is_of_a_value(self) -> bool:
        """Whether it is of a single value, not of an unknown key or of how the values of a table go together."""
        return len(self.place) > 1 and self.kind != "extra_forbidden"


def explain(error: ValidationError, model: type[BaseModel]) -> list[Fault]:
    """Each fault of a failed validation; its line is `path: what is wrong, the value, the right form`."""
    return [Fault(fault["loc"], fault["type"], _describe(fault, model)) for fault in error.errors()]


def _describe(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    path = [str(part) for part in fault["loc"] if part != "[key]"]
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        meaning = meant.key(path, known, given) or nearest(path[-1], known, listed=True).removesuffix(".")
        return f"{'.'.join(path)}: unknown key{meaning}"
    if kind == "missing" and path[-1].isdecimal():
        return f"{'.'.join(path[:-1])}: has too few values{meant.value(path[-2], given, kind)}"
    if kind == "missing":
        return f"{'.'.join(path)}: is missing{_EXAMPLES.get('.'.join(path), '')}"
    text = _in_plain_words(fault)
    if not path:
        return text
    shown = f", not {_show(given)}" if _is_plain(given) else ""
    return f"{'.'.join(path)}: {text}{shown}{_right_form(path, fault, model)}"


def full_stop(text: str) -> str:
    """`text` as a sentence."""
    return text if text.endswith(("?", ".", "!")) else f"{text}."


def without(tables: Any, places: Sequence[Place]) -> Any:
    """A copy of nested `tables` without what is at `places`; of a list, or below a value, all of it goes."""
    if not isinstance(tables, dict) or not places:
        return tables
    below: dict[str, list[Place]] = {}
    for first, *rest in filter(None, places):  # () is a fault of all tables together
        below.setdefault(str(first), []).append(tuple(part for part in rest if part != "[key]"))
    kept = {key: inner for key, inner in tables.items() if () not in below.get(key, [])}
    return {
        key: without(inner, below.get(key, []))
        for key, inner in kept.items()
        if isinstance(inner, dict) or key not in below
    }


# Types by pydantic's name, and by the name that a person who writes TOML gives them.
_PLAIN_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "too_short": "must name at least {min_length}",
    "too_long": "must name at most {max_length}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:,g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:,}",
    "literal_error": "must be {expected}",
}

_EXAMPLES = {  # of what has no default
    "study": "; a study begins with [study] and its name, as in examples/demo.toml",
    "study.name": '; write name = "my-study" under [study]',
    "study.machines": '; write machines = ["cpu"], or other classes that `farm machines` lists',
}


def _in_plain_words(fault: Mapping[str, Any]) -> str:
    if words := _PLAIN_WORDS.get(fault["type"]):
        return words.format(**fault.get("ctx", {})).replace("True or False", "true or false")
    text = in_plain_words(fault["msg"])
    return text[0].lower() + text[1:] if fault["loc"] else text


def _right_form(path: list[str], fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    name, kind, given = path[-1], fault["type"], fault["input"]
    field = _field_at(model, path)
    if kind == "literal_error" and field:
        expected = _literals(field.annotation)
    else:
        expected = [f"{bound:g}" for bound in fault.get("ctx", {}).values() if isinstance(bound, int | float)]
    if kind == "value_error" and "must be 1 to 64 of a-z" in fault["msg"]:
        kind = "name"
    if kind == "value_error" and "must be a list" in fault["msg"]:
        kind = "tuple_type"
    if path[0] == "interventions" and len(path) <= 2 and kind in ("dict_type", "model_type"):
        return "; write [interventions.NAME] for each, with what it changes below"
    if path == ["machines"]:
        return "; write machines under [study]"
    if field is None and kind == "name":
        return meant.value("the name", given, kind).replace("the name = ", "")
    return meant.value(name, given, kind, is_optional=field is not None and is_optional(field), expected=expected)


def is_optional(field: FieldInfo) -> bool:
    """Whether a field may be unset."""
    return type(None) in get_args(field.annotation)


def _literals(annotation: Any) -> list[str]:
    return [word for word in get_args(annotation) if isinstance(word, str)]


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _show(value: Any) -> str:
    """A value as TOML spells it, cut to a length that fits a line."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The model of the table at `path`."""
    for part in path:
        fields = model.model_fields
        inner = inner_model(fields[part].annotation) if part in fields else model
        model = inner or model
    return model


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a table at `path` may have."""
    return [*_model_at(model, path).model_fields]


def _field_at(model: type[BaseModel], path: list[str]) -> FieldInfo | None:
    return _model_at(model, path[:-1]).model_fields.get(path[-1])


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: as it is, or in a table or list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    candidates = [found for part in get_args(annotation) if (found := inner_model(part))]
    return candidates[-1] if candidates else None
