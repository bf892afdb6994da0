"""The agent before it trains: a Redis that is away, a storage it cannot use, a checkpoint it must not, no torch."""

import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from results import result, study_text, tiny_study
from waiting import wait_until
from worlds import planned

from farm.errors import BadCorpus, Cancelled, FarmError, Hung, Nonfinite, OutOfMemory, StorageUnusable, WorkerDied
from farm.queue.node import Head, Node
from farm.queue.queue import Queue
from farm.queue.values import Claim, Point
from farm.record import energy, ledger
from farm.record.ledger import FILE, Line, Writer
from farm.record.result import Fingerprints, Outcome, Provenance, Tokens
from farm.record.runs import Runs
from farm.record.store import Store
from farm.reindex import reindex
from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine
from farm.study.run import Attempt, Checkpoint, Run, State
from farm.study.study import Study
from model.checkpoint import Contents, Identity, write
from model.corpus.sources import open_split
from workers.attempt import training
from workers.attempt.agent import Agent, open_redis
from workers.attempt.asks import Asks
from workers.attempt.ending import Asked, Broken, Done, Finished, ending
from workers.attempt.group import Also
from workers.attempt.outcome import result_of
from workers.attempt.resuming import as_before, newest, past
from workers.attempt.task import PULSE_FILE, Task

SOFTWARE = Provenance(farm="0", code="c" * 64, python="3.11", torch="2")
AWAY_SECONDS = 5.0  # longer than a client tries by itself, which is 2 to 3 s


def test_an_agent_waits_for_a_redis_that_is_away(tmp_path: Path) -> None:
    server = Server(tmp_path)
    here = Settings(home=tmp_path, redis_url=server.start(), storage=tmp_path)
    server.stop()
    back = threading.Timer(AWAY_SECONDS, server.start)
    back.start()
    try:
        with open_redis(here) as redis:
            assert redis.ping()
    finally:
        back.join()
        server.stop()


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


def begin(agent: Agent, attempt: Attempt) -> None:
    """As its work does, once it knows what to do."""
    agent.store.runs.begin(agent.queue.listing.status(attempt.run_id).run, attempt, "tiny")
    agent.work.attempt = attempt


def closed(agent: Agent, done: Done | None) -> int:
    """What the agent does once its work has come to that; the exit code."""
    return agent.closing.carry_out(ending(agent.asks.asked, done), agent.work).code


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


def attempt_of(agent: Agent, claim: Claim, checkpoints: tuple[int, ...], begun: tuple[int, int] | None = None) -> None:
    """What an attempt leaves that wrote `checkpoints` and stopped after the last. `begun`: the epoch and step it went
    on from."""
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    past = Attempt(run_id=claim.run.id, epoch=claim.lease.epoch, worker="w", plan=plan.model_dump(), started=1.0)
    folder = agent.store.runs.begin(claim.run, past)
    from_epoch, from_step = begun or (None, 0)
    with Writer(folder / FILE, claim.lease.epoch, from_epoch, from_step) as written:
        for step in range(from_step + 1, checkpoints[-1] + 1):
            written.append(Line(step, 64, 3.0, 1e-3, 1.0, False, False, 0.1))
    for step in checkpoints:
        contents = Contents(step, {"w": np.full(9, step, np.float32)}, {}, {})
        write(folder / "checkpoints", Identity.of(claim.run, plan), contents)
        agent.work.mirror.settle(0)


def resumption(queue: Queue, claim: Claim, here: Settings) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """The epoch and step that the run goes on from when it is claimed again, and what is said about it."""
    queue.release(claim.lease, "drained")
    again = queue.claim("cpu", "worker", 60)
    assert again is not None
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    post = Agent(here, queue, again.lease, "job", "node").work._post
    found = newest(post, claim.run, plan, past(post, claim.run))
    told = [
        (event.event, event.detail) for event in queue.listing.events(claim.run.id) if event.epoch == again.lease.epoch
    ]
    said = [(event, detail) for event, detail in told if event.endswith(("-invalid", "-cut"))]
    return found and (found.epoch, found.step), said


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_every_damaged_checkpoint_is_noted_and_the_next_older_taken(
    kind: str, queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    storage = s3_uri if kind == "s3" else tmp_path / "storage"
    first, second = (Settings(home=tmp_path / node, storage=storage) for node in ("node-1", "node-2"))
    queue.put(tiny_study())
    for epoch, checkpoints in ((1, (2, 3)), (2, (5, 7))):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(first, queue, claim.lease, "job", "node")
        attempt_of(agent, claim, checkpoints, begun=(1, 3) if epoch == 2 else None)
        if epoch == 1:
            queue.release(claim.lease, "drained")
    place = f"runs/{claim.run.id}/2/checkpoints"
    queue.checkpoint(claim.lease, Checkpoint(step=3, epoch=1, path=f"{place}/step-00000003", sha256=""))
    for name in ("step-00000007/weights.safetensors", "step-00000005/state.json"):
        agent.store.records.put(f"{place}/{name}", b"flipped")
    went_on, said = resumption(queue, claim, second)
    assert went_on == (1, 3)
    assert [(event, detail.split(":")[0]) for event, detail in said] == [
        ("checkpoint-invalid", f"{place}/step-00000007 was skipped"),
        ("checkpoint-invalid", f"{place}/step-00000005 was skipped"),
    ], "though the queue, which had heard of neither, points at an older one"


def spoilt(how: str, run_folder: Path) -> None:
    """Attempt 1 ended at step 3, and attempt 2 went on from there to step 7 with checkpoints at 5 and 7."""
    first, second = run_folder / "1", run_folder / "2"
    steps = (second / FILE).read_bytes().splitlines(keepends=True)  # a header, and steps 4 to 7
    match how:
        case "attempt 1 deleted":
            shutil.rmtree(first)
        case "ledger of attempt 1 deleted":
            (first / FILE).unlink()
        case "ledger of attempt 2 emptied":
            (second / FILE).write_bytes(b"")
        case "ledger of attempt 2 is a folder":
            (second / FILE).unlink()
            (second / FILE).mkdir()
        case "record of attempt 2 damaged":
            (second / "attempt.json").write_bytes(b"{")
        case "a bad tail":
            (second / FILE).write_bytes(b"".join(steps) + b"12\n")
        case "a bad middle":
            (second / FILE).write_bytes(b"".join([*steps[:3], b'{"step": 6}\n', *steps[4:]]))
        case "a checkpoint that leads out":
            (second / "checkpoints" / "step-00000009").symlink_to("/etc")
        case "weights that lead out":
            weights = second / "checkpoints" / "step-00000007" / "weights.safetensors"
            weights.rename(run_folder.parent / "elsewhere")
            weights.symlink_to(run_folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("how", "goes_on", "events"),
    [
        ("attempt 1 deleted", None, ["checkpoint-invalid"] * 2),
        ("ledger of attempt 1 deleted", None, ["checkpoint-invalid"] * 3),
        ("ledger of attempt 2 emptied", (1, 3), ["checkpoint-invalid"] * 2),
        ("ledger of attempt 2 is a folder", (1, 3), ["checkpoint-invalid"] * 2),
        ("record of attempt 2 damaged", (1, 3), ["attempt-invalid", *["checkpoint-invalid"] * 2]),
        ("a bad tail", (2, 7), ["ledger-cut"]),
        ("a bad middle", (2, 5), ["checkpoint-invalid", "ledger-cut"]),
        ("a checkpoint that leads out", (2, 7), ["checkpoint-invalid"]),
        ("weights that lead out", (2, 5), ["checkpoint-invalid"]),
    ],
)
def test_a_run_goes_on_only_where_checkpoint_ledger_and_record_are_whole(
    how: str, goes_on: tuple[int, int] | None, events: list[str], queue: Queue, tmp_path: Path
) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    for begun, checkpoints in ((None, (3,)), ((1, 3), (5, 7))):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        attempt_of(Agent(here, queue, claim.lease, "job", "node"), claim, checkpoints, begun)
        if begun is None:
            queue.release(claim.lease, "drained")
    spoilt(how, tmp_path / "storage" / "runs" / claim.run.id)
    went_on, said = resumption(queue, claim, here)
    assert went_on == goes_on, said
    assert [event for event, _ in said] == events, said


def test_q7_a_group_without_all_its_units_gives_the_run_back(queue: Queue, tmp_path: Path) -> None:
    """tests/workers/attempt/test_group.py has the units, on a real Ray."""
    queue.put(tiny_study())
    here = Settings(home=tmp_path, storage=tmp_path)
    released, cancelled = (queue.claim("cpu", "worker", 60) for _ in range(2))
    assert released is not None
    assert cancelled is not None
    also = [Also("rented", "0123456789abcdef", 2.0)]
    agent = Agent(here, queue, released.lease, "job", "node", also=also)
    assert closed(agent, agent.work._without_group()) == 0
    queue.cancel(cancelled.run.id)
    agent = Agent(here, queue, cancelled.lease, "job", "node", also=also)
    agent.asks.stop(Cancelled("as the heart was told"))
    assert closed(agent, agent.work._without_group()) == 0
    status = queue.listing.status(released.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 0)
    assert status.released == "no free unit of farm:rented on Ray node 01234567 within 60 s"
    assert queue.listing.status(cancelled.run.id).state is State.CANCELLED


def test_q7_an_attempt_that_begins_while_it_is_drained_is_on_record_as_released(queue: Queue, tmp_path: Path) -> None:
    """And one that was drained before leaves no record behind."""

    class SlowRuns(Runs):
        def begin(self, run: Run, attempt: Attempt, study: str | None = None) -> Path:
            folder = super().begin(run, attempt, study)
            began.set()
            time.sleep(0.5)
            return folder

    queue.put(tiny_study())
    for is_late in (True, False):
        claim, began = queue.claim("cpu", "worker", 60), threading.Event()
        assert claim is not None
        agent = Agent(Settings(home=tmp_path, storage=tmp_path / "s"), queue, claim.lease, "job", "node")
        agent.work._store.runs = SlowRuns(agent.work._store)
        plan, machine = planned(claim.run, 1, claim.run.recipe.train.batch), BUILT_IN["cpu"]
        begin = partial(agent.work._begin, claim.run, "tiny", machine, plan, None)
        agent.asks.drain()
        if is_late:
            beginning = threading.Thread(target=begin)
            beginning.start()
            assert began.wait(10)
            assert closed(agent, None) == 0
            beginning.join()
        else:
            assert closed(agent, None) == 0
            with pytest.raises(FarmError, match="closed before it began"):
                begin()
        outcomes = [
            attempt.outcome for attempt in agent.store.runs.attempts(claim.run.id) if attempt.epoch == claim.lease.epoch
        ]
        assert outcomes == ["released"] * is_late


def test_copies_stay_while_the_run_goes_on_since_its_next_attempt_may_be_here(
    queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path, storage=s3_uri), queue, claim.lease, "job", "node")
    agent.work.folder.mkdir(parents=True)
    queue.release(claim.lease, "drained")
    agent.work.leave()
    assert agent.work.folder.exists()
    queue.cancel(claim.run.id)
    agent.work.leave()
    assert not agent.work.folder.exists()


CHILD = """
import sys
from functools import partial
from pathlib import Path

from farm.queue.queue import Queue
from farm.study.run import Lease
from farm.site.settings import Settings
from workers.attempt import agent

home, url, lease, seconds = sys.argv[1:]
agent.STOP_SECONDS = float(seconds)
agent.keep = partial(agent.keep, every_seconds=0.1)
here = Settings(home=Path(home), storage=Path(home) / "storage", redis_url=url)
with agent.open_redis(here) as redis:
    sys.exit(agent.Agent(here, Queue(redis), Lease.model_validate_json(lease), "job", "node").serve())
"""


def getting_ready(queue: Queue, home: Path) -> Claim:
    """A claim of a run whose corpus is a text that never comes."""
    corpus = home / "corpus"
    corpus.mkdir()
    for split in ("train", "validation"):
        os.mkfifo(corpus / f"{split}.txt")
    queue.put(Study.parse(study_text().replace("builtin:python-reference", str(corpus))))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    return claim


@pytest.mark.parametrize("phase", ["gets ready", "trains", "trains and cannot be told"])
def test_q7_whatever_an_agent_does_when_it_is_drained_it_releases_in_time(
    phase: str, queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    """Before the first step at once; afterwards before Ray loses its patience, though nothing hears the agent here."""
    claim, store = getting_ready(queue, tmp_path), Store(tmp_path / "storage")
    folder = store.attempt_folder(claim.run.id, 1)
    seconds = "600" if phase == "gets ready" else "0.5"
    command = [sys.executable, "-c", CHILD, str(tmp_path), redis_url, claim.lease.model_dump_json(), seconds]
    with subprocess.Popen(command) as agent:
        try:
            wait_until(lambda: store.runs.attempts(claim.run.id), "the attempt has begun", 60)
            if phase == "trains and cannot be told":
                (folder / "stop").mkdir()
            if phase != "gets ready":
                with Writer(folder / ledger.FILE, epoch=1) as written:
                    written.append(Line(1, 64, 3.0, 1e-3, 1.0, False, False, 0.1))
            agent.terminate()
            assert agent.wait(timeout=20) == 0
        finally:
            agent.kill()
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 0)
    assert [attempt.outcome for attempt in store.runs.attempts(claim.run.id)] == ["released"]
    assert phase != "trains" or (folder / "stop").read_text() == "STOP"


def test_q8_a_run_that_is_cancelled_while_its_agent_gets_ready_ends_at_once(
    queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    claim, store = getting_ready(queue, tmp_path), Store(tmp_path / "storage")
    command = [sys.executable, "-c", CHILD, str(tmp_path), redis_url, claim.lease.model_dump_json(), "600"]
    with subprocess.Popen(command) as agent:
        try:
            wait_until(lambda: store.runs.attempts(claim.run.id), "the attempt has begun", 60)
            queue.cancel(claim.run.id)
            assert agent.wait(timeout=20) == 0
        finally:
            agent.kill()
    assert queue.listing.status(claim.run.id).state is State.CANCELLED
    assert [attempt.outcome for attempt in store.runs.attempts(claim.run.id)] == ["cancelled"]


def test_q7_an_agent_that_was_told_to_stop_before_it_had_begun_gives_the_lease_back(
    queue: Queue, tmp_path: Path
) -> None:
    queue.put(tiny_study())
    claim, asks = queue.claim("cpu", "worker", 60), Asks()
    assert claim is not None
    asks.drain()
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    assert Agent(here, queue, claim.lease, "job", "node", asks).serve() == 0
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.job) == (State.QUEUED, 0, None)


@pytest.mark.parametrize(("error", "attempts"), [(WorkerDied(), 0), (Nonfinite(), 1)])
def test_q7_what_dies_while_it_is_drained_is_released(
    error: FarmError, attempts: int, queue: Queue, tmp_path: Path
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    agent.asks.drain()
    closed(agent, Broken(error))
    assert queue.listing.status(claim.run.id).attempts == attempts


def test_a_line_that_is_slow_after_training_is_no_hang(queue: Queue, tmp_path: Path) -> None:
    """The last checkpoint's upload may take longer than `hang_seconds`; training may not stand still for so long."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    agent.store.runs.begin(claim.run, an_attempt(claim.run, 1), "tiny")
    work = agent.work
    assert work.sign() is None, "it gets ready"
    with Writer(work.folder / FILE, 1) as writer, work._watched():
        assert work.sign() is None, "no step yet"
        writer.append(Line(1, 256, 768.0, 1e-3, None, False, False, 0.1))
        stepped = work.sign()
        (work.folder / PULSE_FILE).touch()
        assert len({None, stepped, work.sign()}) == 3, "the evaluation advances"
    assert work.sign() is None, "what is left is to send it up"


@pytest.mark.parametrize("is_hung", [True, False])
def test_what_stands_still_is_not_waited_for_to_be_sent_up(is_hung: bool, queue: Queue, tmp_path: Path) -> None:
    """The heart has stopped, and the lease is about to run out."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    begin(agent, an_attempt(claim.run, 1))
    settled: list[float] = []
    agent.work.settle = lambda seconds, is_urgent: settled.append(seconds)
    if is_hung:
        agent.asks.stop(Hung())
    assert closed(agent, None if is_hung else Broken(WorkerDied())) == 1
    assert bool(settled) is not is_hung
    assert [attempt.outcome for attempt in agent.store.runs.attempts(claim.run.id)] == ["failed"]


def test_q6_an_attempt_that_dies_before_its_first_step_has_died_where_it_resumed(queue: Queue, tmp_path: Path) -> None:
    queue.put(tiny_study())
    for died in range(1, 4):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(Settings(home=tmp_path / "h", storage=tmp_path / "s"), queue, claim.lease, "job", "node")
        agent._take_over()
        if died == 1:
            queue.checkpoint(claim.lease, Checkpoint(step=5, epoch=1, path="p", sha256=""))
            agent.work.resumed = 5
        assert closed(agent, Broken(WorkerDied())) == 1
        queue.redis.zadd("farm:queue:cpu", {claim.run.id: 0})
        queue.redis.delete("farm:delayed:cpu")
    status = queue.listing.status(claim.run.id)
    assert [cause.step for cause in status.causes] == [5, 5, 5]
    assert queue.listing.events(claim.run.id)[-1].detail == "3 crashes at step 5"


def test_a_hang_is_on_record_too(queue: Queue, tmp_path: Path) -> None:
    """Or a reindex would train anew what has failed for good."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    begin(agent, an_attempt(claim.run, 1))
    agent.asks.stop(Hung())
    assert closed(agent, None) == 1
    (attempt,) = agent.store.runs.attempts(claim.run.id)
    assert (attempt.outcome, attempt.cause, attempt.retryable) == ("failed", "hung", True)
    assert [cause.cause for cause in queue.listing.status(claim.run.id).causes] == ["hung"]


def test_a_plan_that_ran_out_of_memory_is_not_kept_and_what_trained_since_is(queue: Queue, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    run, batch = claim.run, claim.run.recipe.train.batch
    fresh = planned(run, 1, batch // 2)

    def found(agent: Agent, claim: Claim) -> int:
        source = Checkpoint(step=3, epoch=claim.lease.epoch, path="", sha256="")
        post = agent.work._post
        return as_before(post, run, source, fresh, past(post, run), BUILT_IN["cpu"]).microbatch

    agent = Agent(here, queue, claim.lease, "job", "node")
    attempt_of(agent, claim, (3,))
    assert found(agent, claim) == batch
    queue.fail(claim.lease, OutOfMemory().cause, "2 GiB", 3, retryable=True)
    assert found(agent, claim) == batch // 2
    again = wait_until(lambda: queue.claim("cpu", "worker", 60), "it is queued again")
    agent = Agent(here, queue, again.lease, "job", "node")
    attempt_of(agent, again, (5,), begun=(1, 3))
    assert found(agent, again) == batch


def test_a_microbatch_that_runs_out_of_memory_in_training_lowers_the_class(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent, plan = Agent(here, queue, claim.lease, "job", "node"), planned(claim.run, 1, 4)
    task = Task(
        run=claim.run,
        study="tiny",
        plan=plan,
        lease=claim.lease,
        folder=str(tmp_path),
        place="",
        cache=str(tmp_path),
        tokens=Tokens(head="b", trained="b", tested="b"),
        threads=1,
        is_mirrored=False,
    )

    def fit(*_: object) -> Outcome:
        raise OutOfMemory

    monkeypatch.setattr(training, "fit", fit)
    gpu = Machine(name="1xtest", accelerator="Test", memory=2**34, usd_per_hour=1.0)
    with pytest.raises(OutOfMemory):
        training._fit(agent.work._post, task, gpu)
    assert list(queue.roster.machines()["1xtest"].probes.values()) == [3]


def an_outcome(run: Run) -> Outcome:
    return Outcome(
        finished=True,
        step=run.recipe.steps,
        checkpoint=f"checkpoints/step-{run.recipe.steps:08d}",
        checkpoint_seconds_stalled=0.0,
        test_loss=3.0,
        test_tokens=256,
        best_loss=3.0,
        best_step=run.recipe.steps,
        kernels=("farm",),
        compiled=(False,),
        fingerprints=Fingerprints(initial="a", tokens=Tokens(head="b", trained="b", tested="b"), final="c"),
    )


def an_attempt(run: Run, epoch: int) -> Attempt:
    software = SOFTWARE.model_dump(mode="json")
    return Attempt(run_id=run.id, epoch=epoch, worker="worker", provenance=software, started=time.time())


def test_a_result_counts_the_steps_of_a_killed_attempt_and_names_the_software_that_began(tmp_path: Path) -> None:
    store, run = Store(tmp_path), tiny_study().runs()[0]
    for epoch, steps in ((1, 3), (2, run.recipe.steps)):  # nobody said how the first ended
        attempt = an_attempt(run, epoch)
        with Writer(store.runs.begin(run, attempt, "tiny") / FILE, epoch) as writer:
            for step in range(1, steps + 1):
                writer.append(Line(step, 256, 768.0, 1e-3, None, False, False, 100.0))
        used = energy.Used(seconds=300.0, joules=1.8e6 * epoch, meter="rapl").model_dump_json()
        (store.attempt_folder(run.id, epoch) / energy.file(0)).write_text(used + "\n", encoding="utf-8")
    plan = planned(run, 1, run.recipe.train.batch)
    found = result_of(store, run, plan, BUILT_IN["cpu"], attempt, an_outcome(run))
    assert found.seconds == pytest.approx(300.0 + found.ended - attempt.started)
    assert (found.kwh, found.energy_meter) == (pytest.approx(1.5), "rapl")
    assert found.provenance == SOFTWARE


def test_q8_a_run_that_was_cancelled_after_its_last_step_gains_no_result(queue: Queue, tmp_path: Path) -> None:
    """Neither now, nor from its directory by a retry or a reindex."""
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    run, agent = claim.run, Agent(here, queue, claim.lease, "job", "node")
    began = an_attempt(run, 1)
    begin(agent, began)
    with Writer(agent.work.folder / FILE, 1) as writer:
        for step in range(1, run.recipe.steps + 1):
            writer.append(Line(step, 256, 768.0, 1e-3, None, False, False, 0.1))
    queue.cancel(run.id)
    split = planned(run, 1, run.recipe.train.batch)
    closed(agent, Finished(agent.work._recorded(run, split, BUILT_IN["cpu"], began, an_outcome(run))))
    assert queue.listing.status(run.id).state is State.CANCELLED
    assert (agent.store.root / "runs" / run.id / "result.json").exists()
    assert agent.store.runs.result(run.id) is None
    assert [attempt.outcome for attempt in agent.store.runs.attempts(run.id)] == ["cancelled"]
    rebuilt = Queue(queue.redis, "farm:rebuilt:")
    reindex(agent.store, rebuilt)
    assert rebuilt.listing.status(run.id).state is State.CANCELLED


def test_q8_a_result_of_before_is_not_told_of_a_run_that_is_being_cancelled(queue: Queue, tmp_path: Path) -> None:
    """And Q5: without the cancel it is told, whoever recorded it."""
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    states = []
    for is_cancelled in (True, False):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(here, queue, claim.lease, "job", "node")
        agent.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
        agent.store.runs.record(result(claim.run, 3.0))
        if is_cancelled:
            queue.cancel(claim.run.id)
        assert closed(agent, agent.work.do(claim.run, claim.study)) == 0
        states.append((queue.listing.status(claim.run.id).state, agent.store.runs.result(claim.run.id) is None))
    assert states == [(State.CANCELLED, True), (State.SUCCEEDED, False)]


def test_a_failure_is_on_record_with_its_step_and_whether_it_may_be_tried_again(queue: Queue, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(here, queue, claim.lease, "job", "node")
    began = Attempt(run_id=claim.run.id, epoch=1, worker="worker", started=time.time())
    agent.store.runs.begin(claim.run, began, "tiny")
    with Writer(agent.work.folder / FILE, 1) as writer:
        writer.append(Line(1, 256, 768.0, 1e-3, None, False, False, 0.1))
    agent.work.attempt = began
    for error, retryable in ((Nonfinite(), False), (WorkerDied(), True)):
        agent.closing._record(ending(Asked(), Broken(error)), agent.work)
        (attempt,) = agent.store.runs.attempts(claim.run.id)
        assert (attempt.step, attempt.retryable) == (1, retryable)


def test_an_agent_imports_no_torch() -> None:
    """Each of a run's processes would import it anew: 1.5 s of a core and 200 MB, in the way of the one that trains."""
    code = "import sys, workers.attempt.agent; assert 'ray.train' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_curve_is_completed_from_the_ledger_when_it_begins_and_ends(queue: Queue, tmp_path: Path) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path, storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    attempt_of(agent, claim, (1500,))
    queue.record(claim.lease, [Point(step=1, loss=3.0, lr=1e-3, grad_norm=1.0, tokens_per_second=1.0)])
    agent.work.complete(Checkpoint(step=700, epoch=1, path="", sha256=""))
    assert [point.step for point in queue.listing.curve(claim.run.id)] == list(range(1, 701)), (
        "no gap where one was killed"
    )
    agent.work.complete()
    assert [point.step for point in queue.listing.curve(claim.run.id)] == list(range(1, 1501))


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
