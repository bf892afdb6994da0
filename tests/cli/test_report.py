"""`farm report`: one page, which says what the table says and nothing that it does not."""

import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from results import result

from cli.report.curves import Curve
from cli.report.lines import Drawn, curves
from farm.queue.values import Claim
from farm.record.ledger import Line, Validation, Writer
from farm.study.run import Attempt
from farm.study.study import Study

from .conftest import Farm

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


def reported(farm: Farm, *words: str) -> Page:
    answer = farm("report", "tiny", *words)
    assert answer.code == 0, answer.err
    return Page(Path("tiny.html").read_text(encoding="utf-8"))


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
    sections = {attrs["id"] for tag, attrs in found.elements if tag == "section"}
    assert sections == {place[1:] for place in places if place}
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


def test_a_study_without_results_says_what_is_missing(farm: Farm) -> None:
    farm.put()
    text = reported(farm).text
    assert "No run of tiny has finished yet, so there is nothing to compare." in text
    assert "No result yet from 9 of 9 runs: 9 queued." in text
    assert "no run has finished yet" in farm("report", "tiny").err


def test_the_study_file_in_it_queues_the_same_runs(farm: Farm) -> None:
    all_trained(farm)
    reported(farm)
    html = Path("tiny.html").read_text(encoding="utf-8")
    code = re.search(r"<code>(.*?)</code>", html, re.DOTALL)
    assert code
    parser = Page(code[1])
    again = Study.build(tomllib.loads("".join(parser.texts)))
    assert [run.id for run in again.runs()] == [run.id for run in farm.queue.studies.one("tiny").runs()]


def test_a_page_without_the_storage_says_that_its_curves_are_the_queues(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.curve(claim, 5.0, 4.0)
    farm.finish(claim, 3.69)
    assert "the curves are those that the queue keeps" in reported(farm).text


def test_a_file_that_cannot_be_written_is_named(farm: Farm) -> None:
    farm.put()
    answer = farm("report", "tiny", "-o", str(farm.folder / "nowhere" / "page.html"))
    assert answer.code != 0
    assert "nowhere/page.html: No such file or directory. Name another file with -o FILE." in answer.err


def test_json_says_where_it_is(farm: Farm) -> None:
    all_trained(farm)
    told = json.loads(farm("report", "tiny", "-o", "other.html", "--json").out)
    assert told["schema"] == "farm.report/1"
    assert told["data"] == {
        "study": "tiny",
        "file": "other.html",
        "bytes": Path("other.html").stat().st_size,
        "finished": 9,
        "runs": 9,
        "whole_curves": True,
    }


def test_curves_of_a_hundred_long_runs_are_small() -> None:
    """Under 3 MB beside plotly's script of 5: 8 MB in all."""
    random, steps = np.random.default_rng(1), 40_000
    step = np.arange(1.0, steps + 1)

    def drawn(arm: int, seed: int) -> Drawn:
        noise = random.normal(0, 0.1, (3, steps))
        never = np.zeros(steps, dtype=bool)
        values = Curve(step, step / 1e4, 3 + noise[0], 1 / step, 1 + noise[1], 9 + noise[2], 3 + noise[0], never)
        return Drawn(f"arm-{arm}", "cpu", f"{seed}.{seed}", 98_304, 11.84, 3.5, (), values)

    charts = curves([drawn(arm, seed) for arm in range(20) for seed in range(5)])
    assert sum(len(chart.figure.to_json()) for chart in charts.values()) < 3_000_000
