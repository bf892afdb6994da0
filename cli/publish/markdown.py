"""Markdown by a template, into which every value goes as text: whatever a name or a sample holds, it is no markup."""

import re
from importlib.resources import files
from typing import Any

from cli import render

_SPECIAL = re.compile(r"[\\`*_\[\]#|~$&<>@]|://|www\.")
# HTML and links, which a backslash does not stop everywhere.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "://": "&#58;//", "www.": "www&#46;"}


class Markdown(str):
    """What is Markdown already, and goes into a template as it is."""

    __slots__ = ()


def fill(template: str, **values: Any) -> str:
    """A template of this folder, with values."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # its own escapes are HTML's
        finalize=_escaped, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    source = (files("cli.publish") / template).read_text(encoding="utf-8")
    return environment.from_string(source).render(values)


def _escaped(value: Any) -> str:
    return value if isinstance(value, Markdown) else text(value)


def text(value: Any) -> Markdown:
    """A value on one line, as the characters that it is."""
    return Markdown(_SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), render.line(str(value))))


def code(value: Any, language: str = "text") -> Markdown:
    """A value as a block of code, whose fence is longer than any run of backticks in it."""
    told = render.clean(str(value).replace("\r\n", "\n")).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", told)), default=0))
    return Markdown(f"{fence}{language}\n{told}\n{fence}")
