"""The folders of Rays: what is left of a farm that was killed is removed, what is in use is not."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from workers.head import folders


@pytest.fixture(autouse=True)
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


HOLDER = "from workers.head import folders\nwith folders.hold() as folder: print(folder, flush=True); input()"


def test_what_a_killed_farm_left_is_swept_at_the_next_start_with_its_processes(below: Path) -> None:
    variables = os.environ | {"TMPDIR": str(below)}
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=-1, stdout=-1, env=variables, text=True) as farm:
        assert farm.stdout is not None
        left = Path(farm.stdout.readline().strip())
        child = ["sleep", "600"]
        with subprocess.Popen(child, env=variables | {"RAY_TMPDIR": str(left)}) as ray:
            with folders.hold():
                assert left.exists(), "a farm that lives keeps its folder"
            assert ray.poll() is None
            farm.kill()
            farm.wait()
            with folders.hold() as ours:
                assert [ours] == list(below.iterdir())
            assert not psutil.pid_exists(ray.pid), "what it had started has ended"
    assert not list(below.iterdir())


def test_a_start_that_fails_in_any_way_leaves_no_folder(below: Path) -> None:
    """Ray raises a bare Exception where it has waited for too long."""
    with pytest.raises(Exception, match="timed out"), folders.hold():
        raise Exception("timed out")
    assert not list(below.iterdir())
