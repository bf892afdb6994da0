"""What keeps a machine from joining, each in one line that says what to do. tests/walk/test_join.py has the rest."""

import http.server
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from farm.errors import BadSetting, Conflict, FarmError, StorageFull, Unreachable
from farm.queue.node import Head
from farm.record.result import Provenance
from farm.record.store import Store
from farm.site.settings import Settings
from workers.node import admission, hardware

SOFTWARE = Provenance(farm="0.1.0", commit="f00d", code="c" * 64, python="3.11.7", torch="2.13.0+cpu", ray="2.60.0")
HEAD = Head(
    host="head", ray="10.0.0.5:6379", software=SOFTWARE, sources="/opt/farm", storage="/farm/storage", marker="m1"
)


@pytest.fixture(autouse=True)
def _token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)


def refused(*, own: Provenance = SOFTWARE, head: Head = HEAD) -> str:
    with pytest.raises(Conflict) as caught:
        admission.check_software(head, own)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The address


def test_an_address_without_a_port_has_rays() -> None:
    assert admission.address("10.0.0.5") == "10.0.0.5:6379"
    assert admission.address("head:7000") == "head:7000"
    assert admission.address("fd00::5") == "[fd00::5]:6379"
    assert admission.address("[fd00::5]:7000") == "[fd00::5]:7000"


@pytest.mark.parametrize("head", ["", ":6379", "head:", "head:ray", "head:70000", "redis://head:6379"])
def test_what_is_no_address_is_refused(head: str) -> None:
    with pytest.raises(BadSetting, match=r"Write HOST:PORT"):
        admission.address(head)


def test_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Unreachable, match=rf"nothing answers at {place}: .*calls its own Ray 10\.0\.0\.5:6379"):
            admission.check_head(place, HEAD)


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(Unreachable, match=r"nothing answers at head\.invalid:6379"):
        admission.check_head("head.invalid:6379", HEAD)


@contextmanager
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def check_stranger(place: str) -> None:
    """Something else listens at `place`: found out at once, where Ray itself would try for 40 s."""
    began = time.monotonic()
    with pytest.raises(Unreachable, match=f"the server at {place} is not a Ray head"):
        admission.check_head(place, HEAD)
    assert time.monotonic() - began < 10


def test_a_web_server_listens() -> None:
    with web_server() as place:
        check_stranger(place)


def test_redis_listens(redis_url: str) -> None:
    place = urlsplit(redis_url)
    check_stranger(f"{place.hostname}:{place.port}")


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SECONDS", 0.1)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
            admission.check_head(f"127.0.0.1:{mute.getsockname()[1]}", HEAD)


def test_there_is_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(BadSetting, match=r"none is not there\. Copy the head's \(head\)"):
        admission.check_head("127.0.0.1:1", HEAD)


# The software


def test_the_same_software_may_join_whatever_torch_was_built_for() -> None:
    admission.check_software(HEAD, SOFTWARE.model_copy(update={"torch": "2.13.0+cu130", "commit": None}))


def test_another_torch_and_ray_are_mended_by_one_command() -> None:
    said = refused(own=SOFTWARE.model_copy(update={"torch": "2.12.1", "ray": "2.59.0"}))
    assert said == (
        "this machine has Ray 2.59.0 (head: 2.60.0), torch 2.12.1 (head: 2.13.0)."
        f" Run: {sys.executable} -m pip install 'torch==2.13.0' 'ray[default,train]==2.60.0'"
    )


def test_another_python_is_mended_by_an_environment_of_its_own() -> None:
    said = refused(own=SOFTWARE.model_copy(update={"python": "3.12.1"}))
    assert said.startswith("this machine has Python 3.12.1 (head: 3.11.7). Run: uv venv --python 3.11.7 ")
    assert f"'{hardware.ROOT}[node]' 'torch==2.13.0' 'ray[default,train]==2.60.0'" in said


def test_other_sources_are_mended_from_the_heads_commit_or_its_folder() -> None:
    """This test runs in a checkout; or in a folder without git, where the head's folder is copied."""
    own = SOFTWARE.model_copy(update={"code": "d" * 64, "commit": "beef", "dirty": False})
    said = refused(own=own)
    if (hardware.ROOT / ".git").exists():
        assert said.endswith(f"Run: git -C {hardware.ROOT} fetch && git -C {hardware.ROOT} checkout f00d")
    folders = " ".join(f"head:/opt/farm/{package}" for package in ("cli", "farm", "model", "workers"))
    copied = f"Run: rsync -a --delete {folders} {hardware.ROOT}/"
    changed = HEAD.model_copy(update={"software": SOFTWARE.model_copy(update={"dirty": True})})
    assert refused(own=own, head=changed).endswith(copied)
    assert refused(own=own.model_copy(update={"commit": "f00d"})).endswith(copied), "the checkout would change nothing"
    assert "farm 0.1.0 dddddddd (head: 0.1.0 cccccccc)" in said


def git(folder: Path, *words: str) -> None:
    somebody = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", "-C", str(folder), *somebody, *words], check=True, capture_output=True)


def described() -> Provenance:
    hardware.code_digest.cache_clear()
    return hardware.provenance()


def test_the_command_that_is_said_mends_sources_that_were_edited_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs, in a shell that is no bash; and what was edited is not lost."""
    head, here = tmp_path / "head", tmp_path / "a joiner"
    (head / "farm").mkdir(parents=True)
    (head / "farm" / "recipe.py").write_text("batch = 96\n")
    git(tmp_path, "init", "head")
    git(head, "add", ".")
    git(head, "commit", "-m", "first")
    git(tmp_path, "clone", str(head), str(here))
    try:
        monkeypatch.setattr(hardware, "ROOT", head)
        published = HEAD.model_copy(update={"software": described()})
        monkeypatch.setattr(hardware, "ROOT", here)
        (here / "farm" / "recipe.py").write_text("batch = 97\n")
        (here / "farm" / "mine.py").write_text("")
        said = refused(own=described(), head=published)
        subprocess.run(["sh", "-ec", said.partition("Run: ")[2]], check=True, capture_output=True)
        admission.check_software(published, described())
        git(here, "stash", "pop")
        assert (here / "farm" / "recipe.py").read_text() == "batch = 97\n"
        assert (here / "farm" / "mine.py").exists()
    finally:
        hardware.code_digest.cache_clear()


# The storage


def settings(storage: Path) -> Settings:
    return Settings(home=storage.parent / "home", storage=storage)


def head_of(storage: Path) -> Head:
    storage.mkdir(exist_ok=True)
    return HEAD.model_copy(update={"marker": Store(storage).mark()})


def test_the_heads_storage_is_known_by_its_marker_wherever_it_is_mounted(tmp_path: Path) -> None:
    head = head_of(tmp_path / "storage")
    (tmp_path / "mounted").symlink_to(tmp_path / "storage")
    assert admission.check_storage(settings(tmp_path / "mounted"), head) > 0
    assert Store(tmp_path / "mounted").mark() == head.marker


def test_a_storage_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"here is not on .*Mount the head's here.*/farm/storage on head"):
        admission.check_storage(settings(tmp_path / "here"), HEAD)
    assert not (tmp_path / "here").exists()


def test_another_folder_is_not_the_farms_storage(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"is not the farm's, which is /farm/storage on head: no \.farm-storage in it"):
        admission.check_storage(settings(tmp_path), HEAD)
    other = head_of(tmp_path / "other").marker
    with pytest.raises(BadSetting, match=rf"is another farm's: its \.farm-storage says {other}"):
        admission.check_storage(settings(tmp_path / "other"), HEAD)


def test_a_bucket_is_known_by_its_marker(tmp_path: Path, s3_uri: str) -> None:
    here = Settings(home=tmp_path, storage=s3_uri)
    with pytest.raises(BadSetting, match=rf"{s3_uri} on .* is not the farm's, .* no \.farm-storage in it"):
        admission.check_storage(here, HEAD)
    head = HEAD.model_copy(update={"storage": s3_uri, "marker": Store(s3_uri).mark()})
    assert admission.check_storage(here, head) > 0, "free for working copies"


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on the size of files is as good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write everywhere; whoever else runs the tests is nobody enough."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_full_storage_is_named(tmp_path: Path) -> None:
    head = head_of(tmp_path / "storage")
    with full_disk(), pytest.raises(StorageFull, match=r"cannot write .*storage.*Free some space there\."):
        admission.check_storage(settings(tmp_path / "storage"), head)


def test_a_read_only_storage_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # unlike tmp_path, one that others may enter
        Path(folder).chmod(0o755)
        storage = Path(folder, "storage")
        head = head_of(storage)
        storage.chmod(0o555)
        with nobody(), pytest.raises(FarmError, match=r"storage cannot hold records: Permission denied\. Set"):
            admission.check_storage(settings(storage), head)
