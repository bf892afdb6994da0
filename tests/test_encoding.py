"""Text is UTF-8, whatever the locale: who reads or writes text says so. Ruff's PLW1514 sees some of them."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT_CALLS = {"open", "fdopen", "read_text", "write_text", "NamedTemporaryFile", "TextIOWrapper"}
CHILDREN = {"run", "Popen", "check_output"}


def test_every_call_that_reads_or_writes_text_says_in_which_encoding() -> None:
    files = [file for room in ("cli", "farm", "model", "workers", "benchmarks") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 80
    silent = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in undecided(file.read_text("utf-8"))]
    assert silent == []


def undecided(code: str) -> list[int]:
    """The lines of calls that leave the encoding to the locale."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _is_text(call) and "encoding" not in _named(call)]


def _is_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in CHILDREN:
        return _named(call).keys() & {"text", "universal_newlines"} != set()
    if name not in TEXT_CALLS or ast.unparse(call.func) in (
        "os.open",
        "request.urlopen",
        "direct.open",
        "tarfile.open",
        "self._opener.open",
    ):
        return False
    if name == "read_text" and call.args:  # Path.read_text("utf-8")
        return False
    modes = [argument.value for argument in [*call.args, *_named(call).values()] if isinstance(argument, ast.Constant)]
    return not any(isinstance(mode, str) and "b" in mode and len(mode) <= 3 for mode in modes)


def _named(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def test_it_sees_what_is_left_to_the_locale() -> None:
    silent = ['open("x")', "p.read_text()", 'p.write_text("x")', 'os.fdopen(f, "w")', "run(c, text=True)"]
    said = [
        'open("x", "rb")',
        'p.open("ab")',
        'p.read_text(encoding="utf-8")',
        "os.open(p, 1)",
        "run(c)",
        'p.open("xb")',
    ]
    assert undecided("\n".join(silent)) == [1, 2, 3, 4, 5]
    assert undecided("\n".join(said)) == []
