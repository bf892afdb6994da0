"""`farm report` as a reader has it: in a real browser, on a desk and on a phone, by keyboard, by ear and on paper."""

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

import pytest
import reported
from browser import Browser, Tab
from pypdf import PdfReader
from typer.testing import CliRunner

from cli.main import app
from cli.render import clean
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.reindex import reindex
from farm.site.client import connect

RUN = "8xa100m40-remove-dropout-s42"  # enough of its id
SEEN = clean(reported.HOSTILE)  # of what a machine said of itself


@pytest.fixture(scope="module")
def pages(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of a study and that of one of its runs."""
    folder = tmp_path_factory.mktemp("pages")
    storage = folder / "storage"
    places = {"HOME": str(folder), "FARM_HOME": str(folder), "FARM_STORAGE": str(storage), "FARM_REDIS_URL": redis_url}
    with connect(redis_url) as client:
        reindex(Store(storage), Queue(client), is_own=True)
        reported.fill(Queue(client), Store(storage))
        for name, file in ((reported.NAME, "study.html"), (RUN, "run.html")):
            said = CliRunner().invoke(app, ["report", name, "-o", str(folder / file)], env=places)
            assert said.exit_code == 0, said.stderr
        client.flushdb()
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(pages: Path, browser: Browser) -> Iterator[Tab]:
    """The study's report, as it opens."""
    with browser.tab() as tab:
        tab.open(pages / "study.html")
        assert tab.errors == []
        yield tab


@pytest.fixture
def study(page: Tab) -> Iterator[Tab]:
    """The same, on a desk, with every control as it was at first."""
    page.look()
    yield page
    page.evaluate("form.reset(), redraw(isCurves)")


def test_it_draws_what_is_near_and_the_rest_when_it_comes_near(page: Tab) -> None:
    drawn = "plots.filter((plot) => plot.querySelector('svg')).length"
    assert page.evaluate(f"{drawn} < plots.length")
    page.evaluate("document.getElementById('curve-loss').scrollIntoView()")
    there = "document.querySelector('#curve-loss svg') ? resolve() : setTimeout(wait, 20)"
    page.evaluate(f"new Promise((resolve) => {{ const wait = () => {there}; wait(); }})")
    page.evaluate("Promise.all(plots.map(draw)).then(() => null)")
    assert page.evaluate(f"{drawn} === plots.length")
    assert page.errors == []


def test_no_request_leaves_the_page_and_no_script_fails(pages: Path, page: Tab) -> None:
    asked = [url for url in page.requests if not url.startswith("data:")]  # plotly draws a picture of its own
    assert asked == [(pages / "study.html").as_uri()]
    assert page.errors == []


def test_a_screen_reader_hears_headings_in_order_landmarks_tables_and_charts(page: Tab) -> None:
    heard = page.heard()
    levels = [told["level"] for role, _, told in heard if role == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {"banner", "navigation", "main", "region", "form"} <= {role for role, *_ in heard}
    sections = [name for role, name, told in heard if role == "heading" and told["level"] == 2]
    assert sections == [
        "The answer",
        "The ranking",
        "Curves",
        "Effects and interactions",
        "Noise and hardware",
        "What a loss costs",
        "Samples",
        "Scores",
        "Where the numbers come from",
    ]
    roles = ("table", "image", "combobox", "checkbox", "button")
    named = {role: [name for one, name, _ in heard if one == role] for role in roles}
    assert "Ranking on 8xa100m40 by test_loss; lower is better" in named["table"]
    assert any(name.startswith("Differences to the baseline on 8xh100m80") for name in named["image"])
    assert len(named["image"]) == page.evaluate("plots.length")
    assert {"over", "coloured by"} < {name.strip() for name in named["combobox"]}
    assert all(name for names in named.values() for name in names)
    assert page.evaluate("document.documentElement.lang") == "en"


def test_every_line_of_the_contents_leads_somewhere(page: Tab) -> None:
    leads = "[...document.querySelectorAll('nav a')].map((a) => Boolean(document.querySelector(a.hash)))"
    found = page.evaluate(leads)
    assert len(found) > 15
    assert all(found)


AXES = {"steps": 120, "tokens": 120 * 256, "hours": 0.1, "$": 2}  # what a run on 8xa100m40 comes to


@pytest.mark.parametrize(("axis", "end"), AXES.items())
def test_curves_can_be_drawn_over_other_things(study: Tab, axis: str, end: float) -> None:
    study.evaluate(f"form.elements.x.value = '{axis}', form.dispatchEvent(new Event('change')), null")
    title, last = study.evaluate(
        "(({layout, data}) => [layout.xaxis.title.text, Math.max(...data[1].x)])(document.getElementById('curve-loss'))"
    )
    assert title == axis
    assert last == pytest.approx(end, rel=0.02)


def test_boxes_change_what_is_drawn(study: Tab) -> None:
    loss = "document.getElementById('curve-loss')"
    shown = f"{loss}.data.filter((trace) => trace.visible).map((trace) => trace.meta)"

    def kinds(script: str = "null") -> set[str]:
        study.evaluate(script)
        return {meta["kind"] for meta in study.evaluate(shown)}

    assert kinds() == {"mean", "band", "alone", "mark"}
    assert kinds("form.elements.raw.click()") >= {"raw"}
    assert kinds("form.elements.runs.click()") >= {"run"}
    assert not kinds("form.elements.band.click()") & {"band"}
    assert not kinds("form.elements.marks.click()") & {"mark"}
    study.evaluate("form.elements.log.click()")
    assert study.evaluate(f"{loss}.layout.yaxis.type") == "log"
    study.evaluate("form.elements.none.click(), form.querySelector('[value=qkv-bias]').click()")
    assert {meta["arm"] for meta in study.evaluate(shown)} == {"qkv-bias"}


def test_marks_say_what_happened_and_where(page: Tab) -> None:
    marks = page.evaluate(
        "document.getElementById('curve-loss').data.filter((trace) => trace.meta.kind === 'mark')"
        ".flatMap((trace) => trace.customdata.map((step) => [trace.hovertemplate.split(',')[0], trace.meta.arm, step]))"
    )
    assert ["skipped step", "baseline", 3] in marks
    assert ["spike", "baseline", 70] in marks
    assert ["attempt 1 lost (lease-expired); attempt 2 went on", "remove-dropout", 60] in marks


def test_a_keyboard_reaches_every_control_and_shows_where_it_is(study: Tab) -> None:
    study.evaluate("document.querySelector('#curves-heading').scrollIntoView(), form.elements.x.focus(), null")
    study.press("ArrowDown")
    assert study.evaluate("form.elements.x.value") == "tokens"
    reached = set()
    for _ in range(len(("colour", "skip", "logx", "log", "raw", "band", "runs", "marks"))):
        study.press("Tab")
        name, outline = study.evaluate(
            "[document.activeElement.name, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.add(name)
        assert outline == "solid"
    assert reached == {"colour", "skip", "logx", "log", "raw", "band", "runs", "marks"}
    study.press("Tab")  # on to what is folded
    study.press("Enter")
    assert study.evaluate("form.querySelector('details').open")
    study.press("Enter")


def test_what_a_machine_says_of_itself_stays_text(page: Tab) -> None:
    assert SEEN in page.evaluate("document.getElementById('provenance').textContent")
    assert page.evaluate("document.querySelectorAll('img, main script:not([type])').length") == 0
    assert page.evaluate("[...document.body.textContent].filter((c) => c === '\\x1b' || c === '\\u202e').length") == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_there_is_something_to_see_by_day_and_by_night(page: Tab, browser: Browser, width: int) -> None:
    page.look(width, 800)
    page.evaluate("document.getElementById('forest-0').scrollIntoView(), null")
    for scheme, ink in (("light", "rgb(26, 26, 26)"), ("dark", "rgb(230, 230, 230)")):
        page.look(width, 800, prefers_color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("getComputedStyle(document.querySelector('#forest-0 .xtick text')).fill") == ink
        with browser.tab() as empty:
            count, paper = empty.colours(page.picture())
        assert count > 50
        assert max(paper) < 60 if scheme == "dark" else min(paper) > 200


def test_paper_has_all_of_it_within_its_edges(page: Tab) -> None:
    written = " ".join(sheet.extract_text() for sheet in PdfReader(io.BytesIO(page.pdf())).pages)
    text = " ".join(normalize("NFKC", written).split())  # without the ligatures of print
    assert "remove-dropout on 8xa100m40 is better than the baseline by 0.05" in text
    assert "difference to the baseline (nats)" in text, "the title of a chart's axis"
    assert "mean over seeds" in text, "what is folded on a screen is not on paper"
    assert page.evaluate("document.querySelectorAll('main > section > details[open]').length") == 0
    assert page.errors == []


def test_a_run_has_a_page_of_its_own(pages: Path, browser: Browser) -> None:
    with browser.tab() as tab:
        tab.open(pages / "run.html")
        tab.evaluate("Promise.all(plots.map(draw)).then(() => null)")
        text = tab.evaluate("document.body.innerText")
        assert tab.errors == []
    assert "A run of arm remove-dropout of study crossed on 8xa100m40, seeds 42" in text
    assert "remove-dropout on 8xa100m40 is better than the baseline" in text
    assert "model.dropout: 0.1 -> 0.0" in text
    assert "lease-expired" in text
    assert "qkv-bias on" not in text, "another arm is no part of it"
