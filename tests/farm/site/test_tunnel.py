"""Who asks for the tunnel and who opens it, at any moment of the other. tests/cli/test_connect.py opens real ones."""

import fcntl
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from farm.errors import BadSetting, Conflict, Unreachable
from farm.site import tunnel


@contextmanager
def asking(home: Path) -> Iterator[None]:
    """Somebody who is in the middle of `tunnel.url`."""
    descriptor = os.open(home / tunnel.OPEN, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_tunnel_is_found_while_it_is_open(tmp_path: Path) -> None:
    assert tunnel.url(tmp_path) is None
    assert tunnel.url(tmp_path / "not" / "there") is None
    with tunnel.announce(tmp_path, "head", "redis://near"):
        assert tunnel.url(tmp_path) == "redis://near"
        with pytest.raises(Conflict, match="connected already"), tunnel.announce(tmp_path, "head", "redis://other"):
            pass
        assert tunnel.url(tmp_path) == "redis://near"
    assert tunnel.url(tmp_path) is None


def test_only_its_near_end_is_the_tunnel(tmp_path: Path) -> None:
    with tunnel.announce(tmp_path, "head", "redis://near"):
        assert tunnel.head(tmp_path, "redis://near") == "head"
        assert tunnel.head(tmp_path, "redis://elsewhere") is None
    assert tunnel.head(tmp_path, "redis://near") is None


def test_whoever_asks_is_not_in_the_way_of_who_connects(tmp_path: Path) -> None:
    said: list[str | None] = []

    def connect() -> None:
        with tunnel.announce(tmp_path, "head", "redis://near"):
            said.append(tunnel.url(tmp_path))

    thread = threading.Thread(target=connect)
    with asking(tmp_path):
        thread.start()
        thread.join(0.2)
        assert not said
    thread.join(10)
    assert said == ["redis://near"]


def test_who_asks_at_any_moment_of_a_reconnection_never_hears_of_no_tunnel(tmp_path: Path) -> None:
    """Else the command goes to this machine's own farm. Its keeper was killed, so there is something to write over."""
    code = "import os, sys; from pathlib import Path; from farm.site import tunnel\n" + (
        "with tunnel.announce(Path(sys.argv[1]), 'head', 'redis://before'): os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 1
    with pytest.raises(Unreachable, match="the tunnel to head is closed"):
        tunnel.url(tmp_path)
    heard: list[str] = []

    def ask(*_: object) -> None:
        """Before and after each call that the keeper makes."""
        sys.setprofile(None)
        try:
            heard.append(tunnel.url(tmp_path) or "none")
        except Unreachable:
            heard.append("closed")
        sys.setprofile(ask)

    sys.setprofile(ask)
    try:
        with tunnel.announce(tmp_path, "head", "redis://near"):
            sys.setprofile(None)
    finally:
        sys.setprofile(None)
    assert [word for word, _ in itertools.groupby(heard)] == ["closed", "redis://near"]


def test_what_cannot_be_read_is_no_reason_to_go_elsewhere(tmp_path: Path) -> None:
    (tmp_path / tunnel.FILE).write_text("{")
    with pytest.raises(BadSetting, match=r"tunnel.json is damaged. Remove it"):
        tunnel.url(tmp_path)
