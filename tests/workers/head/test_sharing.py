"""Where a farm may be shared. tests/cluster has one that is."""

import ipaddress
from pathlib import Path

import pytest

from farm.errors import BadSetting
from farm.site.settings import Settings
from workers.head import sharing
from workers.node import addresses


@pytest.mark.parametrize("url", ["redis://10.0.0.5:6379/0", "rediss://user@10.0.0.5/0"])
def test_a_shared_farm_without_a_password_is_refused(url: str, tmp_path: Path) -> None:
    here = Settings(home=tmp_path, storage=tmp_path, redis_url=url)
    with pytest.raises(BadSetting, match=r"a shared farm needs a Redis with a password, and .* is used without one"):
        sharing.address(here, None)


@pytest.mark.parametrize("place", ["127.0.0.1:6380", "localhost", "[::1]:6380"])
def test_a_redis_that_no_other_machine_reaches_is_refused(place: str, tmp_path: Path) -> None:
    here = Settings(home=tmp_path, storage=tmp_path, redis_url=f"redis://:secret@{place}/0")
    with pytest.raises(BadSetting, match="no other machine can reach the Redis at") as caught:
        sharing.address(here, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.2.1"])
def test_loopback_is_not_shared(host: str) -> None:
    with pytest.raises(BadSetting, match=rf"--host {host}: no other machine can reach a loopback address\."):
        addresses.shared_address(host)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"--host .192\.0\.2\.77. is not an address of "):
        addresses.shared_address("192.0.2.77")


def test_addresses_of_this_machine_are_outward_and_may_be_shared() -> None:
    for found in addresses.outward():
        address = ipaddress.ip_address(found.host)
        assert not address.is_loopback
        assert not address.is_link_local
        assert addresses.shared_address(found.host) == found.host
