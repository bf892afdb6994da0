"""A corpus on the Hugging Face hub, served here by a hub of our own: exact files, and the cache without a network."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from corpora import DOCUMENTS, NOWHERE, expected, output, python, tokens_of
from safetensors.numpy import save

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
faults, remarks = look(Recipe().with_patch({"data": {"source": "hf:us/tokens"}}), Path(sys.argv[1]), True)
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
