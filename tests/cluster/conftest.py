"""Where this machine cannot make hosts the tests of this folder are not collected, and the last line says why."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cluster.cluster import Cluster
from cluster.hosts import obstacle

OBSTACLE = obstacle()


def pytest_ignore_collect() -> bool | None:
    return True if OBSTACLE else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if OBSTACLE:
        terminalreporter.write_line(f"tests/cluster is not collected: no hosts can be made here, {OBSTACLE}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The four hosts. Whatever happens, nothing of them is left."""
    with ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("cluster"), stack)
