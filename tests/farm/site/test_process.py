"""Whether a process runs: one that ended, one that nobody buried, one of another user, one that got the pid later."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from waiting import wait_until

from farm.site.process import identity, is_alive

NOBODY = 65534


@pytest.fixture
def process() -> Iterator[subprocess.Popen]:
    """A process that ends when its stdin is closed."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process


def test_a_process_runs_until_it_has_ended_buried_or_not(process: subprocess.Popen) -> None:
    assert is_alive(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    wait_until(lambda: not is_alive(process.pid), "a zombie does not run")
    assert process.wait() == 0
    assert not is_alive(process.pid)


def test_a_process_that_got_the_pid_later_is_another(process: subprocess.Popen) -> None:
    mine = identity(os.getpid())
    assert is_alive(os.getpid(), mine)
    assert not is_alive(process.pid, mine)
    assert identity(process.pid) != mine


def test_a_process_of_another_user_is_none_of_ours() -> None:
    """Such as the one that got the pid of a farm's Redis after a reboot."""
    child = os.fork()
    if child == 0:
        answer = 2
        try:
            if os.getuid() == 0:
                os.setuid(NOBODY)  # root may signal everybody
            answer = int(is_alive(1) != (os.stat("/proc/1").st_uid == os.getuid()))
        finally:
            os._exit(answer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
