"""What an agent does on a node whose corpus or storage is at fault: the run is unharmed, and waits."""

import platform
from pathlib import Path

import numpy as np
import pytest
from attempts import SOFTWARE, attempt_of, closed
from results import study_text, tiny_study
from worlds import planned

from farm.errors import BadCorpus, StorageUnusable
from farm.queue.node import Head, Node
from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.run import Checkpoint, State
from farm.study.study import Study
from model.checkpoint import Contents, Identity, write
from model.corpus.sources import open_split
from workers.attempt.agent import Agent
from workers.attempt.ending import Broken
from workers.attempt.group import Also


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("s3://not-there/farm", "s3://not-there/farm names a bucket that does not exist. Create it, or name another."),
        ("/proc/farm", "the storage /proc/farm cannot hold records: No such file or directory. Set FARM_STORAGE to a"),
    ],
)
def test_a_node_that_cannot_use_the_storage_gives_the_run_back_and_rests(
    storage: str, says: str, queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    here = Settings(home=tmp_path / "home", storage=storage if "://" in storage else Path(storage))
    queue.roster.sight([Node(id="node", name="gpu-1", host="gpu-1", address="10.0.0.7", units={"cpu": 1})], 60)
    assert Agent(here, queue, claim.lease, "job", "node").serve() == 1
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ()), "the fault is the node's"
    assert status.released is not None
    assert status.released.startswith(f"on {platform.node()} {says}")
    assert queue.claim("cpu", "worker", 60, node="node") is None, "it would spend the next run's attempts as well"
    assert queue.roster.nodes()[0].resting == status.released
    assert queue.claim("cpu", "worker", 60, node="another") is not None


def of_corpus(queue: Queue, source: str) -> Claim:
    """A claim of the first of three runs that read `source`."""
    queue.put(Study.parse(study_text(init=(42,)).replace("builtin:python-reference", source)))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    return claim


def attempted(queue: Queue, claim: Claim, home: Path, node: str = "node") -> Store:
    """The storage, after an agent has tried."""
    here = Settings(home=home / "home", storage=home / "storage")
    assert Agent(here, queue, claim.lease, "job", node).serve() == 1
    return Store(home / "storage")


def is_unharmed(queue: Queue, store: Store, claim: Claim) -> bool:
    """Queued again, with no attempt counted: by the queue, and by who reads the run directory."""
    status = queue.listing.status(claim.run.id)
    (kept,) = store.runs.attempts(claim.run.id)
    return (status.state, status.attempts, status.causes, kept.outcome) == (State.QUEUED, 0, (), "released")


def test_q11_a_corpus_that_is_not_there_pauses_its_runs_and_costs_no_attempt(queue: Queue, tmp_path: Path) -> None:
    claim = of_corpus(queue, f"{tmp_path}/nowhere")
    assert is_unharmed(queue, attempted(queue, claim, tmp_path), claim)
    (pause,) = queue.listing.pauses()
    assert pause.node is None
    assert pause.reason.startswith(f"bad-corpus: {tmp_path}/nowhere does not exist here.")
    assert pause.reason.endswith(f" (on {platform.node()})")
    assert queue.claim("cpu", "worker", 60) is None, "the other two would meet the same"


def test_q11_a_node_that_alone_does_not_see_the_corpus_starts_none_of_its_runs(queue: Queue, tmp_path: Path) -> None:
    elsewhere = of_corpus(queue, f"{tmp_path}/nowhere")
    queue.renew(elsewhere.lease, 3, job="its job", node="another")
    claim = queue.claim("cpu", "worker", 60, node="node")
    assert claim is not None
    assert is_unharmed(queue, attempted(queue, claim, tmp_path), claim)
    assert [pause.node for pause in queue.listing.pauses()] == ["node"]
    assert queue.claim("cpu", "worker", 60, node="node") is None
    assert queue.claim("cpu", "worker", 60, node="another") is not None
    queue.retry(claim.run.id)
    queue.checkpoint(elsewhere.lease, Checkpoint(step=3, epoch=1, path="x", sha256=""))
    again = queue.claim("cpu", "worker", 60, node="node")
    assert again is not None
    attempted(queue, again, tmp_path)
    assert [pause.node for pause in queue.listing.pauses()] == [None], "one that only resumes has proved nothing yet"


def test_q11_a_mixed_group_is_paused_everywhere_since_units_are_kept_for_it(queue: Queue, tmp_path: Path) -> None:
    elsewhere = of_corpus(queue, f"{tmp_path}/nowhere")
    queue.renew(elsewhere.lease, 3, job="its job", node="another")
    claim = queue.claim("cpu", "worker", 60, node="node+rented")
    assert claim is not None
    here = Settings(home=tmp_path, storage=tmp_path)
    agent = Agent(here, queue, claim.lease, "job", "node", also=[Also("rented", "rented", 2.0)])
    closed(agent, Broken(BadCorpus("gone"), "corpus"))
    assert [pause.node for pause in queue.listing.pauses()] == [None]


def test_q11_a_tokenizer_that_cannot_be_fetched_pauses_after_a_while(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tokenizers"))
    monkeypatch.setattr("model.corpus.gpt2.URL", "http://127.0.0.1:9/")
    monkeypatch.setattr("workers.attempt.post.NETWORK_SECONDS", 0.2)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "validation"):
        (corpus / f"{split}.txt").write_text("a text\n" * 9)
    claim = of_corpus(queue, str(corpus))
    assert is_unharmed(queue, attempted(queue, claim, tmp_path), claim)
    assert queue.listing.pauses()[0].reason.startswith("unreachable: ")
    assert capsys.readouterr().out.count("Trying again: ") > 1, "a network may be away for a moment"


def test_a_cache_on_a_full_disk_is_the_node_s_fault(queue: Queue, tmp_path: Path) -> None:
    claim = of_corpus(queue, "builtin:python-reference")
    made = Path(open_split(claim.run.recipe.data, "train", tmp_path / "home" / "cache").filename)
    made.unlink()
    made.with_suffix(".unfinished").symlink_to("/dev/full")
    assert is_unharmed(queue, attempted(queue, claim, tmp_path), claim)
    assert queue.listing.pauses() == []
    assert queue.claim("cpu", "worker", 60, node="node") is None, "it rests"
    assert queue.claim("cpu", "worker", 60, node="another") is not None


def test_a_folder_that_is_not_the_farms_is_no_storage(queue: Queue, tmp_path: Path) -> None:
    """As where nothing is mounted: it can be written, and nobody would ever find what was."""
    theirs = Store(tmp_path / "theirs")
    queue.roster.publish(
        Head(host="head", ray="h:1", software=SOFTWARE, sources="/s", storage=theirs.uri, marker=theirs.mark())
    )
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    here = Settings(home=tmp_path / "home", storage=tmp_path / "ours")
    assert Agent(here, queue, claim.lease, "job", "node").serve() == 1
    released = queue.listing.status(claim.run.id).released
    assert (
        released
        == f"on {platform.node()} {here.storage} on this node is not the farm's storage, {theirs.uri} on head. "
        + ("Mount that one, or set FARM_STORAGE to it, as on the head.")
    )


def test_a_storage_that_was_renamed_is_not_made_anew(queue: Queue, tmp_path: Path) -> None:
    """By whoever had it open, nor by an agent that starts meanwhile: renamed back, it would lie inside the new one."""
    storage = tmp_path / "storage"
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    store = Store(storage)
    queue.roster.publish(
        Head(host="head", ray="h:1", software=SOFTWARE, sources="/s", storage=store.uri, marker=store.mark())
    )
    here = Settings(home=tmp_path / "home", storage=storage)
    agent = Agent(here, queue, claim.lease, "job", "node")
    attempt_of(agent, claim, (3,))
    storage.rename(tmp_path / "renamed")
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    agent.work._say("STOP")
    contents = Contents(4, {"w": np.full(9, 4, np.float32)}, {}, {})
    with pytest.raises(OSError, match="No such file"):
        write(agent.work.folder / "checkpoints", Identity.of(claim.run, plan), contents)
    with pytest.raises(StorageUnusable, match=r"no longer exists\. Mount it again"):
        store.studies.keep(tiny_study())
    assert Agent(here, queue, claim.lease, "job", "node").serve() == 1
    assert not storage.exists()
    assert queue.listing.status(claim.run.id).state is State.QUEUED
    (tmp_path / "renamed").rename(storage)
    store.studies.keep(tiny_study())
