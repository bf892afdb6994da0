"""`farm connect` against a real SSH server on loopback, by the system's ssh."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from ssh_server import Sshd, sshd

from farm.site import tunnel
from farm.site.settings import Settings

from .conftest import Farm


@pytest.fixture
def head(tmp_path: Path, redis_url: str) -> Iterator[Sshd]:
    """A machine with the tests' Redis as its farm's own."""
    with sshd(tmp_path) as server:
        card = server.home / ".farm" / "redis" / "server.json"
        card.parent.mkdir(parents=True)
        card.write_text(json.dumps({"pid": 1, "url": redis_url}))
        yield server


@pytest.fixture
def laptop(farm: Farm) -> Farm:
    """A machine that knows no Redis."""
    del farm.environment["FARM_REDIS_URL"]
    return farm


def home(laptop: Farm) -> Path:
    return Path(laptop.environment["FARM_HOME"])


def url(laptop: Farm) -> str | None:
    """Where the commands of this home go."""
    return Settings.load(laptop.environment, files=()).redis_url


def test_a_farm_in_another_home_of_the_head_is_found_there(laptop: Farm, head: Sshd) -> None:
    (head.home / ".farm").rename(head.home / "else where")
    answer = laptop("connect", "127.0.0.1", "--ssh", head.command)
    assert "127.0.0.1 has no farm of its own in ~/.farm." in answer.err
    assert "or its home: --home FOLDER" in answer.err
    words = ("connect", "127.0.0.1", "--home", f"{head.home}/else where", "--ssh", head.command)
    with laptop.start(*words) as process:
        assert said(process).startswith("open: ")
        assert ended(process, signal.SIGTERM) == 143


@contextmanager
def opened(laptop: Farm, head: Sshd) -> Iterator[subprocess.Popen]:
    with laptop.start("connect", "127.0.0.1", "--ssh", head.command) as process:
        port = urlsplit(said(process).removeprefix("open: ").split()[0]).port
        assert (urlsplit(url(laptop)).hostname, urlsplit(url(laptop)).port) == ("127.0.0.1", port)
        yield process


def said(process: subprocess.Popen) -> str:
    """The next line that it says."""
    assert process.stderr is not None
    return process.stderr.readline()


def ended(process: subprocess.Popen, sent: signal.Signals) -> int:
    process.send_signal(sent)
    return process.wait(timeout=20)


def test_a_home_that_is_connected_sees_the_farm_of_the_head(laptop: Farm, head: Sshd) -> None:
    study = laptop.put()
    with opened(laptop, head) as process:
        assert {row["run"] for row in laptop("runs").rows} == {run.id for run in study.runs()}
        assert (home(laptop) / tunnel.FILE).stat().st_mode & 0o777 == 0o600, "it holds the password"
        found = {row["check"]: row["detail"] for row in laptop("doctor").rows}
        assert "of 127.0.0.1, through the tunnel" in found["server"]
        assert found["dashboard"] == "the farm's Ray is on 127.0.0.1, at the other end of `farm connect`"
        second = laptop("connect", "127.0.0.1", "--ssh", head.command)
        assert (second.code, "connected already" in second.err) == (6, True)
        assert said(process) == f"commands with the home {home(laptop)} use it now; Ctrl-C closes it\n"
        assert ended(process, signal.SIGINT) == 130
    assert url(laptop) is None, "back to this machine's own farm"


def test_a_tunnel_that_breaks_is_opened_again_at_the_same_place(laptop: Farm, head: Sshd) -> None:
    with opened(laptop, head) as process:
        before = url(laptop)
        assert said(process).startswith("commands with")
        head.leave()
        assert said(process).endswith(" Trying again in 1 s.\n")
        assert said(process).endswith(" Trying again in 2 s.\n"), "nobody was there"
        answer = laptop("runs")
        assert answer.code == 5
        assert "error: no Redis answers through the tunnel to 127.0.0.1: " in answer.err
        assert "`farm connect` opens it again" in answer.err
        assert "FARM_REDIS_URL" not in answer.err
        head.come_back()
        seen = iter(lambda: said(process), "")
        assert next((line for line in seen if line.startswith("open: ")), None), "another try may have failed meanwhile"
        assert laptop("runs").code == 0
        assert url(laptop) == before
        assert ended(process, signal.SIGTERM) == 143
    assert url(laptop) is None


def test_a_keeper_that_was_killed_is_missed(laptop: Farm, head: Sshd) -> None:
    """Else the next `farm submit` would go to this machine's own farm without a word. Its ssh does not outlive it."""
    with opened(laptop, head) as process:
        children = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
    assert [child.name() for child in psutil.wait_procs(children, timeout=20)[1]] == []
    answer = laptop("runs")
    assert answer.code == 5
    assert answer.err.startswith("error: the tunnel to 127.0.0.1 is closed. Open it with: farm connect 127.0.0.1; or")


def test_what_ssh_says_is_said_in_a_line(laptop: Farm, head: Sshd, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with sshd(tmp_path / "other") as other:
        wrong = head.command.replace(f"{tmp_path}/key", f"{tmp_path}/other/key")
        answer = laptop("connect", "127.0.0.1", "--ssh", wrong)
        assert (answer.code, answer.err.count("\n")) == (4, 1)
        assert "error: ssh to 127.0.0.1: somebody@127.0.0.1: Permission denied" in answer.err
        answer = laptop("connect", "127.0.0.1", "--ssh", other.command)
        assert answer.code == 3
        assert "127.0.0.1 has no farm of its own in ~/.farm. Name its Redis: --redis" in answer.err
    answer = laptop("connect", "127.0.0.1", "--ssh", other.command)
    assert answer.code == 5
    assert "Connection refused" in answer.err
    assert not (home(laptop) / tunnel.FILE).exists()


def test_the_redis_at_the_other_end_must_answer(laptop: Farm, head: Sshd, redis_url: str) -> None:
    place = urlsplit(redis_url)
    there = ("connect", "127.0.0.1", "--ssh", head.command, "--redis")
    answer = laptop(*there, f"redis://:wrong@127.0.0.1:{place.port}/0")
    assert (answer.code, "refused the credentials" in answer.err) == (4, True)
    answer = laptop(*there, "rediss://127.0.0.1/0")
    assert (answer.code, "is not redis://HOST" in answer.err) == (2, True)
    answer = laptop(*there, "redis://user:se/cret@127.0.0.1/0")
    assert (answer.code, "%2F for /" in answer.err, "se" in answer.err.split("'")[1]) == (2, True, False)


def test_a_redis_that_was_set_goes_before_a_tunnel(farm: Farm, head: Sshd) -> None:
    answer = farm("connect", "127.0.0.1", "--ssh", head.command)
    assert (answer.code, "Unset it" in answer.err) == (2, True)


def test_a_farm_of_this_machine_does_not_start_behind_an_open_tunnel(laptop: Farm, head: Sshd) -> None:
    """It would be a second one on the head's queue, with a storage that nobody else sees."""
    with opened(laptop, head) as process:
        for command in ("up", "serve", "demo"):
            answer = laptop(command)
            assert answer.code == 6
            assert "`farm connect` is open" in answer.err
        ended(process, signal.SIGTERM)
