"""The live view at work: draws what was read, answers keys, and gives the terminal back."""

import threading

from rich.text import Text

from cli.live import deeds
from cli.live.deeds import Deed
from cli.live.layout import Page, Words, lay_out
from cli.live.picture import Picture
from cli.live.reading import Reader
from cli.live.terminal import Terminal
from farm.errors import FarmError
from farm.queue.live import Scope
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site.settings import Settings

TICK_SECONDS = 0.2  # within which a key, a new size and a new picture are answered
STEPS = {"up": -1, "down": 1}


def show(settings: Settings, queue: Queue, scope: Scope, title: str) -> bool:
    """Show runs until none of them goes on by itself, which is True, or a person has seen enough.

    Raises: FarmError: what is read cannot be read any more; Redis may be away for a while. KeyboardInterrupt
    """
    reader = Reader(settings, queue, scope, title)
    reader.start()
    try:
        with Terminal() as terminal:
            return _View(settings, queue, reader, terminal).run()
    finally:
        reader.stop()


class _View:
    def __init__(self, settings: Settings, queue: Queue, reader: Reader, terminal: Terminal):
        self.settings, self.queue, self.reader, self.terminal = settings, queue, reader, terminal
        self.cursor: str | None = None
        self.asked: Deed | None = None
        self.page = Page([], [], None)
        self.drawn: tuple[tuple[int, int], list[Text]] | None = None

    def run(self) -> bool:
        """Until the runs are over (True), or `q` or the end of the terminal (False)."""
        while not self.reader.is_over:
            picture = self.reader.picture()
            self._draw(picture)
            try:
                for key in self.terminal.keys(TICK_SECONDS):
                    if key == "q" and not self.asked:
                        return False
                    self._answer(key, picture)
            except EOFError:
                return False
        return True

    def _draw(self, picture: Picture) -> None:
        size = self.terminal.size
        self.reader.rows = size[1]
        words = Words(self.asked.question if self.asked else None, self.terminal.said.lines)
        self.page = lay_out(picture, *size, self.cursor, words)
        self.cursor = self.page.cursor
        if self.drawn != (size, self.page.lines):
            self.terminal.draw(self.page.lines)
            self.drawn = size, self.page.lines

    def _answer(self, key: str, picture: Picture) -> None:
        self.terminal.said.lines.clear()
        try:
            if self.asked:
                deed, self.asked = self.asked, None
                if key in "yY":
                    threading.Thread(target=self._do, args=(deed,), daemon=True).start()
            elif key in STEPS and self.page.runs and self.cursor in self.page.runs:
                at = self.page.runs.index(self.cursor) + STEPS[key]
                self.cursor = self.page.runs[max(0, min(at, len(self.page.runs) - 1))]
            else:
                self._act(key, self._selected(picture))
        except FarmError as error:
            self._say(str(error))

    def _act(self, key: str, status: Status | None) -> None:
        """Raises: FarmError: why not."""
        if key == "b":
            self._say(deeds.dashboard(self.settings, status))
        elif status and key == "c":
            self.asked = deeds.cancelling(self.settings, self.queue, status)
        elif status and key == "d":
            self.asked = deeds.draining(self.queue, status)
        elif status and key == "l":
            self.drawn = None
            with self.terminal.aside():
                deeds.open_log(self.settings, self.queue, status)

    def _selected(self, picture: Picture) -> Status | None:
        shown = [*(one.status for one in picture.running), *(one.status for one in picture.waiting)]
        return next((status for status in shown if status.run.id == self.cursor), None)

    def _do(self, deed: Deed) -> None:
        """Beside the view: a farm that is asked for it may take a while."""
        try:
            self._say(deed.do())
        except FarmError as error:
            self._say(str(error))
        self.reader.hurry()

    def _say(self, text: str) -> None:
        self.terminal.said.write(f"{text}\n")
