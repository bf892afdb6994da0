"""Forms: what others wrote is shown as it is, on one line, and no program takes it for more than text."""

import csv
import io

import pytest

from cli import render
from cli.render import Column, Format, Sheet

COLUMNS = (Column("name", "name"), Column("value", "value", render.loss, is_number=True))
HOSTILE = '=HYPERLINK("x")\t[bold]\n\x1b[31m\x1b]0;title\x07'


def printed(capsys: pytest.CaptureFixture[str], wanted: Format, *names: str) -> str:
    data = [{"name": name, "value": -0.5} for name in names]
    render.emit(Sheet("farm.test/1", COLUMNS, data), wanted)
    return capsys.readouterr().out


def test_tsv_keeps_one_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, Format.TSV, HOSTILE, "plain")
    assert [len(line.split("\t")) for line in out.splitlines()] == [2, 2, 2]
    assert "\x1b" not in out
    assert "\x07" not in out


READERS = {Format.CSV: csv.excel, Format.TSV: csv.excel_tab}


def rows(capsys: pytest.CaptureFixture[str], form: Format, *names: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(printed(capsys, form, *names)), READERS[form]))[1:]


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("start", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "＝1+1", "-"])  # noqa: RUF001
def test_no_cell_is_a_formula(capsys: pytest.CaptureFixture[str], form: Format, start: str) -> None:
    assert rows(capsys, form, start) == [[f"'{start}", "-0.5"]]


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("number", ["-1", "+0.5", "-1e-05", "-1,234.5"])
def test_a_number_that_is_a_text_stays_a_number(capsys: pytest.CaptureFixture[str], form: Format, number: str) -> None:
    assert rows(capsys, form, number) == [[number, "-0.5"]]


@pytest.mark.parametrize("form", READERS)
def test_a_formula_cannot_hide_behind_control_characters(capsys: pytest.CaptureFixture[str], form: Format) -> None:
    assert [row[0][0] for row in rows(capsys, form, "\x00=1+1", "\t=1+1", "\r=1+1")] == ["'"] * 3


def test_markdown_and_latex_escape_their_marks(capsys: pytest.CaptureFixture[str]) -> None:
    assert r"a\|b\_c" in printed(capsys, Format.MD, "a|b_c")
    assert r"50\% \& \textbackslash{}x\_y \$1 \#" in printed(capsys, Format.LATEX, r"50% & \x_y $1 #")


def test_a_terminal_table_takes_no_text_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    render.emit(Sheet("farm.test/1", COLUMNS, [{"name": "[bold]x[/bold] :smile:", "value": None}]))
    out = capsys.readouterr().out
    assert "[bold]x[/bold] :smile:" in out
    assert "-" in out


def test_a_long_sheet_is_cut_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = Sheet("farm.test/1", COLUMNS, [{"name": f"n{i}", "value": 0.0} for i in range(9)], shown=3)
    render.emit(sheet)
    assert len(capsys.readouterr().out.splitlines()) == 10
    monkeypatch.setattr(render, "is_terminal", lambda: True)
    render.emit(sheet)
    said = capsys.readouterr()
    assert "n2" in said.out
    assert "n3" not in said.out
    assert said.err == "and 6 more\n"


PROSE = (Column("name", "name"), Column("spare", "spare", is_spare=True), Column("why", "why", is_prose=True))
ROW = {"name": "8xa100m40-remove-dropout-s42.23-1f3a9c2e", "spare": "interventions", "why": "a reason " * 20}


@pytest.mark.parametrize(
    ("width", "name_is_whole", "keeps_spare"),
    [(200, True, True), (90, True, True), (80, True, False), (40, False, False)],
)
def test_prose_is_folded_before_a_column_is_left_out_and_names_last(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    name_is_whole: bool,
    keeps_spare: bool,
) -> None:
    monkeypatch.setattr(render, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    render.emit(Sheet("farm.test/1", PROSE, [ROW]))
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= width
    assert (ROW["name"] in out, ROW["spare"] in out) == (name_is_whole, keeps_spare)
    assert ("too narrow for: spare" in err) == (not keeps_spare)
    assert out.count("reason") == 20


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0.4, "0s"), (59, "59s"), (60, "1m"), (61, "1m1s"), (3600, "1h"), (11448, "3h10m"), (90000, "1d1h")],
)
def test_durations_have_two_units(seconds: float | None, shown: str) -> None:
    assert render.duration(seconds) == shown


def test_a_sparkline_spans_low_to_high_and_fits() -> None:
    assert render.sparkline([3, 2, 1]) == "█▄▁"
    assert render.sparkline([1.0]) == render.sparkline([7.0]) == "▁"
    assert render.sparkline([]) == ""
    assert len(render.sparkline(list(range(5000)))) == 60


def test_a_probability_is_never_0_in_tsv(capsys: pytest.CaptureFixture[str]) -> None:
    columns = (Column("p", "p", render.probability, figures=3), Column("x", "x", digits=3))
    render.emit(Sheet("farm.test/1", columns, [{"p": 1.93424e-11, "x": 1e-9}, {"p": 0.0416666, "x": 0.0416666}]))
    assert capsys.readouterr().out.splitlines()[1:] == ["1.93e-11\t0.0", "0.0417\t0.042"]
