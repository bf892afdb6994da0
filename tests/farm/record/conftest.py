"""Fixtures of the tests beside it."""

from pathlib import Path

import pytest

from farm.record.store import Store


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Every promise holds of both kinds of storage."""
    if request.param == "folder":
        return Store(tmp_path / "storage")
    return Store(request.getfixturevalue("s3_uri"), tmp_path / "work")
