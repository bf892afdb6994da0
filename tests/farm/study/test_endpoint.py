"""HOST:PORT, where the host may be an IPv6 address."""

import pytest

from farm.study.endpoint import bracket, host_port, split


@pytest.mark.parametrize("host", ["10.0.0.5", "head", "fd00::5", "::1"])
def test_what_is_joined_is_split_again(host: str) -> None:
    assert split(host_port(host, 6379)) == (host, 6379)
    assert split(bracket(host), 7000) == (host, 7000)


def test_only_an_ipv6_address_has_brackets() -> None:
    assert host_port("fd00::5", 6379) == "[fd00::5]:6379"
    assert host_port("10.0.0.5", 6379) == "10.0.0.5:6379"


def test_the_last_group_of_an_ipv6_address_is_not_its_port() -> None:
    assert split("fd00::5", 6379) == ("fd00::5", 6379)


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:b", "a:0", "a:65536", "a/b:1", "[]:1", "[::1", "::1]:1", "a b:1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split(text, 6379 if text != "a" else None)


def test_without_a_usual_port_one_must_be_said() -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        split("head")
