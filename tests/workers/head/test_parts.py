"""What a Ray is made of, as the process table tells it: here of processes that are named as Ray's are."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from waiting import wait_until

from workers.head import parts
from workers.head.parts import Watch, census
from workers.ray_internals.processes import OF_THE_HEAD

HEAD = """
import subprocess, sys
children = []
for name in sys.argv[1:]:
    children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", name]))
print(flush=True)
sys.stdin.read()
for child in children:
    child.kill()
    child.wait()
"""
NAMES = tuple(OF_THE_HEAD)


@pytest.fixture
def head() -> Iterator[psutil.Process]:
    """A process with a child for each part of a head."""
    marks = [f"/site-packages{marks[0]}" for marks in OF_THE_HEAD.values()]
    with subprocess.Popen([sys.executable, "-c", HEAD, *marks], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        one = psutil.Process(process.pid)
        wait_until(lambda: set(census(one)) == set(NAMES), "all parts are there")
        yield one
        process.stdin.close()


def test_a_part_that_ends_or_was_never_there_is_missing(head: psutil.Process) -> None:
    watch = Watch((*NAMES, "dashboard agent"), lambda: census(head))
    gcs, dashboard = census(head)["GCS"], census(head)["dashboard"]
    assert watch.look() == {"dashboard agent": "the dashboard agent is not there"}
    gcs.kill()
    dashboard.kill()
    wait_until(lambda: len(watch.look()) == 3, "two at once are missed, though nobody has buried them")
    assert watch.look()["GCS"] == f"the GCS (process {gcs.pid}) has ended"


def test_a_part_that_stands_still_is_missing_unless_it_goes_on_soon(head: psutil.Process) -> None:
    watch = Watch(NAMES, lambda: census(head))
    raylet = census(head)["raylet"]
    raylet.suspend()
    wait_until(lambda: raylet.status() == psutil.STATUS_STOPPED, "it stands still")
    for _ in range(parts.STOPPED_LOOKS - 1):
        assert watch.look() == {}
    assert watch.look() == {"raylet": f"the raylet (process {raylet.pid}) is stopped"}
    raylet.resume()
    wait_until(lambda: watch.look() == {}, "it goes on")
