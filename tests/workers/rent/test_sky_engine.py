"""L1 to L4 where SkyPilot rents: by a program that stands at its command line, whose machines really run the task."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from sky_stand_in import Stand
from waiting import wait_until

from farm.errors import BadSetting, FarmError, Guard, NoCapacity, NotFound, Refused, Unreachable
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.rental import Rental, Stage
from farm.site import invitation
from workers.node import hardware
from workers.rent import arrival, names
from workers.rent.engine import Pace, Way
from workers.rent.landlord import Landlord
from workers.rent.sky_command import STARTS, Sky, refusal
from workers.rent.sky_engine import SENT, TASK, SkyEngine, run
from workers.rent.sky_names import accelerators

from .test_arrival import stand_in

PACE = Pace(look=10.0, capacity=20.0, launch=0.0, rest=60.0, settle=180.0)
NAME = "farm-12345678-8xa100m40-0001"
TOKEN, PASSWORD = "t0ken-of-ray", "s3cret-of-redis"


class Renting:
    """A landlord of SkyPilot with a clock that the tests set, and the program that it drives."""

    def __init__(self, queue: Queue, home: Path, sky: Stand):
        self.queue, self.home, self.sky, self.now = queue, home, sky, 1_800_000_000.0
        self.landlord = self.fresh()

    def fresh(self) -> Landlord:
        """One that knows nothing but the records, as after a crash."""
        self.engine = SkyEngine(self.home, hardware.provenance, str(self.sky.command), PACE)
        self.landlord = Landlord(self.queue, self.home, self.engine, lambda: self.now)
        return self.landlord

    def want(self, **changes: object) -> None:
        folder = arrival.folder_of(self.home, NAME)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / arrival.SETUP).write_text("echo export JOIN_HOST=10.8.0.7 > farm-env\n")
        told = {"machine": "8xa100m40", "max_usd_per_hour": 12.0, "hours": 10.0, "idle_minutes": 10.0} | changes
        of = {"name": NAME, "keeper": names.keeper(self.home), "cloud": "skypilot", "ssh_key": "", "ssh": ""}
        self.queue.roster.rent(Rental.model_validate(of | told | {"asked": self.now}))

    @property
    def one(self) -> Rental:
        return self.queue.roster.rentals()[0]

    def turn(self, seconds: float = 1.0) -> Rental:
        self.now += seconds
        self.landlord.turn()
        return self.one

    def until(self, stage: Stage, seconds: float = 15.0) -> Rental:
        """Turn until it has come to `stage`: `seconds` of the landlord's clock at a time, while the program works."""
        return wait_until(lambda: (one := self.turn(seconds)).stage is stage and one, f"it is {stage}", 60)

    def said(self) -> list[str]:
        """What the programs of the machine were asked for."""
        file = self.sky.machine(NAME) / "said"
        return file.read_text().splitlines() if file.exists() else []

    def join(self, units: str = "8xa100m40") -> None:
        node = Node(id="ray-1", name=NAME, host=NAME, address="10.0.0.9", units={units: 1}, joined="token")
        self.queue.roster.sight([node], 3600)

    def up(self, **changes: object) -> Rental:
        self.want(**changes)
        self.until(Stage.JOINING)
        wait_until(lambda: self.turn() and any("farm join" in line for line in self.said()), "it joins", 30)
        self.join()
        return self.until(Stage.UP)


@pytest.fixture
def sky(tmp_path: Path) -> Iterator[Stand]:
    with closing(Stand(tmp_path / "sky")) as stand:
        stand_in(stand.machine(NAME))
        yield stand


@pytest.fixture
def renting(redis: Redis, tmp_path: Path, sky: Stand, monkeypatch: pytest.MonkeyPatch) -> Renting:
    monkeypatch.setattr("workers.rent.landlord.random.uniform", lambda *_: 1.0)
    there = invitation.Invitation(head="head", ray="10.8.0.1:6379", token=TOKEN, redis=f"redis://:{PASSWORD}@10.8.0.1/0",
                                  storage="s3://b/farm")  # fmt: skip
    (tmp_path / "home").mkdir()
    invitation.write(tmp_path / "home" / invitation.FILE, there)
    return Renting(Queue(redis), tmp_path / "home", sky)


def test_a_machine_is_waited_for_launched_joins_by_its_task_and_is_ended_when_idle(
    renting: Renting, sky: Stand
) -> None:
    sky.set(capacity=False)
    renting.want()
    wait_until(lambda: "Not enough capacity" in renting.turn(15.0).note, "the cloud's own words are told", 30)
    assert (renting.one.stage, renting.one.launched, sky.alive) == (Stage.WAITING, None, [])
    assert "Failed to provision all possible launchable resources" in renting.one.note
    sky.set(capacity=True)
    one = renting.until(Stage.JOINING)
    assert (one.type, one.place, one.instance) == ("lambda gpu_8x_a100", "lambda/us-east-1", NAME)
    assert one.usd_per_hour == 11.84, "the price in SkyPilot's list, below what it may cost at most"
    wait_until(lambda: renting.turn() and len(renting.said()) == 3, "its task runs", 30)
    said, software = renting.said(), hardware.provenance()
    assert said[0] == f"uv venv --quiet --python {software.python} farm-venv"
    assert f"./farm[node] torch=={software.torch.partition('+')[0]} ray=={software.ray}" in said[1]
    assert said[2] == f"farm join farm-sent/farm-invitation.json --name {NAME} --host 10.8.0.7"
    there = sky.machine(NAME)
    known = dict(line.split("=", 1) for line in (there / "environment").read_text().splitlines() if "=" in line)
    assert json.loads(known["RAY_OVERRIDE_LABELS"])["farm-price-source"] == "SkyPilot"
    assert "RAY_ADDRESS" not in known, "SkyPilot's own Ray is not farm's"
    assert (there / "farm" / "farm" / "queue" / "lua" / "rent.lua").exists()
    invited = there / "farm-sent" / arrival.INVITED
    assert (invited.read_bytes(), invited.stat().st_mode & 0o777) == (
        (renting.home / invitation.FILE).read_bytes(),
        0o600,
    )
    assert sky.asked("launch")[-1][7] == "10", "SkyPilot's own net"
    renting.join()
    joined = renting.until(Stage.UP)
    ended = renting.until(Stage.ENDED, 60.0)
    assert (ended.reason, sky.alive) == ("it was idle for 10 min", [])
    assert 600 <= (ended.ended or 0.0) - joined.entered < 1200
    assert not arrival.folder_of(renting.home, NAME).exists(), "the invitation was in it"


def test_nothing_secret_is_told_to_skypilot_nor_open_to_others(renting: Renting, sky: Stand) -> None:
    renting.up()
    folder = arrival.folder_of(renting.home, NAME)
    told = (folder / TASK).read_text() + (folder / "sky.log").read_text() + json.dumps(sky.get("asked"))
    told += (sky.machine(NAME) / "run.log").read_text() + renting.one.model_dump_json()
    assert TOKEN not in told
    assert PASSWORD not in told
    assert ((folder / SENT).stat().st_mode & 0o777) == 0o700
    assert {path.stat().st_mode & 0o777 for path in (folder / SENT).iterdir()} == {0o600}
    sent = sky.machine(NAME) / "farm-sent"
    assert {path.stat().st_mode & 0o077 for path in (sent, *sent.iterdir())} == {0}


def test_l1_what_is_dearer_is_not_launched_and_skypilot_is_told_the_limit(renting: Renting, sky: Stand) -> None:
    renting.want(region="lambda/us-west-1")
    sky.set(price=12.5)
    wait_until(lambda: renting.turn(15.0) and sky.asked("launch"), "it is tried", 30)
    assert (sky.alive, renting.until(Stage.WAITING).launched) == ([], None)
    task = json.loads((arrival.folder_of(renting.home, NAME) / TASK).read_text())
    limits = {"accelerators": {"A100": 8}, "max_hourly_cost": 12.0, "infra": "lambda/us-west-1"}
    assert task["resources"] == limits
    with pytest.raises(Guard, match=r"costs \$12\.50/h at lambda gpu_8x_a100, more than \$12\.00/h"):
        renting.engine.agree("8xa100m40", 12.0, None, Way())


def test_l1_a_limit_ends_a_launch_that_is_under_way(renting: Renting, sky: Stand) -> None:
    sky.set(held=True)
    renting.want(hours=0.5)
    renting.until(Stage.BOOTING)
    launch = renting.engine._launches[NAME]
    ended = renting.until(Stage.ENDED, 300.0)
    assert (ended.reason, sky.alive, len(sky.asked("down"))) == ("its limit of 0.5 h is reached", [], 1)
    assert launch.poll() is not None


def test_l1_the_machine_itself_stops_at_its_limit_also_without_a_farm(renting: Renting) -> None:
    """SkyPilot ends what has no task."""
    renting.want(hours=2.0)
    one = renting.one.on(Stage.LAUNCHING, renting.now, launched=renting.now)
    assert "timeout --kill-after=120 7200 bash" in run(one, hardware.provenance(), renting.now)
    assert "timeout --kill-after=120 1200 bash" in run(one, hardware.provenance(), renting.now + 6000)
    assert "for try in $(seq 180)" in run(one, hardware.provenance(), renting.now)


def test_l2_a_head_that_is_killed_while_it_launches_rents_no_second(renting: Renting, sky: Stand) -> None:
    sky.set(held=True)
    renting.want()
    wait_until(lambda: renting.turn(15.0) and sky.alive, "the cluster is made", 30)
    renting.fresh()
    assert renting.until(Stage.BOOTING).instance == NAME
    assert len(sky.asked("launch")) == 1
    sky.set(held=False)
    renting.until(Stage.JOINING)
    wait_until(lambda: renting.turn() and len(sky.asked("launch")) == 2, "its task is given again", 30)
    wait_until(lambda: any("farm join" in line for line in renting.said()), "it joins", 30)
    assert sky.alive == [NAME]
    assert sum("farm join" in line for line in renting.said()) == 1
    renting.landlord.close("the test is over", 0.0)


def test_l2_a_launch_that_came_to_nothing_is_repeated_only_when_that_is_sure(renting: Renting, sky: Stand) -> None:
    renting.want()
    sky.set(broken={"launch": "sky.exceptions.ApiServerConnectionError: Could not connect to SkyPilot API server"})
    wait_until(lambda: "It may be launched all the same" in renting.turn(15.0).note, "nobody knows", 30)
    asked = renting.one.launched
    sky.set(broken={})
    again = renting.until(Stage.JOINING)
    assert (again.launched or 0.0) - (asked or 0.0) > PACE.settle
    assert (len(sky.asked("launch")), sky.alive) == (2, [NAME])
    renting.landlord.close("the test is over", 0.0)


def test_a_launch_that_is_refused_ends_the_wish_and_says_why(renting: Renting, sky: Stand) -> None:
    renting.want()
    sky.set(broken={"launch": "ValueError: Invalid infra: lamda. Supported: aws, lambda"})
    ended = renting.until(Stage.ENDED)
    assert ended.reason == "not launched: SkyPilot: Invalid infra: lamda. Supported: aws, lambda."
    assert ended.launched is None


def test_l3_an_end_that_fails_is_repeated_until_it_is_gone(renting: Renting, sky: Stand) -> None:
    renting.up()
    sky.set(broken={"down": "sky.exceptions.ClusterOwnerIdentityMismatchError: not yours"})
    renting.until(Stage.ENDING, 60.0)
    wait_until(lambda: "not yours. Trying again" in renting.turn(15.0).note, "it says why", 30)
    sky.set(broken={})
    renting.until(Stage.ENDED)
    assert sky.alive == []


@pytest.mark.parametrize("held", [False, True])
def test_l4_nothing_is_left_when_the_farm_goes_down(renting: Renting, sky: Stand, held: bool) -> None:
    sky.set(held=held)
    renting.want()
    renting.until(Stage.BOOTING if held else Stage.JOINING)
    assert renting.landlord.close("farm down", 0.0) == []
    assert (sky.alive, renting.one.stage) == ([], Stage.ENDED)


def test_what_skypilot_has_without_a_record_of_it_is_ended_if_the_record_has_ended(
    renting: Renting, sky: Stand
) -> None:
    renting.up()
    renting.until(Stage.ENDED, 60.0)
    sky.add(NAME)
    sky.add("somebody-elses")
    renting.turn(15.0)
    assert sky.alive == ["somebody-elses"]


@pytest.mark.parametrize(("changes", "error", "says"), [
    ({"clouds": []}, NotFound, "SkyPilot may use no cloud here. See what it lacks: sky check"),
    ({"clouds": ["Kubernetes"]}, NotFound, "may use no cloud"),
    ({"clouds": ["AWS"]}, NotFound, r"SkyPilot knows no 8xa100m40 in aws \(as A100:8\)"),
    ({"broken": {"check": "sky.exceptions.X"}}, FarmError, "SkyPilot: sky.exceptions.X"),
    ({"broken": {"gpus": "requests.exceptions.ConnectionError: no route"}}, Unreachable, "SkyPilot: no route"),
])  # fmt: skip
def test_what_skypilot_lacks_is_said(renting: Renting, sky: Stand, changes: dict, error: type, says: str) -> None:
    sky.set(**changes)
    with pytest.raises(error, match=says):
        renting.engine.agree("8xa100m40", None, None, Way())


def test_offers_are_the_cheapest_first_and_a_region_is_the_only_place(renting: Renting, sky: Stand) -> None:
    (offer,) = renting.engine.agree("8xa100m40", None, None, Way()).offers
    assert offer == ("lambda gpu_8x_a100", 11.84, ("lambda/us-east-1", "lambda/us-west-1"))
    assert renting.engine.tell([offer], None)[0] == "lambda gpu_8x_a100 at $11.84/h in lambda/us-east-1 and 1 more"
    (offer,) = renting.engine.agree("8xa100m40", None, "lambda/us-west-1", Way()).offers
    assert offer.regions == ("lambda/us-west-1",)
    assert sky.asked("check") == [["check", "-o", "json"]], "a region names the cloud"


def test_without_its_command_skypilot_is_said_to_be_missing_and_nonsense_to_be_nonsense(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=r"SkyPilot is not installed here: no command 'no-sky'\. Install it apart from farm"
    ):
        Sky("no-sky").clusters()
    program = tmp_path / "sky"
    program.write_text("#!/bin/sh\necho '[{\"title\": 1}]'\n")
    program.chmod(0o755)
    with pytest.raises(Unreachable, match=r"does not answer as version 0\.14 does: KeyError\('name'\)"):
        Sky(str(program)).clusters()


@pytest.mark.parametrize(("said", "error"), [
    ("\x1b[31msky.exceptions.ResourcesUnavailableError: Failed to provision\x1b[0m", NoCapacity),
    ("RuntimeError: Failed to access Lambda Cloud with credentials.", Refused),
    ("requests.exceptions.ConnectionError: Could not connect to SkyPilot API server", Unreachable),
    ("", FarmError),
])  # fmt: skip
def test_errors_of_skypilot_are_told_as_the_farms(said: str, error: Callable) -> None:
    found = refusal(said)
    assert type(found) is error
    assert "\x1b" not in str(found)


def test_a_server_that_does_not_start_in_time_is_asked_again_a_few_times(sky: Stand) -> None:
    """SkyPilot gives its server 60 s, which on a busy machine are over before it is up."""
    sky.set(unready=STARTS - 1)
    assert Sky(str(sky.command)).clouds() == ["lambda"]
    assert len(sky.asked("check")) == STARTS == 3
    sky.set(unready=99)
    with pytest.raises(
        Unreachable, match=r"Failed to start SkyPilot API server at .*\. Start it by hand: sky api start"
    ):
        Sky(str(sky.command)).clouds()
    assert len(sky.asked("check")) == 2 * STARTS


def test_a_class_has_skypilots_names_and_one_that_is_none_is_refused() -> None:
    assert accelerators("8xa100m80") == {"A100-80GB": 8, "A100-80GB-SXM": 8}
    with pytest.raises(BadSetting, match="did you mean '8xa100m40'"):
        accelerators("8xa100m4")
