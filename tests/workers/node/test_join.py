"""What keeps a machine from joining before any Ray is asked. tests/walk/test_join.py has machines that do join."""

import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from results import study_text
from waiting import wait_until

from farm.errors import BadSetting, BadStudy, Conflict, FarmError, Unreachable
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine
from farm.study.study import Study
from workers.node import hardware
from workers.node import join as membership
from workers.node.join import Farewell, _Member, _offer, _RayProcess, _wanted_classes, join


@pytest.fixture
def here(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A machine of the farm behind `redis_url`, whose storage and secret it shares."""
    (tmp_path / "storage").mkdir()
    (tmp_path / "token").write_text("a secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return Settings(home=tmp_path / "home", storage=tmp_path / "storage", redis_url=redis_url)


@pytest.fixture
def head(here: Settings, queue: Queue) -> Head:
    """The head of that farm, of this very software."""
    head = Head(
        host="head",
        ray="10.0.0.5:6379",
        software=hardware.provenance(),
        sources="/opt/farm",
        storage="/farm/storage",
        marker=Store(here.storage).mark(),
    )
    queue.roster.publish(head)
    return head


def refused(kind: type[FarmError], here: Settings, **options: object) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # so that nothing listens there
        with pytest.raises(kind) as caught:
            join(here, f"127.0.0.1:{free.getsockname()[1]}", farewell=Farewell(), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_farm_has_a_redis_that_all_share(here: Settings) -> None:
    said = refused(BadSetting, here.model_copy(update={"redis_url": None}))
    assert "Set FARM_REDIS_URL" in said


def test_a_redis_that_no_head_has_used(here: Settings, queue: Queue) -> None:
    assert "farm serve --attach" in refused(Unreachable, here)


@pytest.mark.usefixtures("head")
def test_a_class_that_nobody_declared(here: Settings) -> None:
    said = refused(BadStudy, here, machine="9xb200")
    assert "unknown machine class '9xb200'" in said
    assert "8xa100m40" in said
    assert "[machines.9xb200]" in said


@pytest.mark.usefixtures("head")
def test_a_class_that_a_study_or_another_node_declared_may_be_joined_as(here: Settings, queue: Queue) -> None:
    text = study_text(machines=("attic",)) + "\n[machines.attic]\nthreads = 1\n"
    queue.put(Study.parse(text))
    queue.roster.register(BUILT_IN["cpu"].model_copy(update={"name": "cellar"}), "elsewhere", 0.001)
    for name in ("attic", "cellar"):
        assert "nothing answers" in refused(Unreachable, here, machine=name), "all but the head was as it should be"


def test_a_machine_registers_the_price_of_its_label_else_of_its_settings_and_never_a_study_s(
    here: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.put(Study.parse(study_text(machines=("cpu",)) + "\n[machines.cpu]\nusd_per_hour = 9.0\n"))
    assert _offer(queue, here, "cpu", 1).prices == ()
    declared = Machine(name="cpu", usd_per_hour=2.0, price_source="farm.toml", price_date="2026-11")
    settled = here.model_copy(update={"machines": {"cpu": declared}})
    assert [str(price) for price in _offer(queue, settled, "cpu", 1).prices] == ["by farm.toml of 2026-11"]
    monkeypatch.setenv("RAY_OVERRIDE_LABELS", '{"farm-usd-per-hour": "3.5"}')
    for name in ("cpu", None):
        (price,) = _offer(queue, settled, name, 1).prices
        assert (price.usd_per_hour, str(price)) == (3.5, "by cluster file"), "not with the date of farm.toml's"


@pytest.mark.usefixtures("head")
def test_a_class_with_gpus_that_are_not_here(here: Settings) -> None:
    count = len(hardware.gpus())
    if count < 8:
        assert f"this machine has {count} GPU" in refused(BadSetting, here, machine="8xa100m40")


@pytest.mark.usefixtures("head")
def test_more_runs_at_a_time_than_have_room(here: Settings) -> None:
    assert "one run of it takes all " in refused(BadSetting, here, machine="cpu", units=2)


@pytest.mark.usefixtures("head")
def test_a_name_that_is_none(here: Settings) -> None:
    assert "--name 'my box' is not a valid name" in refused(BadSetting, here, name="my box")


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.7", "Cannot assign requested address"), ("0.0.0.0", "that means every"), ("box.invalid", "not known")],
)
def test_an_address_that_is_not_this_machines(here: Settings, host: str, reason: str) -> None:
    said = refused(BadSetting, here, host=host)
    assert said.startswith(f"--host '{host}' is not an address of ")
    assert reason in said
    assert "Leave it out" in said


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("host", ["127.0.31.2", "localhost"])
def test_an_address_of_this_machine(here: Settings, host: str) -> None:
    assert "nothing answers" in refused(Unreachable, here, host=host)


def test_a_class_of_a_mixed_group_has_runs_to_come(queue: Queue) -> None:
    queue.put(Study.parse(study_text(machines=("cpu-x1+cpu-x2", "cpu"))))
    assert _wanted_classes(queue) == {"cpu", "cpu-x1", "cpu-x2"}


def test_other_software(here: Settings, head: Head, queue: Queue) -> None:
    queue.roster.publish(head.model_copy(update={"software": head.software.model_copy(update={"torch": "1.0.0"})}))
    assert "pip install 'torch==1.0.0'" in refused(Conflict, here)


@pytest.mark.usefixtures("head")
def test_another_storage(here: Settings, tmp_path: Path) -> None:
    assert "is not on" in refused(BadSetting, here.model_copy(update={"storage": tmp_path / "elsewhere"}))


def test_why_a_machine_leaves_is_what_was_said_first() -> None:
    farewell = Farewell()
    farewell.say("the first")
    farewell.say("the second")
    assert (farewell.reason, farewell.hurry.is_set()) == ("the first", False)


def test_a_second_signal_means_at_once() -> None:
    farewell = Farewell()
    was = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        farewell.listen()
        signal.raise_signal(signal.SIGTERM)
        assert (farewell.said.is_set(), farewell.hurry.is_set(), farewell.interrupted) == (True, False, False)
        signal.raise_signal(signal.SIGINT)
        assert (farewell.hurry.is_set(), farewell.interrupted) == (True, True)
    finally:
        signal.signal(signal.SIGTERM, was[0])
        signal.signal(signal.SIGINT, was[1])
    assert farewell.reason is not None
    assert farewell.reason.startswith("SIGTERM on ")


def test_a_machine_keeps_its_name_until_it_has_left(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """What trained there may take longer to save than a name lasts that nobody renews."""
    monkeypatch.setattr(membership, "REGISTER_SECONDS", 0.5)  # a name lasts three times that
    member = _Member(queue, BUILT_IN["cpu"], "node")
    with member.enroll("here"):
        member.offer_nothing()
        assert queue.roster.offers().get("cpu", []) == []
        over = time.monotonic() + 2.0
        while time.monotonic() < over:
            with pytest.raises(Conflict, match="another machine has joined as 'node'"):
                queue.roster.enroll("node", "token", "another", 0.1)
            time.sleep(0.05)  # the member's thread is one of this process
    queue.roster.enroll("node", "token", "another", 0.1)


def test_a_ray_that_ray_stop_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    """`ray start --block` outlives it: what it started has ended in an orderly way."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sleep")
    with subprocess.Popen(["sh", "-c", f"{raylet} 60 & wait; exec sleep 60"], start_new_session=True) as block:
        watch = _RayProcess(block)
        try:
            seen = wait_until(lambda: watch.ending() or watch.raylet, "it is seen")
            assert isinstance(seen, psutil.Process)
            seen.terminate()
            assert wait_until(watch.ending, "it is missed") == "was stopped from outside"
        finally:
            block.kill()
