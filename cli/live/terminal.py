"""The terminal while the live view has it: its size, its keys, and that it is given back as it was."""

import io
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rich.live import Live
from rich.text import Text

from cli.render import console

KEYS = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"k": "up", b"j": "down"}
ENDING = (signal.SIGTERM, signal.SIGHUP)


class Said(io.TextIOBase):
    """What anything here says on stdout or stderr while the view has the terminal: lines, for the view to show."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        self.lines += [one for one in whole if one.strip()]
        return len(text)


class Terminal:
    """Entered: an alternate screen, keys one by one without an echo, no cursor. Left, by whatever way: as before.

    Ctrl-Z stops the command with the terminal given back, and `fg` brings the view again. SIGTERM and SIGHUP end it.
    """

    def __init__(self) -> None:
        self.said = Said()
        self._in = sys.stdin.fileno()
        self._own = sys.stdout, sys.stderr
        self._before: list[Any] = termios.tcgetattr(self._in)
        self._handlers: dict[int, Any] = {}
        self._live: Live | None = None
        self._is_stopping = False

    def __enter__(self) -> "Terminal":
        try:
            self._handlers = {number: signal.signal(number, _end) for number in ENDING}
            self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._stop_soon)
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now: COLUMNS and LINES would say what they were once."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(self._own[1].fileno())
            if columns and lines:
                return columns, lines
        return 80, 24

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, each of which fits, and nothing else."""
        if self._live:
            self._live.console.size = self.size
            self._live.update(Text("\n", no_wrap=True, overflow="crop").join(lines), refresh=True)

    def keys(self, seconds: float) -> list[str]:
        """The keys pressed by now, or within `seconds`: "up", "down" and characters. Raises: EOFError: it is gone."""
        if self._is_stopping:
            self._stop()
        if not select.select([self._in], [], [], seconds)[0]:
            return []
        pressed = os.read(self._in, 1024)
        if not pressed:
            raise EOFError
        return list(_parse(pressed))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The terminal as it was before, for as long as this lasts."""
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def _take(self) -> None:
        tty.setcbreak(self._in)
        screen = console(stderr=True)
        screen.file = self._own[1]
        self._live = Live(console=screen, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        sys.stdout = sys.stderr = self.said

    def _give_back(self) -> None:
        sys.stdout, sys.stderr = self._own
        live, self._live = self._live, None
        try:
            with suppress(OSError):  # the terminal may be gone
                if live:
                    live.stop()
        finally:
            with suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSAFLUSH, self._before)

    def _stop_soon(self, *_: object) -> None:
        self._is_stopping = True

    def _stop(self) -> None:
        """Stop as Ctrl-Z does elsewhere, and take the terminal again when the shell lets us go on."""
        self._is_stopping = False
        with self.aside():
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, self._stop_soon)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _parse(pressed: bytes) -> Iterator[str]:
    while pressed:
        known = next((key for key in KEYS if pressed.startswith(key)), None)
        if known:
            yield KEYS[known]
        elif pressed[:1] == b"\x1b":  # a key that means nothing here comes as one piece; Escape itself is a no
            yield "escape"
            return
        else:
            yield pressed[:1].decode(errors="replace")
        pressed = pressed[len(known or b" ") :]
