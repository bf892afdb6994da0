"""Whether a farm is up: only if the process that said so still lives."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farm.site import serving
from farm.site.process import identity
from farm.site.serving import Facts, Health
from farm.site.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", storage=tmp_path / "storage")


def facts(pid: int, process: str | None = None) -> Facts:
    return Facts(
        pid=pid,
        process=process or identity(pid) or "none",
        redis="redis://127.0.0.1:1/0",
        dashboard="http://127.0.0.1:2",
        units={"cpu": 1},
        storage="/s",
        started=1.0,
        log="/l",
    )


def test_the_facts_of_a_living_process_are_found_and_private(home: Settings) -> None:
    mine = facts(os.getpid())
    serving.announce(home, mine)
    assert serving.facts(home) == mine
    assert serving.path(home).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in home.home.iterdir()] == ["farm.json"], "no draft is left"


def test_a_dead_process_is_no_farm(home: Settings) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        pid = process.pid
    serving.announce(home, facts(pid))
    assert serving.facts(home) is None


def test_a_process_that_took_over_the_pid_is_no_farm(home: Settings) -> None:
    serving.announce(home, facts(os.getpid(), process="another boot 123"))
    assert serving.facts(home) is None, "who said so is gone"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 0}', "\x00\xff"])
def test_a_damaged_or_missing_file_is_no_farm(home: Settings, content: str) -> None:
    assert serving.facts(home) is None
    home.home.mkdir()
    serving.path(home).write_bytes(content.encode("latin-1"))
    assert serving.facts(home) is None


def test_withdrawing_leaves_the_facts_of_another_farm(home: Settings) -> None:
    serving.announce(home, facts(os.getpid()))
    serving.withdraw(home, os.getpid() + 1)
    assert serving.facts(home) is not None
    serving.withdraw(home, os.getpid())
    assert not serving.path(home).exists()


def test_what_fails_is_that_of_the_farm_that_is_up_and_silence_is_said_too(home: Settings) -> None:
    mine, now = facts(os.getpid()), time.time()
    assert serving.missing(home, mine) == []
    serving.report(home, Health(pid=mine.pid, looked=now, missing=("the GCS has ended",), doing="started again"))
    assert serving.missing(home, mine) == ["the GCS has ended", "started again"]
    serving.report(home, Health(pid=mine.pid, looked=now - 100, missing=()))
    assert serving.missing(home, mine) == [
        f"process {mine.pid}, which serves the farm, has not checked its parts for 100 s"
    ]
    serving.report(home, Health(pid=mine.pid + 1, looked=now, missing=("of another",)))
    assert serving.missing(home, mine) == []
    serving.well(home)
    assert serving.missing(home, mine) == []
