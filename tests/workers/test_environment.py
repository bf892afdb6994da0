"""The secret of a farm's Ray: one, whoever starts it first."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workers.environment import token

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
