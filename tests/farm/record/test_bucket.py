"""A bucket as a storage, against a real S3 server on loopback that checks signatures and permissions."""

import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import BUCKET, FULL, HELD, S3Server, free_port

from farm.errors import FarmError, StorageFull, StorageUnusable
from farm.record.bucket import BRIEF, Bucket
from farm.record.store import Store


@pytest.fixture
def bucket(s3_uri: str) -> Bucket:
    return Bucket(s3_uri)


def test_an_object_is_created_once(bucket: Bucket) -> None:
    assert bucket.create("a", b"first")
    assert not bucket.create("a", b"second")
    assert bucket.get("a") == b"first"


def test_a_folder_lists_what_lies_directly_below_it(bucket: Bucket) -> None:
    for name in ("runs/b/1/x", "runs/b/2/x", "runs/a", "runs-not/c"):
        bucket.put(name, b"")
    assert bucket.names("runs") == ["a", "b"]
    assert bucket.names("run") == []
    assert [entry.name for entry in bucket.objects("runs/b")] == ["runs/b/1/x", "runs/b/2/x"]


def test_a_large_file_goes_up_and_comes_down_in_parts_with_its_time(bucket: Bucket, tmp_path: Path) -> None:
    content = os.urandom(20_000_000)
    bucket.upload(io.BytesIO(content), "large")
    found = bucket.find("large")
    assert found is not None
    bucket.download(found, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (tmp_path / "copy").stat().st_mtime == found.modified
    assert os.listdir(tmp_path) == ["copy"]


def test_what_was_deleted_is_gone_and_may_be_deleted_again(bucket: Bucket) -> None:
    bucket.put("a", b"")
    bucket.delete(["a", "b"])
    bucket.delete([])
    assert (bucket.get("a"), bucket.find("a"), bucket.objects("")) == (None, None, [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "does not know this node's AWS credentials (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "hunter2"}, "does not know this node's AWS credentials (InvalidAccessKeyId)"),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "has no AWS credentials on this node. Set AWS_PROFILE",
        ),
        ({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}, "cannot be reached at http://127.0.0.1:"),
    ],
)
def test_a_node_that_cannot_use_it_says_why_in_one_line(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(StorageUnusable) as caught:
        bucket.check()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_server_that_does_not_answer_costs_what_the_patience_allows(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(StorageUnusable, match=r"cannot be reached at .* \(ReadTimeoutError\)"):
            Bucket(bucket.uri, BRIEF._replace(read_seconds=0.2)).put("a", b"")
        assert time.monotonic() - began < 20, "once, and not for half a minute"


def test_a_bucket_that_is_not_there_is_named(s3_uri: str) -> None:
    with pytest.raises(StorageUnusable, match=r"s3://not-there/x names a bucket that does not exist\. Create it"):
        Bucket("s3://not-there/x").check()
    with pytest.raises(StorageUnusable, match="names a bucket that does not exist"):
        Bucket("s3://not-there/x").find("a")


def test_a_read_only_storage_is_named_and_can_be_read(
    bucket: Bucket, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("a", b"kept")
    for name, value in s3.reader.items():
        monkeypatch.setenv(name, value)
    reader = Bucket(bucket.uri)
    assert reader.get("a") == b"kept"
    with pytest.raises(StorageUnusable, match=r"refused PutObject .*\(AccessDenied\)\. They need s3:ListBucket"):
        Store(bucket.uri).check()


def test_a_full_storage_is_named(bucket: Bucket) -> None:
    with pytest.raises(StorageFull, match=rf"^cannot write s3://{BUCKET}/{FULL}: XMinioStorageFull\. Free some space"):
        Bucket(f"s3://{BUCKET}/{FULL}").check()


@pytest.mark.usefixtures("s3_uri")
def test_a_storage_where_nothing_can_be_removed_is_named() -> None:
    with pytest.raises(StorageUnusable, match=r"refused DeleteObjects .*\(AccessDenied\)\. They need s3:ListBucket"):
        Bucket(f"s3://{BUCKET}/{HELD}").check()


def test_a_server_that_ignores_the_condition_is_refused(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would let two attempts each record a result: a put without the condition is what such a server does."""
    monkeypatch.setattr(bucket, "create", lambda name, content: bucket.put(name, content) is None)
    with pytest.raises(StorageUnusable, match="cannot keep two writers apart"):
        bucket.check()
    assert bucket.objects("") == []


def test_a_working_folder_that_cannot_be_written_is_named(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnusable, match=r"file/.* Not a directory\. Set FARM_HOME"):
        Store(bucket.uri, tmp_path / "file").check()


def test_a_client_without_boto3_is_told_when_it_needs_it() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('boto3', 'boto3.session', 'botocore', 'botocore.exceptions')))\n"
        "from farm.record.store import Store\n"
        "store = Store('s3://bucket/farm')\n"
        "print(store.place('cpu-a'), store.is_local)\n"
        "try: store.check()\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "s3://bucket/farm/runs/cpu-a False",
        "s3://bucket/farm needs boto3, which is not installed. Try: pip install boto3",
    ]


def test_only_what_is_complete_is_brought(bucket: Bucket, tmp_path: Path) -> None:
    """The manifest is a checkpoint's last object: without it the others are half an upload."""
    store = Store(bucket.uri, tmp_path)
    bucket.put("runs/r/1/checkpoints/step-00000001/weights", b"w")
    assert not store.copies.bring("runs/r/1/checkpoints/step-00000001").exists()
    bucket.put("runs/r/1/checkpoints/step-00000001/manifest.json", b"{}")
    folder = store.copies.bring("runs/r/1/checkpoints/step-00000001")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"manifest.json": b"{}", "weights": b"w"}


def test_a_file_that_grows_is_brought_again_and_never_an_older_state_of_it(bucket: Bucket, tmp_path: Path) -> None:
    store = Store(bucket.uri, tmp_path)
    bucket.put("runs/r/1/log.txt", b"one\n")
    path = store.copies.log("r", 1)
    assert path is not None
    assert path.read_bytes() == b"one\n"
    bucket.put("runs/r/1/log.txt", b"one\ntwo\n")
    assert store.copies.log("r", 1) == path
    assert path.read_bytes() == b"one\ntwo\n"
    path.write_bytes(b"one\ntwo\nthree\n")  # as on the node that writes it
    store.copies.log("r", 1)
    assert path.read_bytes() == b"one\ntwo\nthree\n"
    assert store.copies.log("r", 2) is None


def test_every_error_of_a_bucket_is_the_farms_own(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = Bucket(bucket.uri)
    for act in (
        lambda: away.get("a"),
        lambda: away.put("a", b""),
        lambda: away.create("a", b""),
        lambda: away.names("a"),
        lambda: away.objects("a"),
        lambda: away.find("a"),
        lambda: away.upload(io.BytesIO(b"x"), "a"),
        lambda: away.delete(["a"]),
    ):
        with pytest.raises(FarmError, match="cannot be reached"):
            act()
