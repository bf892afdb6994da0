"""URLs of a Redis, told without their password."""

import re

import pytest

from farm.errors import BadSetting
from farm.site.client import connect
from farm.site.urls import hide_password


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@host",
        "redis://:secret@host:port/0",
        "nonsense",
        "redis://:secret/ss+x==@10.0.0.5:6380/0",
        "redis://:67/secret@10.0.0.5:6380/0",
        "redis://:67?secret@10.0.0.5:6380/0",
        "redis://user:67#secret@10.0.0.5:6380/0",
        "redis://:secret]@10.0.0.5:6380/0",
        "redis://:secret@10.0.0.5:6380/first",
        "redis://:p@secret/67#x@10.0.0.5:6380/0",
        "redis://:p@secret/0#67@10.0.0.5:6380/0",
        "redis://:p@secret/?67@10.0.0.5:6380/0",
        "redis://:secret@10.0.0.5:6380/99999999999999999999",
        "redis://:se/secret",
    ],
)
def test_what_is_not_a_redis_url_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSetting, match=r"redis_url .* is not a Redis URL.*%2F for /") as caught:
        connect(url)
    assert not {"secret", "67"} & set(re.findall(r"\w+", str(caught.value)))


def test_a_url_is_shown_without_its_password() -> None:
    assert hide_password("redis://user:pass@host:1/0") == "redis://host:1/0"
    assert hide_password("redis://host:1/0") == "redis://host:1/0"
    assert hide_password("redis://:pa/s@s#x@host:1/0") == "redis://host:1/0"
    assert hide_password("redis://host:1/0?password=pass") == "redis://host:1/0"
    assert hide_password(":pass@host") == "host"
    assert hide_password("redis://:pass") == "redis://:..."
