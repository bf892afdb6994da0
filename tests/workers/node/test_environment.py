"""What a farm's processes inherit. The secret of its Ray: one, whoever starts it first."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from farm.site.settings import Settings
from workers.node.environment import ROOT, SOCKET_BYTES, environment, keep_secret, token

STARTERS = 8


def test_all_who_start_a_farm_at_once_have_the_same_secret(tmp_path: Path) -> None:
    gate = threading.Barrier(STARTERS)

    def start(home: Path) -> str:
        gate.wait()
        return token(home).read_text()

    with ThreadPoolExecutor(STARTERS) as starters:
        for number in range(50):
            home = tmp_path / str(number)
            (secret,) = set(starters.map(start, [home] * STARTERS))
            assert len(secret) == 64
            assert [path.name for path in home.iterdir()] == ["ray-token"], "no draft is left"
            assert (home / "ray-token").stat().st_mode & 0o777 == 0o600


def test_a_secret_stays_and_may_be_read_only(tmp_path: Path) -> None:
    secret = token(tmp_path).read_text()
    (tmp_path / "ray-token").chmod(0o400)
    assert token(tmp_path).read_text() == secret


def test_a_starter_that_was_killed_before_it_wrote_leaves_no_farm_without_a_secret(tmp_path: Path) -> None:
    (tmp_path / "ray-token").touch(0o600)
    assert len(token(tmp_path).read_text()) == 64


def test_what_a_shell_says_of_another_ray_does_not_reach_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_RUNTIME_ENV_HOOK", "RAY_NAMESPACE")
    heads = ("RAY_AUTH_TOKEN", "RAY_REDIS_ADDRESS", "RAY_OVERRIDE_LABELS", "RAY_GCS_SERVER_PORT")
    for name in (*mine, *heads, "RAY_memory_monitor_refresh_ms"):
        monkeypatch.setenv(name, "another's")
    here = Settings(home=tmp_path, storage=tmp_path)
    ours, a_node = environment(here), environment(here, is_ours=False)
    assert not {*mine, *heads} & ours.keys()
    assert (ours["RAY_AUTH_MODE"], ours["RAY_JOB_STOP_WAIT_TIME_S"]) == ("token", "60")
    assert not set(mine) & a_node.keys()
    assert set(heads) <= a_node.keys(), "Ray's launcher gives a node its labels so"
    assert ours["RAY_memory_monitor_refresh_ms"] == "another's"


def test_packages_come_from_no_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from that of the shell, which `python -m` and a relative PYTHONPATH mean, nor from one before farm's."""
    for name in ("model", "farm", "cli", "workers", "torch", "ray"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('of the working folder')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "", str(tmp_path / "kept")]))
    variables = environment(Settings(home=tmp_path, storage=tmp_path))
    assert str(tmp_path / "kept") in variables["PYTHONPATH"].split(os.pathsep)
    command = [sys.executable, "-m", "workers.head.serve", "--help"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_package_of_another_project_on_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("")
    command = [sys.executable, "-c", "from workers.head.embedded import check_installed; check_installed()"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=False)
    assert f"{tmp_path}/model.py hides farm's own package 'model'. Take its folder out of PYTHONPATH." in done.stderr


def test_a_long_folder_for_temporary_files_is_not_rays(tmp_path: Path) -> None:
    """Ray refuses the path of its socket below it."""
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    command = [sys.executable, "-c", "from workers.node.environment import short_folder; print(short_folder())"]
    for temporary, expected in ((folder, "/tmp"), (Path("/var/tmp"), "/var/tmp")):
        variables = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    longest = "/ray/session_2026-11-25_18-51-10_123456_4194304/sockets/plasma_store"
    assert len(longest) == SOCKET_BYTES


def test_the_secret_of_a_head_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    for secret in ("first", "second"):
        path = keep_secret(tmp_path, secret)
        assert (path.read_text(), path.stat().st_mode & 0o777) == (secret, 0o600)


@pytest.mark.parametrize("name", ["LAMBDA_API_KEY", "FARM_NOTIFY_URLS"])
def test_a_secret_of_the_head_reaches_nothing_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name
) -> None:
    monkeypatch.setenv(name, "secret")
    assert "secret" not in environment(Settings(home=tmp_path, storage=tmp_path)).values()
