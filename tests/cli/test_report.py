"""`farm report`: one page, which says what the table says and nothing that it does not."""

import json
import re
import sys
import tomllib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects
import pytest
from browser import chromium
from plotly.offline import get_plotlyjs
from reported import HOSTILE, NAME, STEPS, fill
from results import result, study_text

from cli.render import line
from cli.report import sections
from cli.report.curves import Curve
from cli.report.gather import gather
from cli.report.lines import Drawn, curves
from farm.queue.values import Claim
from farm.record.ledger import Line, Validation, Writer
from farm.site.settings import Settings
from farm.study.run import Attempt
from farm.study.study import Study

from .conftest import Farm

SHOWN = " ".join(line(HOSTILE).split())
LOSSES = {"baseline": 3.69, "remove-dropout": 3.64, "gradient-clipping": 3.70}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text of its sections."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def names(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def trained(farm: Farm, claim: Claim, test_loss: float) -> None:
    """A run that finishes with a ledger: the third step was skipped, and validation came after each fifth."""
    run = claim.run
    attempt = Attempt(run_id=run.id, epoch=1, worker="w", hardware={"host": "there"}, started=1.0, outcome="succeeded")
    folder = farm.store.runs.begin(run, attempt, "tiny")
    with Writer(folder / "ledger.jsonl", 1) as ledger:
        for step in range(1, run.recipe.steps + 1):
            looked = Validation("v", 256, 256 * test_loss, 0.1) if step % 5 == 0 else None
            ledger.append(Line(step, 256, 256 * (5 - step / 10), 1e-3, 1.0, False, step == 3, 0.25, looked))
    farm.queue.finish(claim.lease, result(run, test_loss))


def all_trained(farm: Farm) -> None:
    farm.serve()
    farm.put()
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        trained(farm, claim, LOSSES[claim.run.arm] + claim.run.seeds.init / 1000)


def reported(farm: Farm, *words: str, name: str = "tiny") -> Page:
    answer = farm("report", name, *words, "-o", "page.html")
    assert answer.code == 0, answer.err
    return Page(Path("page.html").read_text(encoding="utf-8"))


def test_the_answer_has_the_verdict_of_every_row_of_the_table(farm: Farm) -> None:
    all_trained(farm)
    text = reported(farm).text
    rows = json.loads(farm("table", "tiny", "--json").out)["data"]
    for row in rows:
        if row["verdict"]:
            ends = f"95 % interval {row['ci_low']:+.4f} to {row['ci_high']:+.4f}"
            by = f"{row['arm']} on cpu is {row['verdict']} than the baseline by {abs(row['delta']):.4f} nats ({ends}"
            assert by in text
    assert {row["verdict"] for row in rows} == {None, "better", "worse"}
    assert "The 9 finished runs took 5.4 min of machine time, $0.00 in all." in text


def test_it_asks_for_nothing_and_every_heading_is_in_the_contents(farm: Farm) -> None:
    all_trained(farm)
    found = reported(farm)
    places = [value for _, attrs in found.elements for name, value in attrs.items() if name in ("src", "href")]
    assert places
    assert all(place and place.startswith("#") for place in places)
    ids = {attrs["id"] for _, attrs in found.elements if attrs.get("id")}
    assert {place[1:] for place in places if place} <= ids
    sections = {attrs["id"] for tag, attrs in found.elements if tag == "section"}
    assert sections <= {place[1:] for place in places if place}
    policy = next(attrs["content"] for tag, attrs in found.elements if attrs.get("http-equiv"))
    assert policy
    assert policy.startswith("default-src 'none'")
    pictures = [attrs for _, attrs in found.elements if attrs.get("role") == "img"]
    assert len(pictures) == found.names().count("figure") >= 6
    assert all(attrs["aria-label"] for attrs in pictures)


def test_what_others_wrote_stays_text(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.69)
    farm.fail(farm.claim(), "worker-died", "</script><img src=x onerror=alert(1)>\x1b[31m")
    found = reported(farm)
    assert "</script><img src=x onerror=alert(1)>" in found.text
    assert "\x1b" not in found.text
    assert "img" not in found.names()


def test_samples_of_the_arms_stand_side_by_side_a_row_a_step(farm: Farm) -> None:
    farm.serve()
    fill(farm.queue, farm.store)
    found = reported(farm, name=NAME)
    assert "Drawn while training, temperature 1, top-k 25, seed 1." in found.text
    arms = [status.run.arm for status in farm.queue.listing.statuses(NAME) if status.result]
    first = list(dict.fromkeys(arms))[:4]
    rows = [
        " ".join(f"at step {step} {arm} says {SHOWN}" for arm in first) for step in range(0, STEPS + 1, STEPS // 10)
    ]
    for step, row in zip(range(0, STEPS + 1, STEPS // 10), rows, strict=True):
        assert f"{step} {row}" in found.text


def test_a_study_without_results_says_what_is_missing(farm: Farm) -> None:
    farm.put()
    text = reported(farm).text
    assert "No run of tiny has finished yet, so there is nothing to compare." in text
    assert "No result yet from 9 of 9 runs: 9 queued." in text
    assert "no run has finished yet" in farm("report", "tiny").err


def test_the_study_file_in_it_queues_the_same_runs(farm: Farm) -> None:
    all_trained(farm)
    reported(farm)
    html = Path("page.html").read_text(encoding="utf-8")
    code = re.search(r"<code>(.*?)</code>", html, re.DOTALL)
    assert code
    parser = Page(code[1])
    again = Study.build(tomllib.loads("".join(parser.texts)))
    assert [run.id for run in again.runs()] == [run.id for run in farm.queue.studies.one("tiny").runs()]


def test_the_question_of_the_study_is_above_its_answer_in_page_and_card(farm: Farm) -> None:
    asked = f"Does it help? {HOSTILE}"
    farm.queue.put(Study.parse(study_text().replace("[study]", f"[study]\nquestion = {json.dumps(asked)}")))
    farm.finish_all()
    assert farm("report", "tiny", "-o", str(farm.folder / "it.html")).code == 0
    page = Page((farm.folder / "it.html").read_text())
    assert 0 < page.text.find(f"Does it help? {SHOWN}") < page.text.find("vs baseline")
    assert "img" not in page.names()
    card = farm("publish", "tiny", "us/tiny", "--dry-run").err
    assert "Does it help?" in card
    assert not [one for one in ("<img", "\u202e") if one in card]


def test_what_an_arm_changes_is_told_with_the_values_of_the_baseline(farm: Farm) -> None:
    farm.put()
    assert farm("report", "tiny", "-o", str(farm.folder / "it.html")).code == 0
    text = Page((farm.folder / "it.html").read_text()).text
    assert "remove-dropout model.dropout: 0.1 -> 0.0" in text
    assert "gradient-clipping train.clip_grad_norm: none -> 3.5" in text


def test_the_study_file_in_it_keeps_what_a_page_cannot_show(farm: Farm) -> None:
    prompt = "\u202eabc\u2066 \U000e0001 caf\u00e9"
    study = Study.parse(f"{study_text()}\n[samples]\nprompts = ['{prompt}']")
    farm.queue.put(study)
    assert farm("report", "tiny", "-o", str(farm.folder / "it.html")).code == 0
    page = (farm.folder / "it.html").read_text()
    file = re.search(r'aria-label="The study file tiny.toml"><code>(.*?)</code>', page, re.DOTALL)
    assert file
    assert Study.parse(unescape(file[1])).samples.prompts == (prompt,)


def test_a_page_without_the_storage_says_that_its_curves_are_the_queues(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.curve(claim, 5.0, 4.0)
    farm.finish(claim, 3.69)
    assert "some curves are those that the queue keeps" in reported(farm).text


def test_a_file_that_cannot_be_written_is_named(farm: Farm) -> None:
    farm.put()
    answer = farm("report", "tiny", "-o", str(farm.folder / "nowhere" / "page.html"))
    assert answer.code != 0
    assert "nowhere/page.html: No such file or directory. Name another file with -o." in answer.err


def test_a_name_that_is_neither_study_nor_run_is_told_with_the_nearest(farm: Farm) -> None:
    farm.put()
    answer = farm("report", "tinny")
    assert answer.code == 3
    assert "there is no run or study 'tinny'; did you mean 'tiny'?" in answer.err
    answer = farm("report", "cpu-baseline")
    assert answer.code == 6
    assert "3 runs begin with 'cpu-baseline'" in answer.err


def test_a_run_says_what_became_of_it_and_where_its_arm_stands(farm: Farm) -> None:
    all_trained(farm)
    run_id = next(status.id for status in farm.queue.listing.statuses() if status.run.arm == "remove-dropout")
    text = reported(farm, name=run_id[:-3]).text
    (row,) = (row for row in json.loads(farm("table", "tiny", "--json").out)["data"] if row["arm"] == "remove-dropout")
    assert f"Run {run_id}" in text
    assert f"remove-dropout on cpu is better than the baseline by {-row['delta']:.4f} nats" in text
    assert "Its model reaches test_loss 3." in text
    assert "gradient-clipping" not in text.partition("The study file tiny.toml")[0].partition("How to")[0]


def test_a_run_that_failed_or_waits_says_so(farm: Farm) -> None:
    farm.put(init=(42,))
    failed, waiting = farm.claim(), farm.queue.listing.statuses()[-1].id
    farm.fail(failed, "nonfinite", "the loss is nan", step=5)
    text = reported(farm, name=failed.run.id).text
    assert "It failed at step 5 of 10, for good: nonfinite: the loss is nan" in text
    assert "failed" in text.partition("Every attempt and how it ended")[2], "as the queue knows it, without a storage"
    assert "It waits, at step 0 of 10." in reported(farm, name=waiting).text


def test_a_study_of_imported_losses_alone_has_a_report_and_its_runs_have_none(farm: Farm) -> None:
    farm.serve()
    Path("losses.csv").write_text(
        "arm,machine,init_seed,train_seed,test_loss\nbaseline,cpu,1,1,3.7\nbaseline,cpu,2,1,3.71\n"
        "other,cpu,1,1,3.6\nother,cpu,2,1,3.62\n"
    )
    assert farm("import", "losses.csv", "--study", "theirs").code == 0
    assert "other on cpu is better than the baseline" in reported(farm, name="theirs").text
    imported = farm.queue.studies.imported("theirs").runs[0].id
    assert "is an imported loss, and this needs a run that the farm trained" in farm("report", imported).err


FIRST = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}


@pytest.mark.parametrize("form", FIRST)
def test_charts_are_files(farm: Farm, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", chromium())
    farm.put(init=(42, 22))
    farm.finish_all()  # no ledger: fewer charts to draw
    answer = farm("report", "tiny", "--format", form, "--json")
    assert answer.code == 0, answer.err
    files = json.loads(answer.out)["data"]["files"]
    assert f"tiny-charts/forest-0.{form}" in files
    assert {path.name for path in Path("tiny-charts").iterdir()} == {Path(file).name for file in files}
    assert all(Path(file).read_bytes().startswith(FIRST[form]) for file in files)


def test_charts_without_a_browser_say_what_to_install(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(farm.folder / "none"))
    farm.put(init=(42, 22))
    farm.finish_all()
    answer = farm("report", "tiny", "--format", "svg")
    assert answer.code == 1
    assert "--format svg needs Chrome or Chromium, and none was found here. On Debian and Ubuntu: apt-get" in answer.err
    assert not Path("tiny-charts").exists()


def test_charts_without_kaleido_say_what_to_install(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)  # as it is where nobody installed it
    monkeypatch.setitem(sys.modules, "kaleido.errors", None)
    farm.put(init=(42, 22))
    farm.finish_all()
    assert (
        "kaleido, which is not installed here. Try: pip install 'farm[report]'"
        in farm("report", "tiny", "--format", "svg").err
    )


def test_plotly_takes_every_chart_as_it_is(farm: Farm) -> None:
    """Figures are written out as plain data: plotly's own classes know each of their keys and values."""
    farm.serve()
    fill(farm.queue, farm.store)
    with pytest.MonkeyPatch.context() as here:
        for name, value in farm.environment.items():
            here.setenv(name, value)
        made = sections.of(gather(Settings.load(), farm.queue, NAME))
    assert {chart.id.partition("-")[0] for chart in made.charts} == {
        "forest",
        "curve",
        "half",
        "interactions",
        "interaction",
        "noise",
        "twins",
        "pareto",
    }
    for chart in made.charts:
        plotly.graph_objects.Figure(chart.figure)


def test_json_says_where_it_is(farm: Farm) -> None:
    all_trained(farm)
    told = json.loads(farm("report", "tiny", "-o", "other.html", "--json").out)
    assert told["schema"] == "farm.report/1"
    assert told["data"] == {
        "study": "tiny",
        "run": None,
        "file": "other.html",
        "bytes": Path("other.html").stat().st_size,
        "finished": 9,
        "runs": 9,
        "whole_curves": True,
    }


def test_curves_of_a_hundred_long_runs_are_small() -> None:
    """And the script that draws them: half a megabyte of 8 is left for tables and texts."""
    random, steps = np.random.default_rng(1), 40_000
    step = np.arange(1.0, steps + 1)

    def drawn(arm: int, seed: int) -> Drawn:
        noise = random.normal(0, 0.1, (3, steps))
        skipped, looked = random.random(steps) < 0.01, np.where(step % 2000 == 0, 3.0, np.nan)
        loss, norm, speed, clipped = 3 + noise[0], 1 + noise[1], 9 + noise[2], noise[1] > 0
        values = Curve(step, step / 1e4, loss, 1 / step, norm, speed, looked, skipped, clipped)
        return Drawn(f"arm-{arm}", "cpu", f"{seed}.{seed}", 98_304, 11.84, 3.5, (), values)

    found = curves([drawn(arm, seed) for arm in range(20) for seed in range(5)])
    figures = [chart.figure for chart in found.charts.values()]
    drawn_from = json.dumps([figures, found.clocks], separators=(",", ":"))
    assert len(drawn_from) + len(get_plotlyjs()) < 7_500_000
