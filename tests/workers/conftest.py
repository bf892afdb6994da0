"""What several tests of the workers share."""

from collections.abc import Iterator

import pytest
from own_ray import OwnRay, own_ray


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRay]:
    """A Ray of one node that belongs to these tests."""
    with own_ray(tmp_path_factory.mktemp("own-ray")) as ray:
        yield ray
