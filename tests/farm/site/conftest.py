"""A redis-server of the farm's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.site.server import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs, and is stopped afterwards."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()
