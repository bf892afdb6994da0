"""Redis over TLS: what works, and one line for each way in which it cannot."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tls import Authority, secured

from farm.errors import BadSetting, FarmError, Refused
from farm.site.client import connect
from farm.site.session import session
from farm.site.settings import Settings
from farm.site.urls import address


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def port(redis_url: str, authority: Authority) -> Iterator[int]:
    """Where the tests' Redis answers by TLS, as `localhost`."""
    with secured(urlsplit(redis_url).port or 0, authority.context("localhost")) as port:
        yield port


@pytest.fixture
def password(redis_url: str) -> str:
    return urlsplit(redis_url).password or ""


def test_a_session_over_tls(port: int, password: str, authority: Authority, tmp_path: Path) -> None:
    environ = {
        "FARM_HOME": str(tmp_path),
        "FARM_REDIS_URL": f"rediss://:{password}@localhost:{port}/0",
        "FARM_REDIS_CA": str(authority.file),
    }
    with session(Settings.load(environ, files=())) as redis:
        assert redis.ping()
        assert address(redis) == f"rediss://localhost:{port}/0"


def refusal(url: str, authorities: Path | None = None) -> FarmError:
    with pytest.raises(FarmError) as caught:
        connect(url, authorities)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_certificate_of_an_unknown_authority(port: int, password: str, tmp_path: Path) -> None:
    for file in (None, Authority(tmp_path).file):
        refused = refusal(f"rediss://:{password}@localhost:{port}/0", file)
        assert isinstance(refused, Refused)
        assert str(refused).startswith(f"the certificate of rediss://localhost:{port}/0 is not trusted here: ")
        assert str(refused).endswith(". Set FARM_REDIS_CA to the file of the authority that signed it.")


def test_a_certificate_of_another_host(port: int, password: str, authority: Authority) -> None:
    refused = refusal(f"rediss://:{password}@127.0.0.1:{port}/0", authority.file)
    assert isinstance(refused, Refused)
    assert "is for a different host: " in str(refused)
    assert password not in str(refused)


def test_a_wrong_password_over_tls(port: int, authority: Authority) -> None:
    refused = refusal(f"rediss://:wrong@localhost:{port}/0", authority.file)
    assert isinstance(refused, Refused)
    assert "refused the credentials" in str(refused)


def test_plain_words_to_a_server_that_speaks_tls(port: int, password: str) -> None:
    refused = refusal(f"redis://:{password}@localhost:{port}/0")
    assert isinstance(refused, BadSetting)
    assert str(refused) == f"redis://localhost:{port}/0 speaks TLS only. Write rediss:// in FARM_REDIS_URL."


def test_tls_to_a_server_that_speaks_plainly(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.site.client.SOCKET_SECONDS", 1.0)  # it waits for more of what it takes for a command
    refused = refusal(redis_url.replace("redis://", "rediss://"))
    assert isinstance(refused, BadSetting)
    assert "does not speak TLS. Write redis:// in FARM_REDIS_URL" in str(refused)


def test_a_file_without_certificates(tmp_path: Path) -> None:
    refused = refusal("rediss://localhost/0", tmp_path / "missing.pem")
    assert str(refused).endswith("missing.pem': No such file or directory. Set FARM_REDIS_CA to a file in PEM form.")
    (tmp_path / "empty.pem").write_text("nothing")
    assert "no certificate in it" in str(refusal("rediss://localhost/0", tmp_path / "empty.pem"))
