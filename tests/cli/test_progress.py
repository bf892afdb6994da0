"""The bars of `farm watch`, as a terminal of 80 columns has them."""

from io import StringIO

from rich.console import Console

from cli.progress import Bars
from farm.queue import Queue


def test_in_a_narrow_terminal_the_bar_gives_way_and_the_numbers_do_not(queue: Queue) -> None:
    bars = Bars(queue)
    bars._bar("run", "gradient-clipping s42.23 on cpu-x1", 100_000, 2_846, "loss 2.2903")
    bars._bar("all", "all", 12, 3, "2 running, 7 queued")
    screen = Console(width=80, file=StringIO())
    screen.print(bars.progress.get_renderable())
    assert " 2846/100000 " in screen.file.getvalue()
    assert "loss 2.2903" in screen.file.getvalue()
    assert "2 running, 7 queued" in screen.file.getvalue()
