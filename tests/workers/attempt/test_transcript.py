"""What an attempt prints goes to two places, and one that fails takes nothing from the other."""

import subprocess
import sys
from pathlib import Path

LINES = 20_000  # more than a pipe holds

# Prints by itself and through a child; then says, in a file, whether it left a descriptor open.
PRINTS = f"""
import os, subprocess, sys
from pathlib import Path
from workers.attempt.transcript import copy_to
before = os.listdir("/proc/self/fd")
with copy_to(Path(sys.argv[1])):
    for number in range({LINES}):
        print("line", number)
    sys.stdout.flush()
    subprocess.run(["echo", "from a child"], check=True)
    print("to stderr", file=sys.stderr)
Path(sys.argv[2]).write_text(str(os.listdir("/proc/self/fd") == before))
"""
PRINTED = "".join(f"line {number}\n" for number in range(LINES)) + "from a child\nto stderr\n"
NOTICE = "\nContinuing without a copy of this output: No space left on device.\n"


def run(log: Path, out: Path, folder: Path) -> None:
    """In a process of its own, whose stdout is `out`."""
    left = folder / "left"
    with out.open("w") as stdout:
        command = [sys.executable, "-c", PRINTS, str(log), str(left)]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=True, timeout=60)
    assert done.stderr == "", "it goes the way of stdout"
    assert left.read_text() == "True"


def test_what_is_printed_goes_on_and_is_kept(tmp_path: Path) -> None:
    log, out = tmp_path / "1" / "log.txt", tmp_path / "out"
    run(log, out, tmp_path)
    assert (out.read_text(), log.read_text()) == (PRINTED, PRINTED)


def test_a_log_on_a_full_disk_stops_no_other_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(Path("/dev/full"), out, tmp_path)
    assert out.read_text().count(NOTICE) == 1
    assert out.read_text().replace(NOTICE, "") == PRINTED


def test_what_is_printed_is_kept_though_it_cannot_go_on(tmp_path: Path) -> None:
    """Where stdout goes, such as Ray's own log, the disk may be full as well."""
    log = tmp_path / "log.txt"
    run(log, Path("/dev/full"), tmp_path)
    assert log.read_text().replace(NOTICE, "") == PRINTED


def test_two_full_disks_end_no_attempt(tmp_path: Path) -> None:
    run(Path("/dev/full"), Path("/dev/full"), tmp_path)
