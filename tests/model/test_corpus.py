"""Where tokens come from: every format read to the token, every damage named, nothing paid twice."""

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pydoc_data.topics import topics
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from waiting import wait_until

from farm.errors import BadCorpus, StorageFull, StorageUnusable, Unreachable
from farm.record.bucket import Bucket
from farm.study.recipe import Data, Recipe, digest
from farm.study.study import Study
from model.corpus import gpt2
from model.corpus.checks import prepare
from model.corpus.look import look
from model.corpus.sources import open_split
from model.corpus.text import BUILTIN

ROOT = Path(__file__).parents[2]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens, so that a connection fails at once


def tokens_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50257, count, dtype=np.uint16)


def python(code: str, *arguments: object, **environ: str) -> subprocess.Popen:
    """A Python of its own: for what is read at import, for its own memory, or to be one of two."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    settings = {"cwd": ROOT, "env": os.environ | environ, "text": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)


def output(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out.strip()


# The corpus inside Python


def test_the_built_in_corpus_is_the_language_reference_byte_by_byte(tmp_path):
    data = Data(source=BUILTIN)
    train, held_out = (open_split(data, split, tmp_path) for split in ("train", "validation"))
    written = b"".join(topics[name].encode() + b"\xff" for name in sorted(topics))  # a byte that UTF-8 never has
    assert [*train, *held_out] == [256 if byte == 0xFF else byte for byte in written]
    assert max(train.max(), held_out.max()) == 256
    assert len(train) == (len(train) + len(held_out)) * 9 // 10


def test_an_unknown_built_in_corpus_or_split_is_refused(tmp_path):
    with pytest.raises(BadCorpus, match=r"builtin:shakespeare.*builtin:python-reference"):
        open_split(Data(source="builtin:shakespeare"), "train", tmp_path)
    with pytest.raises(BadCorpus, match=r"no test split.*train and validation"):
        open_split(Data(source=BUILTIN), "test", tmp_path)


def test_the_demo_fits_its_corpus(tmp_path):
    runs = Study.load(ROOT / "examples" / "demo.toml").runs()
    assert len({prepare(run.recipe, tmp_path) for run in runs}) == 1  # one fingerprint: all arms read the same tokens


# A bucket


@pytest.fixture
def bucket(s3_uri, tmp_path):
    bucket = Bucket(s3_uri)
    for split, count in (("train", 1000), ("val", 100)):
        bucket.put(f"{split}.bin", tokens_of(count, seed=count).tobytes())
    return bucket


def test_a_bucket_is_brought_once_for_as_long_as_it_does_not_change(bucket, tmp_path, monkeypatch):
    data, reads = Data(source=bucket.uri), []
    read_into = Bucket.read_into
    monkeypatch.setattr(Bucket, "read_into", lambda self, name, file: (reads.append(name), read_into(self, name, file)))
    for _ in range(2):
        assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(1000, seed=1000))
        assert np.array_equal(open_split(data, "validation", tmp_path), tokens_of(100, seed=100))
    assert reads == ["train.bin", "val.bin"]
    bucket.put("train.bin", tokens_of(900).tobytes())
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(900))


def test_a_bucket_that_is_away_is_read_from_the_cache_or_named(bucket, tmp_path, monkeypatch, capfd):
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    bucket.put("train.bin", tokens_of(900).tobytes())
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(900)), "what was brought last"
    assert f"{bucket.uri} cannot be reached" in capfd.readouterr().err, "which the log says"
    with pytest.raises(StorageUnusable, match=f"{bucket.uri} cannot be reached at {NOWHERE}"):
        open_split(data, "validation", tmp_path)


def test_a_look_before_queueing_sees_what_was_brought_from_a_bucket(bucket, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        open_split(Data(source=bucket.uri), split, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    small = {"model": {"context": 10}, "train": {"batch": 2, "tokens": 100}, "evaluation": {"offset": 80}}
    faults, remarks = look(Recipe().with_patch({"data": {"source": bucket.uri}} | small), tmp_path, trains_here=True)
    assert ["val.bin has 100 tokens; evaluation.offset 80" in str(fault) for fault in faults] == [True]
    assert remarks == []


def test_a_bucket_that_is_away_was_what_it_was_when_seen_last(bucket, tmp_path, monkeypatch):
    """Not the newest of all that was ever brought: train.bin is there, but was replaced by a safetensors file."""
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    save_file({"tokens": tokens_of(700)}, tmp_path / "new")
    bucket.put("train.safetensors", (tmp_path / "new").read_bytes())
    open_split(data, "train", tmp_path)
    bucket.delete(["train.safetensors"])
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(1000, seed=1000))


def test_a_bucket_that_refuses_is_not_read_from_the_cache(bucket, tmp_path, monkeypatch):
    data = Data(source=bucket.uri)
    open_split(data, "train", tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(StorageUnusable, match="does not know this node's AWS credentials"):
        open_split(data, "train", tmp_path)


def test_a_bucket_without_the_split_says_what_it_holds(bucket, tmp_path):
    with pytest.raises(BadCorpus, match=rf"{bucket.uri} has no test split; it holds train.bin, val.bin"):
        open_split(Data(source=bucket.uri), "test", tmp_path)


# Files of tokens


def test_safetensors_are_mapped_as_they_lie(tmp_path):
    """Also behind another tensor and metadata, as any tool may write them."""
    tokens = tokens_of(1000)
    save_file({"a": tokens_of(7), "tokens": tokens, "z": tokens_of(5)}, tmp_path / "train.safetensors", {"by": "us"})
    read = open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert isinstance(read, np.memmap)
    assert read.dtype == np.uint16
    assert np.array_equal(read, tokens)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"tokens": np.zeros(9, np.int32)}, r"'tokens' is I32 \[9\], not one vector of U16"),
        ({"tokens": np.zeros((3, 3), np.uint16)}, r"'tokens' is U16 \[3, 3\], not one vector of U16"),
        ({"inputs": np.zeros(9, np.uint16), "ids": np.zeros(9)}, "no tensor 'tokens'; it holds ids, inputs"),
        ({"tokens": np.zeros(0, np.uint16)}, "holds no tokens"),
    ],
)
def test_safetensors_that_hold_something_else_are_refused_by_name_and_fault(tmp_path, tensors, fault):
    save_file(tensors, tmp_path / "train.safetensors")
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/train.safetensors.*{fault}"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def test_safetensors_cut_anywhere_are_refused_by_name(tmp_path):
    path, whole = tmp_path / "train.safetensors", save({"tokens": tokens_of(100)})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadCorpus, match=rf"{path}: (truncated|not a safetensors file)"):
            open_split(Data(source=str(path)), "train", tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=64),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3) | st.just("U16"),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["tokens", "dtype", "shape", "data_offsets"]), inner, max_size=4)
            ),
        ).map(lambda header: _with_header(json.dumps(header).encode())),
    )
)
def test_a_damaged_header_is_refused_and_never_crashes(tmp_path, content):
    (tmp_path / "train.safetensors").write_bytes(content)
    with pytest.raises(BadCorpus, match=r"train.safetensors"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def _with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize("offsets", [[-2, 6], [0, 6], [4, 4], [8, 16], [0, 2**70]])
def test_a_header_that_points_outside_its_tokens_is_refused(tmp_path, offsets):
    header = {"tokens": {"dtype": "U16", "shape": [4], "data_offsets": offsets}}
    (tmp_path / "train.safetensors").write_bytes(_with_header(json.dumps(header).encode()))
    with pytest.raises(BadCorpus, match=r"its header puts 4 tokens|truncated: 8 of the 8 bytes"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


def test_nanogpt_files_are_mapped_and_val_is_its_name_for_validation(tmp_path):
    tokens_of(50, 1).tofile(tmp_path / "train.bin")
    tokens_of(60, 2).tofile(tmp_path / "val.bin")
    data = Data(source=str(tmp_path))
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(50, 1))
    assert np.array_equal(open_split(data, "validation", tmp_path), tokens_of(60, 2))


def test_llm_c_files_are_mapped_behind_their_header(tmp_path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 700
    path = tmp_path / "fineweb_train_000001.bin"
    path.write_bytes(header.tobytes() + tokens_of(700).tobytes())
    data = Data(source=str(path))
    assert np.array_equal(open_split(data, "train", tmp_path), tokens_of(700))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        BadCorpus, match=r"fineweb_train_000001.bin: llm.c header of version 1 and 700 tokens on a file of"
    ):
        open_split(data, "train", tmp_path)


def test_half_a_token_is_refused(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(5))
    with pytest.raises(BadCorpus, match=r"train.bin: 5 bytes are not a whole number of uint16 tokens"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from farm.study.recipe import Recipe
from model.corpus.checks import prepare
from model.corpus.sources import open_split
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
folder = Path(sys.argv[1])
before = resident()
recipe = Recipe().patched({"data": {"source": str(folder)}, "train": {"tokens": 96 * 1024 * 1200},
                           "evaluation": {"offset": 0, "sequences": 10}})
tokens = open_split(recipe.data, "train", folder)
total = sum(int(tokens[i : i + 1025].sum()) for i in range(0, len(tokens), len(tokens) // 200))
prepare(recipe, folder / "cache")
print(len(tokens), total, resident() - before)
"""


def test_a_corpus_of_20_gb_costs_no_memory(tmp_path):
    """Mapped, sampled over its whole length, and 236 MB of it scanned: the process grows by less than 64 MiB."""
    count = 10**10
    header = json.dumps({"tokens": {"dtype": "U16", "shape": [count], "data_offsets": [0, 2 * count]}}).encode()
    for split in ("train", "validation"):
        with (tmp_path / f"{split}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * count)
    length, total, grown = map(int, output(python(MEMORY, tmp_path)).split())
    assert (length, total) == (count, 0)
    assert grown < 64 * 2**20


# Finding the file


@pytest.mark.parametrize("split", ["../train", "a/b", "", ".hidden", "*"])
def test_a_split_that_is_no_name_is_refused(tmp_path, split):
    tokens_of(50).tofile(tmp_path / "train.bin")
    with pytest.raises(BadCorpus, match=r"is not a valid split name"):
        open_split(Data(source=str(tmp_path / "x")), split, tmp_path)


def test_a_relative_path_is_refused_because_each_node_would_look_elsewhere(tmp_path, monkeypatch):
    tokens_of(50).tofile(tmp_path / "train.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadCorpus, match=r"relative path"):
        open_split(Data(source="."), "train", tmp_path)


def test_what_is_missing_is_said_with_what_is_there_and_what_to_put(tmp_path):
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/none does not exist here"):
        open_split(Data(source=str(tmp_path / "none")), "train", tmp_path)
    (tmp_path / "readme.md").touch()
    with pytest.raises(
        BadCorpus, match=r"no train split; it holds readme.md. Put train.safetensors, train.bin, or text"
    ):
        open_split(Data(source=str(tmp_path)), "train", tmp_path)
    with pytest.raises(BadCorpus, match=r"readme.md is not a corpus file"):
        open_split(Data(source=str(tmp_path / "readme.md")), "train", tmp_path)


# Text


DOCUMENTS = ["Hello, world.", "", "naïve café 🙂\n\n  two\tspaces", "a <|endoftext|> inside a text is only text"]


def expected(pieces: tiktoken.Encoding, documents: list[str]) -> list[int]:
    return [token for text in documents for token in [*pieces.encode_ordinary(text), 50256]]


def test_parquet_jsonl_and_txt_become_the_tokens_of_gpt2_each_document_closed_by_end_of_text(tmp_path, pieces):
    assert pieces.encode("Hello, world.") == [15496, 11, 995, 13]
    for number in range(2):  # two shards, whose order is that of their names
        share = DOCUMENTS[number * 2 : number * 2 + 2]
        rows = [{"id": i, "body": text} for i, text in enumerate(share)]
        pq.write_table(pa.Table.from_pylist(rows), _inside(tmp_path / "parquet/data") / f"train-{number}.parquet")
        (_inside(tmp_path / "jsonl") / f"train-{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        for index, text in enumerate(share):
            (_inside(tmp_path / "txt") / f"train-{number}{index}.txt").write_text(text)
    for kind in ("parquet", "jsonl", "txt"):
        data = Data(source=str(tmp_path / kind), text_field="body")
        assert open_split(data, "train", tmp_path / "cache").tolist() == expected(pieces, DOCUMENTS), kind


def _inside(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_text_is_tokenised_once_and_again_only_when_its_content_changes(tmp_path, pieces):
    source, data = tmp_path / "book.txt", Data(source=str(tmp_path / "book.txt"))
    source.write_text("one")
    first = open_split(data, "train", tmp_path / "cache").filename
    made = first.stat()
    source.touch()
    again = open_split(data, "train", tmp_path / "cache").filename
    assert (again, again.stat().st_ino, again.stat().st_mtime_ns) == (first, made.st_ino, made.st_mtime_ns)
    source.write_text("two")
    assert open_split(data, "train", tmp_path / "cache").tolist() == expected(pieces, ["two"])


def test_tokens_that_were_made_by_an_older_reading_are_not_used(tmp_path, pieces):
    """They may be those of another file, whose name the path of this one was taken for as a pattern."""
    (tmp_path / "book.txt").write_text("mine")
    old = {"content": [[".txt", hashlib.sha256(b"mine").hexdigest()]], "tokenizer": "gpt2", "field": "text"}
    (tmp_path / "cache" / "corpora").mkdir(parents=True)
    np.array([1, 2, 3], np.uint16).tofile(tmp_path / "cache" / "corpora" / f"{digest(old)}.bin")
    found = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache")
    assert found.tolist() == expected(pieces, ["mine"])


def test_a_row_without_text_is_named_and_leaves_nothing_behind(tmp_path, pieces):
    (tmp_path / "train.jsonl").write_text('{"text": "fine"}\n{"text": null, "content": "x"}')
    with pytest.raises(BadCorpus, match=r"train.jsonl: line 2: 'text' is null, not text.*Set data.text_field"):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "corpora").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.parquet", b"PAR1 not"),
        ("train.jsonl", b'{"text": "x"}\n{"te'),
        ("train.jsonl", b'{"text": "half \\ud83d of a pair"}'),
        ("train.txt", b"\xff\xfe\xfa"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_name(tmp_path, pieces, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadCorpus, match=name):
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")


def test_what_a_killed_process_left_unfinished_is_made_anew(tmp_path, pieces):
    (tmp_path / "book.txt").write_text("whole")
    made = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache").filename
    made.rename(made.with_suffix(".unfinished"))
    made.with_suffix(".unfinished").write_bytes(b"half of a very long corpus")
    again = open_split(Data(source=str(tmp_path / "book.txt")), "train", tmp_path / "cache")
    assert again.tolist() == expected(pieces, ["whole"])


def test_a_full_disk_is_said_and_may_be_tried_again(tmp_path):
    made = open_split(Data(source=BUILTIN), "train", tmp_path).filename
    made.unlink()
    made.with_suffix(".unfinished").symlink_to("/dev/full")
    with pytest.raises(StorageFull, match=f"{tmp_path}/corpora: no space left for the corpus") as full:
        open_split(Data(source=BUILTIN), "train", tmp_path)
    assert full.value.retryable
    assert len(open_split(Data(source=BUILTIN), "train", tmp_path)) > 100_000


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BadCorpus, match=rf"{tmp_path}/cache.*: Not a directory"):
        open_split(Data(source=BUILTIN), "train", tmp_path / "cache")


OPEN = """
import sys
from pathlib import Path
from farm.study.recipe import Data
from model.corpus.sources import open_split
print(open_split(Data(source=sys.argv[1]), "train", Path(sys.argv[2])).tolist()[:9])
"""


def test_of_two_processes_one_makes_the_corpus_and_the_other_waits_for_it(tmp_path):
    made = open_split(Data(source=BUILTIN), "train", tmp_path).filename
    made.unlink()
    lock = made.with_suffix(".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = python(OPEN, BUILTIN, tmp_path)
        wait_until(lambda: _is_waited_for(lock), "the second process waits for the lock", seconds=30)
        np.array([1, 2, 3], np.uint16).tofile(made)
    assert output(second) == "[1, 2, 3]"


def _is_waited_for(lock: Path) -> bool:
    inode = f":{lock.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_without_a_network_the_tokenizer_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    (tmp_path / "train.txt").write_text("text")
    with pytest.raises(Unreachable) as refused:
        open_split(Data(source=str(tmp_path)), "train", tmp_path / "cache")
    place = tmp_path / "tiktoken" / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
    assert f"needs vocab.bpe, which is not at {place}" in str(refused.value)
    assert f"fetch {gpt2.URL}vocab.bpe and copy it to {place} here (TIKTOKEN_CACHE_DIR moves" in str(refused.value)


def test_a_damaged_file_of_the_tokenizer_is_fetched_again_rather_than_used(tmp_path, pieces):
    for path in (tmp_path / "tiktoken").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Unreachable, match=r"needs vocab.bpe"):
        gpt2.encoder()


# Hugging Face


class Hub(ThreadingHTTPServer):
    """A dataset repo behind the part of the Hub's HTTP interface that a download uses."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files, self.asked = files, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, hub = unquote(self.path.split("?")[0]), self.server
        hub.asked.append(f"{self.command} {path}")
        name = path.removeprefix("/datasets/us/tokens/resolve/").partition("/")[2]
        if path.startswith("/api/datasets/us/tokens/tree/"):
            self._json([{"type": "file", "path": n, "size": len(b), "oid": _oid(b)} for n, b in hub.files.items()])
        elif path in (
            "/api/datasets/us/tokens",
            *(f"/api/datasets/us/tokens/revision/{r}" for r in ("main", hub.commit)),
        ):
            self._json({"id": "us/tokens", "sha": hub.commit, "siblings": [{"rfilename": name} for name in hub.files]})
        elif name in hub.files:
            self._answer(200, hub.files[name], {"ETag": f'"{_oid(hub.files[name])}"', "X-Repo-Commit": hub.commit})
        else:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        f"{split}.safetensors": save({"tokens": tokens_of(500, n)}) for n, split in enumerate(["train", "validation"])
    }
    server = Hub(files | {"README.md": b"tokens"})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


FETCH = """
import sys, json
from pathlib import Path
from farm.errors import FarmError
from farm.study.recipe import Data
from model.corpus.sources import open_split
source, revision, split, cache = sys.argv[1:]
try:
    print(json.dumps(open_split(Data(source=source, revision=revision or None), split, Path(cache)).tolist()))
except FarmError as error:
    print(f"{type(error).__name__}: {error}")
"""


def fetch(home: Path, endpoint: str, split: str = "train", source: str = "hf:us/tokens", revision: str = "") -> str:
    environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HTTPS_PROXY": NOWHERE}
    return output(python(FETCH, source, revision, split, home / "cache", **environ))


def test_only_the_file_of_the_split_is_fetched_and_then_served_without_a_network(tmp_path, hub):
    assert json.loads(fetch(tmp_path, hub.url)) == tokens_of(500, 0).tolist()
    assert {path.rsplit("/", 1)[1] for path in hub.asked if "/resolve/" in path} == {"train.safetensors"}
    assert json.loads(fetch(tmp_path, NOWHERE)) == tokens_of(500, 0).tolist()
    assert "the validation split is not in" in fetch(tmp_path, NOWHERE, "validation")


LOOK = """
import sys
from pathlib import Path
from farm.study.recipe import Recipe
from model.corpus.look import look
faults, remarks = look(Recipe().patched({"data": {"source": "hf:us/tokens"}}), Path(sys.argv[1]), True)
print(len(faults), len(remarks), faults[0] if faults else remarks[0])
"""


def test_a_look_before_queueing_sees_what_the_hubs_cache_has_and_fetches_nothing(tmp_path, hub):
    def looked() -> str:
        environ = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return output(python(LOOK, tmp_path / "cache", **environ))

    assert looked().startswith("0 1 hf:us/tokens is not in this machine's cache, and nothing is fetched")
    assert hub.asked == []
    fetch(tmp_path, hub.url)
    hub.asked.clear()
    assert "train.safetensors has 500 tokens; one sequence is model.context + 1 = 1,025" in looked()
    assert hub.asked == []


def test_a_cached_commit_is_not_asked_for_again(tmp_path, hub):
    first = fetch(tmp_path, hub.url, revision=hub.commit)
    hub.asked.clear()
    assert fetch(tmp_path, hub.url, revision=hub.commit) == first
    assert hub.asked == []


def test_a_repo_of_text_is_fetched_and_tokenised(tmp_path, hub, pieces):
    texts = [json.dumps({"text": text}).encode() for text in DOCUMENTS]
    hub.files = {f"data/train-0000{n}.jsonl": text for n, text in enumerate(texts)} | {"data/test.jsonl": b"{}"}
    assert json.loads(fetch(tmp_path, hub.url)) == expected(pieces, DOCUMENTS)
    assert not any("test.jsonl" in path for path in hub.asked)
    missing = next((tmp_path / "hub").rglob("train-00002.jsonl"))
    missing.unlink()
    assert fetch(tmp_path, NOWHERE).startswith("Unreachable")  # never a part of the corpus under its name


def test_of_a_repo_exactly_the_files_are_fetched_that_its_listing_names(tmp_path, hub, pieces):
    """As patterns, the first would be the third, the second anything, and the first not itself."""
    texts = {"train[1]": "a", "train*x": "b", "train1": "c"}
    hub.files = {f"data/{name}.jsonl": json.dumps({"text": text}).encode() for name, text in texts.items()}
    hub.files["data/train1.parquet.orig.jsonl.md"] = hub.files["data/tx.jsonl"] = b"{}"
    assert json.loads(fetch(tmp_path, hub.url)) == expected(pieces, ["b", "c", "a"])
    assert {path.rsplit("/", 1)[1] for path in hub.asked if "/resolve/" in path} == {f"{name}.jsonl" for name in texts}
    assert json.loads(fetch(tmp_path, NOWHERE)) == expected(pieces, ["b", "c", "a"])


def test_what_a_repo_lacks_is_said_with_what_it_holds(tmp_path, hub):
    assert fetch(tmp_path, hub.url, "test").startswith(
        "BadCorpus: hf:us/tokens has no test split; it holds train.safetensors, validation.safetensors, README.md."
    )
    said = fetch(tmp_path, hub.url, source="hf:us/token")
    assert said.startswith("BadCorpus: hf:us/token: ")
    assert said.endswith("Check data.source and data.revision; a private repo needs HF_TOKEN.")
    assert "not hf:OWNER/NAME" in fetch(tmp_path, hub.url, source="hf:tokens")


def test_without_network_and_cache_it_is_said_what_to_put_where(tmp_path):
    said = fetch(tmp_path, NOWHERE)
    folder = tmp_path / "hub" / "datasets--us--tokens"
    assert said.startswith(f"Unreachable: hf:us/tokens: the train split is not in {folder}, and {NOWHERE} cannot be")
    assert "run `hf download --repo-type dataset us/tokens train.safetensors` and copy that folder here" in said
    assert "(HF_HOME moves the cache)" in said


# What a recipe needs of its corpus


def corpus(folder: Path, train: np.ndarray, validation: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"tokens": train}, folder / "train.safetensors")
    save_file({"tokens": validation}, folder / "validation.safetensors")


def recipe(folder: Path, **patch: dict) -> Recipe:
    """100 tokens of training (5 steps x 2 x 10) and 60 of test (from 20 on) in sequences of 10; no validation."""
    tables = {
        "model": {"context": 10, "vocab": 300},
        "train": {"batch": 2, "tokens": 100},
        "data": {"source": str(folder)},
        "evaluation": {"offset": 20, "sequences": 6, "every": 0},
    }
    return Recipe().with_patch(tables).with_patch(patch)


def small(count: int, seed: int = 0) -> np.ndarray:
    return tokens_of(count, seed) % 300


def test_the_fingerprint_is_that_of_the_tokens_used_and_of_no_others(tmp_path):
    train, validation = small(150), small(100, 1)
    corpus(tmp_path / "a", train, validation)
    first = prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    changed = {
        "a": (0, 0),
        "trained": (100, 0),
        "after": (101, 0),
        "tested": (0, 80),
        "before": (0, 19),
        "end": (0, 81),
    }
    seen = {}
    for name, (in_train, in_test) in changed.items():
        one, two = train.copy(), validation.copy()
        one[in_train], two[in_test] = (one[in_train] + (in_train > 0)) % 300, (two[in_test] + (in_test > 0)) % 300
        corpus(tmp_path / name, one, two)
        seen[name] = prepare(recipe(tmp_path / name), tmp_path / "cache")
    assert {name for name, found in seen.items() if found == first} == {"a", "after", "before", "end"}
    assert len({seen["trained"], seen["tested"], first}) == 3


def test_a_shuffled_run_may_read_all_of_its_split_and_its_fingerprint_says_so(tmp_path):
    shuffled = {"data": {"order": "shuffled"}}
    train = small(151)
    found = []
    for name in ("a", "b"):
        corpus(tmp_path / name, train, small(100, 1))
        found.append(prepare(recipe(tmp_path / name, **shuffled), tmp_path / "cache"))
        train[150] += 1
    assert found[0] != found[1]


def test_the_scan_is_paid_once_for_as_long_as_the_file_does_not_change(tmp_path):
    corpus(tmp_path / "a", small(150), small(100, 1))
    path = tmp_path / "a" / "train.safetensors"
    first, stat = prepare(recipe(tmp_path / "a"), tmp_path / "cache"), path.stat()
    path.write_bytes(save({"tokens": small(150, 5)}))
    assert prepare(recipe(tmp_path / "a"), tmp_path / "cache") != first
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another content that looks like the scanned file
    assert prepare(recipe(tmp_path / "a"), tmp_path / "cache") == first


@pytest.mark.parametrize(("split", "position"), [("train", 100), ("validation", 80)])
def test_a_token_outside_the_vocabulary_is_named_with_its_place_and_the_remedy_works(tmp_path, split, position):
    tokens = {"train": small(150), "validation": small(100, 1)}
    tokens[split][position] = 300
    corpus(tmp_path / "a", tokens["train"], tokens["validation"])
    fault = rf"{split}.safetensors has token 300 at position {position}; model.vocab = 300 allows 0 to 299"
    with pytest.raises(BadCorpus, match=rf"{fault}. Set model.vocab to at least 301"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", model={"vocab": 301}), tmp_path / "cache")


def test_a_token_that_nobody_reads_may_be_anything(tmp_path):
    train, validation = small(150), small(100, 1)
    train[101], validation[[19, 81]] = 9999, 9999
    corpus(tmp_path / "a", train, validation)
    prepare(recipe(tmp_path / "a"), tmp_path / "cache")


def test_a_corpus_one_token_too_short_is_refused_with_the_numbers_and_every_remedy_works(tmp_path):
    corpus(tmp_path / "a", small(100), small(100, 1))
    with pytest.raises(BadCorpus) as refused:
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    assert "has 100 tokens; 5 steps x 2 sequences x 10 tokens, and one more to predict, need 101." in str(refused.value)
    assert "Set data.repeat = true, lower train.tokens to 80, or" in str(refused.value)
    prepare(recipe(tmp_path / "a", data={"repeat": True}), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", train={"tokens": 80}), tmp_path / "cache")
    corpus(tmp_path / "a", small(101), small(100, 1))
    prepare(recipe(tmp_path / "a"), tmp_path / "cache")


def test_a_corpus_shorter_than_one_sequence_is_refused_even_when_it_may_repeat(tmp_path):
    corpus(tmp_path / "a", small(10), small(100, 1))
    with pytest.raises(BadCorpus, match=r"has 10 tokens; one sequence is model.context \+ 1 = 11"):
        prepare(recipe(tmp_path / "a", data={"repeat": True}), tmp_path / "cache")


def test_a_test_slice_that_leaves_its_split_is_refused_and_the_remedy_works(tmp_path):
    corpus(tmp_path / "a", small(150), small(80, 1))
    fault = r"has 80 tokens; evaluation.offset 20 \+ 6 sequences x 10 tokens, and one more to predict, end at 81"
    with pytest.raises(BadCorpus, match=rf"{fault}. Lower evaluation.sequences to 5"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", evaluation={"sequences": 5}), tmp_path / "cache")


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_a_test_on_what_was_trained_on_is_refused_also_under_another_name(tmp_path, order):
    tokens = small(200)
    corpus(tmp_path / "a", tokens, tokens)
    (tmp_path / "a" / "alias.safetensors").symlink_to(tmp_path / "a" / "train.safetensors")
    for split in ("train", "alias"):
        with pytest.raises(
            BadCorpus, match=r"of the file that the test reads from token 99 on. Use another evaluation.split"
        ):
            prepare(
                recipe(tmp_path / "a", data={"order": order}, evaluation={"split": split, "offset": 99}),
                tmp_path / "cache",
            )


def test_one_file_may_serve_for_both_when_the_test_begins_where_training_ends(tmp_path):
    tokens_of(200).tofile(tmp_path / "all.bin")
    one = recipe(tmp_path / "all.bin", model={"vocab": 50257}, evaluation={"offset": 100, "every": 0.05})
    assert prepare(one, tmp_path / "cache").validated is None, "before the test lies what is trained on"
    with pytest.raises(BadCorpus, match="the file that a validation reads from token 20 on"):
        prepare(one.with_patch({"evaluation": {"validation_sequences": 8}}), tmp_path / "cache")
    with pytest.raises(BadCorpus, match=r"offset of at least 100"):
        prepare(one.with_patch({"evaluation": {"offset": 99}}), tmp_path / "cache")


def test_preparing_a_corpus_loads_neither_torch_nor_ray(tmp_path):
    code = "import sys, model.corpus.checks, model.data; print({'torch', 'ray', 'datasets'} & sys.modules.keys())"
    assert output(python(code)) == "set()"


def test_the_test_may_have_a_corpus_of_its_own(tmp_path):
    """Arms that train on other tokens are tested on the same ones."""
    for name, seed in (("a", 0), ("b", 7), ("common", 3)):
        corpus(tmp_path / name, small(150, seed), small(100, seed + 1))
    common = {"evaluation": {"source": str(tmp_path / "common")}}
    one, other = (prepare(recipe(tmp_path / name, **common), tmp_path / "cache") for name in ("a", "b"))
    own = prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    assert one.tested == other.tested != own.tested
    assert one.trained == own.trained != other.trained
    assert one.head == own.head != other.head
    assert np.array_equal(
        open_split(recipe(tmp_path / "a", **common).tested_data, "validation", tmp_path / "cache"), small(100, 4)
    )


def test_the_beginning_has_a_fingerprint_that_runs_of_any_length_share(tmp_path):
    long = (np.arange(5000) % 300).astype(np.uint16)
    corpus(tmp_path / "a", long, small(100, 1))
    short, longer = (
        prepare(recipe(tmp_path / "a", train={"tokens": count}), tmp_path / "cache") for count in (2000, 4000)
    )
    assert short.head == longer.head
    assert short.trained != longer.trained


def test_a_test_on_a_shorter_context_needs_fewer_tokens(tmp_path):
    corpus(tmp_path / "a", small(150), small(41, 1))
    with pytest.raises(BadCorpus, match="sequences x 10 tokens"):
        prepare(recipe(tmp_path / "a"), tmp_path / "cache")
    prepare(recipe(tmp_path / "a", evaluation={"context": 2}), tmp_path / "cache")
