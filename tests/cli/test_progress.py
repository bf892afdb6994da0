"""What `farm watch` shows: bars, as a terminal of 80 columns has them, and lines elsewhere."""

from io import StringIO

import pytest
from results import tiny_study
from rich.console import Console

from cli.progress import Bars, Lines
from farm.queue.queue import Queue


def test_in_a_narrow_terminal_the_bar_gives_way_and_the_numbers_do_not(queue: Queue) -> None:
    bars = Bars(queue)
    bars._bar("run", "gradient-clipping s42.23 on cpu-x1", 100_000, 2_846, "loss 2.2903")
    bars._bar("all", "all", 12, 3, "2 running, 7 queued")
    screen = Console(width=80, file=StringIO())
    screen.print(bars.progress.get_renderable())
    assert " 2846/100000 " in screen.file.getvalue()
    assert "loss 2.2903" in screen.file.getvalue()
    assert "2 running, 7 queued" in screen.file.getvalue()


def test_what_runs_wait_for_is_said_when_it_changes_but_for_its_numbers(
    queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.put(tiny_study(init=(42,)))
    statuses, lines = queue.listing.statuses(), Lines(queue)
    for reason in ("next in line", "backing off 9 s after hung", "backing off 8 s after hung", "no node of class cpu"):
        lines.explain(statuses, {statuses[0].id: reason})
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["backing off 9 s after hung", "no node of class cpu"]
