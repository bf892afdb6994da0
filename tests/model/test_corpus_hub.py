"""A corpus on the Hugging Face hub, served here by a hub of our own: exact files, and the cache without a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpora import DOCUMENTS, NOWHERE, expected, output, python, tokens_of
from hub_server import Hub, Repo, serving
from safetensors.numpy import save

# Hugging Face


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {
        f"{split}.safetensors": save({"tokens": tokens_of(500, n)}) for n, split in enumerate(["train", "validation"])
    }
    with serving(Hub()) as server:
        hold(server, files | {"README.md": b"tokens"})
        yield server


def hold(hub: Hub, files: dict[str, bytes]) -> None:
    """Let the repo be these files, and nothing else."""
    repo = hub.repos.setdefault("datasets/us/tokens", Repo())
    repo.commit("main", files, "files")


def commit(hub: Hub) -> str:
    return hub.repos["datasets/us/tokens"].branches["main"][-1]


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
    first = fetch(tmp_path, hub.url, revision=commit(hub))
    hub.asked.clear()
    assert fetch(tmp_path, hub.url, revision=commit(hub)) == first
    assert hub.asked == []


def test_a_repo_of_text_is_fetched_and_tokenised(tmp_path, hub, pieces):
    texts = [json.dumps({"text": text}).encode() for text in DOCUMENTS]
    hold(hub, {f"data/train-0000{n}.jsonl": text for n, text in enumerate(texts)} | {"data/test.jsonl": b"{}"})
    assert json.loads(fetch(tmp_path, hub.url)) == expected(pieces, DOCUMENTS)
    assert not any("test.jsonl" in path for path in hub.asked)
    missing = next((tmp_path / "hub").rglob("train-00002.jsonl"))
    missing.unlink()
    assert fetch(tmp_path, NOWHERE).startswith("Unreachable")  # never a part of the corpus under its name


def test_of_a_repo_exactly_the_files_are_fetched_that_its_listing_names(tmp_path, hub, pieces):
    """As patterns, the first would be the third, the second anything, and the first not itself."""
    texts = {"train[1]": "a", "train*x": "b", "train1": "c"}
    files = {f"data/{name}.jsonl": json.dumps({"text": text}).encode() for name, text in texts.items()}
    hold(hub, files | {"data/train1.parquet.orig.jsonl.md": b"{}", "data/tx.jsonl": b"{}"})
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
