"""The live view of `farm watch`: its lines for a picture and a size; and as a person has it, in a real tmux."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from results import result, tiny_study
from rich.cells import cell_len
from waiting import wait_until

from cli.live.layout import KEYS, Page, Words, lay_out, share, wrap
from cli.live.picture import Bar, Picture, Standing, Waiting, bar, key_of, peaks
from farm.queue.live import Training
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.values import Claim, Point
from farm.record.result import Peaks, Utilisation, utilisation
from farm.site.client import connect
from farm.site.server import Server
from farm.study.run import State

from .conftest import ROOT, Farm

POINT = Point(step=5, loss=2.29031, lr=4e-4, tokens_per_second=512.0)
PEAKS = Peaks(flops_per_second=1e9, bytes_per_second=1e9)
ROW = {"rank": 1, "machine": "cpu", "seeds": "3", "mean": 3.64, "difference": "-0.0500 ± 0.0100", "verdict": "better"}


def picture(queue: Queue, running: int = 2, waiting: int = 3, rows: int = 3) -> Picture:
    """Of runs that are in the queue; each that runs is half done."""
    queue.put(tiny_study(init=tuple(range(40, 60))))
    claims = [queue.claim("cpu", "worker", 60) for _ in range(running)]
    assert all(claims)
    for claim in filter(None, claims):
        queue.renew(claim.lease, 1, job="job", node="node-1")
    statuses = queue.listing.statuses()
    bars = [bar(Training(one, POINT, None), time.time(), 0.5, (3.0, 2.5, 2.0)) for one in statuses[:running]]
    left = [Waiting(one, f"behind {i} others") for i, one in enumerate(statuses[running:][:waiting])]
    table = [ROW | {"label": f"arm-{i}"} for i in range(rows)]
    counts = {State.RUNNING: running, State.QUEUED: len(statuses) - running}
    standing = Standing("tiny", 9, 60, table)
    return Picture("farm watch tiny", time.time(), counts, bars, running, left, standing)


def text(page: Page) -> str:
    return "\n".join(one.plain for one in page.lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 12), (20, 5), (8, 3), (1, 1)])
def test_the_screen_is_never_larger_than_it_is(queue: Queue, width: int, height: int) -> None:
    page = lay_out(picture(queue, running=9, waiting=30, rows=12), width, height)
    assert len(page.lines) == height
    assert max(cell_len(one.plain) for one in page.lines) <= width


def test_80_columns_show_the_loss_the_time_left_and_its_course_and_say_what_is_too_narrow(queue: Queue) -> None:
    page = lay_out(picture(queue), 80, 24)
    lines = text(page).splitlines()
    assert lines[0].startswith("farm watch tiny: 2 running, 58 queued")
    assert lines[1].startswith("── 2 running; too narrow for: tokens/s, lr, MFU, $ ──")
    assert lines[2].split() == ["run", "loss", "val", "loss", "left", "curve"]
    assert lines[3].split() == [">", "baseline", "s40.23", "on", "cpu", "━━━━━─────", "50%", "2.2903", "-", "2s", "█▄▁"]
    assert lines[3].startswith("> ")
    assert lines[4].startswith("  remove-dropout s40.23 on cpu ")
    assert "behind 0 others" in text(page)
    assert "and 55 more: farm runs" in text(page)
    assert "── table of tiny, 9 of 60 runs finished ──" in text(page)
    assert "better" in text(page)
    told = " ".join(line.strip() for line in lines[-4:-1])
    assert told.startswith("> baseline s40.23 on cpu (tiny): step 5 of 10, loss 2.2903, lr 4.00e-04, 512 tokens/s, $0.")
    assert lines[-1] == KEYS


def test_a_wide_screen_leaves_nothing_out(queue: Queue) -> None:
    shown = text(lay_out(picture(queue), 140, 40))
    assert "too narrow" not in shown
    for heading in ("val loss", "tokens/s", "lr", "MFU", "$", "left", "curve"):
        assert heading in shown


def test_more_than_fit_are_counted_and_what_is_too_low_is_named(queue: Queue) -> None:
    many = picture(queue, running=30, waiting=24, rows=20)
    page = lay_out(many._replace(running=many.running[:24]), 80, 24)
    assert "more: farm runs" in text(page)
    assert "more: farm table tiny" in text(page)
    shown = sum("━━━━━───── " in line for line in text(page).splitlines())
    assert f"and {30 - shown} more: farm runs" in text(page)
    assert len(page.runs) < 24
    assert "── 30 running; too low for: 30 queued, table of tiny; too narrow for: " in text(lay_out(many, 80, 7))


def test_the_selected_run_stays_selected_while_it_is_shown(queue: Queue) -> None:
    seen = picture(queue)
    second = seen.running[1].status.run.id
    assert lay_out(seen, 80, 24, second).cursor == second
    assert lay_out(seen._replace(running=seen.running[:1]), 80, 24, second).cursor == seen.running[0].status.run.id
    empty = lay_out(Picture("farm watch", 0.0, {}), 80, 24)
    assert (empty.cursor, empty.runs) == (None, [])
    waits = seen.waiting[2].status.run.id
    assert "behind 2 others" in text(lay_out(seen, 80, 24, waits)).rpartition("> ")[2]


def test_markup_and_control_characters_stay_text(queue: Queue) -> None:
    seen = picture(queue)
    bad = "[bold]drained[/bold] \x1b[31m\x1b]0;title\x07\n[link=x]宽宽"
    why = [Waiting(seen.waiting[0].status, bad)]
    page = lay_out(seen._replace(waiting=why, away=bad, warnings=[bad] * 5), 80, 30, None, Words(bad, [bad]))
    assert "[bold]drained[/bold]" in text(page)
    assert "\x1b" not in text(page)
    assert "and 3 more that cannot be read: farm doctor" in text(page)
    assert max(cell_len(one.plain) for one in page.lines) <= 80
    assert not any(one.spans for one in page.lines)


def test_a_question_takes_the_place_of_the_keys(queue: Queue) -> None:
    page = lay_out(picture(queue), 80, 24, None, Words("Cancel it?", ["cancelled"]))
    assert text(page).splitlines()[-1] == "Cancel it? y/n"
    assert KEYS not in text(page)
    assert text(lay_out(picture(queue), 80, 24, None, Words(None, ["cancelled"]))).splitlines()[-2] == "cancelled"


def test_lines_are_shared_in_turn_and_the_last_block_gives_way_first() -> None:
    assert share(20, [5, 6, 7]) == [5, 6, 7]
    assert share(12, [9, 2, 9]) == [5, 2, 5]
    assert share(7, [9, 4, 9]) == [4, 3, 0]
    assert share(2, [9, 4, 9]) == [0, 0, 0]
    assert wrap("one two three", 7, 2) == ["one two", "three"]
    assert wrap("one two three four", 7, 2) == ["one two", "three …"]


def test_a_run_that_does_not_step_says_why_and_mfu_is_known_from_a_finished_run_of_its_class(queue: Queue) -> None:
    seen = picture(queue, running=1)
    status = seen.running[0].status
    starting = bar(Training(status, None, None), time.time())
    assert (starting.note, starting.loss, starting.usd) == ("starting", None, None)
    assert "starting" in text(lay_out(seen._replace(running=[starting]), 80, 24)).splitlines()[3]
    done = result(status.run, 3.0)
    reached = peaks([done.model_copy(update={"utilisation": Utilisation(peaks=PEAKS, flops=0.5, bandwidth=0.1)})])
    assert peaks([done]) == {}
    known = bar(Training(status, POINT, None), time.time(), reached=reached[key_of(status.run)])
    assert known.mfu == utilisation(PEAKS, status.run.recipe, done.plan, 512.0).flops > 0
    assert isinstance(known, Bar)
    assert "MFU" in text(lay_out(seen._replace(running=[known]), 80, 24)).rpartition("> ")[2]


class Tmux:
    """A terminal of its own: the commands typed into its shell, its keys, its size, and what stands on it."""

    def __init__(self, binary: str, socket: Path):
        self.base = [binary, "-u", "-S", str(socket), "-f", os.devnull]

    def __call__(self, *words: str) -> str:
        done = subprocess.run([*self.base, *words], capture_output=True, encoding="utf-8", check=True, timeout=60)
        return done.stdout

    def press(self, *keys: str) -> None:
        self("send-keys", *keys)

    def type(self, *words: str) -> None:
        self.press("-l", f"clear; {shlex.join(words)}; echo exit $?")
        self.press("Enter")

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def shows(self, *texts: str) -> str:
        """The screen, once it has all of these."""
        try:
            return wait_until(lambda: (seen := self.screen()) * all(one in seen for one in texts), f"{texts}", 90)
        except AssertionError as error:
            raise AssertionError(f"{error}, but:\n{self.screen()}") from None

    def is_clean(self) -> bool:
        """The first screen, a cursor, and lines that the terminal edits and echoes."""
        self.type("stty", "-a")
        modes = self.shows("icanon", "exit 0").split()
        return self("display-message", "-p", "#{alternate_on} #{cursor_flag}") == "0 1\n" and "echo" in modes


@contextmanager
def tmux(farm: Farm) -> Iterator[Tmux]:
    """80 columns by 24 lines, where `farm` is the command."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    binary = shutil.which("tmux", path=places)
    assert binary, "no tmux: make test fetches one; or apt-get install tmux"
    environment = os.environ | farm.environment | {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PS1": "$ "}
    for name in ("COLUMNS", "TMUX", "NO_COLOR"):
        environment.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="tmux-") as folder:  # a short path: a socket's has 107 characters at most
        terminal = Tmux(binary, Path(folder) / "s")
        started = [*terminal.base, "new-session", "-d", "-x", "80", "-y", "24", "sh"]
        subprocess.run(started, env=environment, cwd=farm.folder, check=True, timeout=60)
        try:
            yield terminal
        finally:
            terminal("kill-server")


WATCH = (sys.executable, "-m", "cli.main", "watch")


def begun(farm: Farm) -> Claim:
    """A run that trains for longer than the test takes, with a curve and its log."""
    claim = farm.claim()
    farm.queue.renew(claim.lease, 1, 3600)
    points = [POINT.model_copy(update={"step": step, "loss": 4.0 - step / 4}) for step in range(1, 6)]
    points[3] = points[3].model_copy(update={"validation_loss": 3.1})
    farm.queue.record(claim.lease, points)
    log = farm.store.attempt_folder(claim.run.id, 1) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text(f"the log of {claim.run.arm}\n", encoding="utf-8")
    return claim


def test_a_person_watches_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = Server(tmp_path / "redis")
    url = server.start()
    try:
        with connect(url) as client, tmux(farm := Farm(tmp_path, client, url)) as terminal:
            watch_and_answer(farm, terminal, server)
    finally:
        server.stop()


def watch_and_answer(farm: Farm, terminal: Tmux, server: Server) -> None:
    farm.put(init=(42, 22))
    farm.queue.roster.sight([Node(id="node-1", name="attic", host="h", address="10.0.0.6", units={"cpu": 2})], 3600)
    for loss in (3.7, 3.6):
        farm.finish(farm.claim(), loss)
    one, two = begun(farm), begun(farm)

    terminal.type(*WATCH, "tiny")
    shown = terminal.shows("2 queued, 2 running, 2 succeeded", "behind 1 other", "table of tiny, 2 of 6 runs finished")
    assert "too narrow for: tokens/s, lr, MFU, $" in shown
    assert "50%  2.7500    3.1000" in shown
    assert "█▆▄▂▁" in shown
    assert len(shown.splitlines()) == 24
    assert terminal("display-message", "-p", "#{alternate_on} #{cursor_flag}") == "1 0\n"

    terminal("resize-window", "-x", "140", "-y", "40")
    assert "too narrow" not in terminal.shows("lr  MFU")
    terminal("resize-window", "-x", "60", "-y", "16")
    terminal.shows("too narrow for: val loss")
    terminal("resize-window", "-x", "80", "-y", "24")

    terminal.press("j")
    terminal.shows(f"> {two.run.arm}")
    terminal.press("c")
    terminal.shows(f"Cancel {two.run.arm}")
    terminal.press("n")
    terminal.shows("q quit")
    assert not farm.queue.listing.status(two.run.id).cancelling
    terminal.press("c")
    terminal.shows("y/n")
    terminal.press("y")
    terminal.shows("being cancelled", "farm retry")
    assert farm.queue.listing.status(two.run.id).cancelling

    terminal.press("d")
    terminal.shows("Drain attic")
    terminal.press("y")
    terminal.shows("attic at 10.0.0.6", "farm drain attic", "every node of class cpu is drained")
    assert farm.queue.roster.nodes()[0].drained
    terminal.press("b")
    terminal.shows("no farm is served from this machine")
    terminal.press("l")
    terminal.shows(f"the log of {two.run.arm}", "Ctrl-C returns to the view")
    terminal.press("C-c")
    terminal.shows("2 running", "q quit")

    server.stop()
    assert "50%  2.7500" in terminal.shows("Redis is away"), "the last picture stays"
    server.start()
    wait_until(lambda: "Redis is away" not in terminal.screen(), "it goes on", 90)
    terminal.shows("2 running")

    terminal.press("q")
    terminal.shows("the runs of tiny go on; to watch them again: farm watch tiny", "exit 130")
    assert terminal.is_clean()
    assert farm.queue.listing.counts()[State.RUNNING] == 2

    terminal.type("env", "NO_COLOR=1", *WATCH)
    assert f"> {one.run.arm}" in terminal.shows("farm watch: 2 queued", "q quit")
    assert "\x1b[" not in terminal("capture-pane", "-p", "-e")
    terminal.press("C-z")
    wait_until(lambda: terminal("display-message", "-p", "#{alternate_on}") == "0\n", "the shell has the terminal")
    assert terminal.is_clean()
    terminal.type("fg")
    terminal.shows("farm watch: 2 queued", "q quit")
    terminal.press("C-c")
    terminal.shows("exit 130")
    assert terminal.is_clean()

    terminal.type(sys.executable, "-c", "from cli.live.terminal import Terminal\nwith Terminal(): 1 / 0")
    terminal.shows("ZeroDivisionError", "exit 1")
    assert terminal.is_clean()
