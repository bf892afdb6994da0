"""L1 to L4: what the landlord promises, against a server that speaks the cloud's API."""

import threading

import pytest
from lambda_server import DROPPED, UNDONE
from results import tiny_study
from waiting import wait_until

from farm.errors import Unreachable
from farm.queue.rental import Stage
from workers.rent import api_key, watching
from workers.rent.lambda_cloud import Lambda

from .conftest import Renting

LAUNCH, LIST, END = "instance-operations/launch", "instances", "instance-operations/terminate"


def test_a_machine_is_waited_for_launched_joined_and_ended_when_idle(renting: Renting) -> None:
    name = renting.want()
    assert renting.turn().stage is Stage.WAITING
    assert "no 8xa100m40 is free in any region" in renting.one().note
    assert renting.cloud.count(LAUNCH) == 0
    renting.cloud.capacity["gpu_8x_a100"] = ["us-west-1"]
    one = renting.until(Stage.BOOTING)
    assert (one.type, one.place, one.usd_per_hour) == ("gpu_8x_a100", "us-west-1", 11.84)
    ((_, body),) = [asked for asked in renting.cloud.asked if asked[0] == LAUNCH]
    assert (body["name"], body["ssh_key_names"]) == (name, ["mine"])
    assert renting.turn().stage is Stage.BOOTING, "it takes a while"
    renting.cloud.boot()
    renting.until(Stage.JOINING)
    renting.turn()
    wait_until(lambda: renting.brought == [(name, "ubuntu", "127.0.0.1")], "it is let join")
    renting.join()
    joined = renting.until(Stage.UP)
    ended = renting.until(Stage.ENDED)
    assert ended.reason == "it was idle for 10 min"
    assert 600 <= ended.ended - joined.entered < 700
    assert renting.cloud.alive() == []
    assert ended.spent(renting.now) == pytest.approx(11.84 * (ended.ended - ended.launched) / 3600)


def test_capacity_is_asked_for_at_a_polite_pace(renting: Renting) -> None:
    renting.want()
    for _ in range(100):
        renting.turn(seconds=1.0)
    assert renting.cloud.count("instance-types") <= 6
    assert renting.cloud.count(LIST) <= 11


def test_capacity_that_is_gone_at_the_launch_is_waited_for_again(renting: Renting) -> None:
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.cloud.fail(LAUNCH, "capacity", "often")
    assert renting.turn().stage is Stage.WAITING
    assert (renting.one().launched, renting.one().spent(renting.now)) == (None, 0.0)
    renting.until(Stage.BOOTING)
    assert (renting.cloud.count(LAUNCH), len(renting.cloud.alive())) == (3, 1)


def test_l1_nothing_dearer_than_the_limit_is_launched(renting: Renting) -> None:
    renting.want(max_usd_per_hour=11.0)
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    for _ in range(5):
        assert renting.turn().stage is Stage.WAITING
    assert "costs $11.84/h at Lambda, more than $11.00/h" in renting.one().note
    renting.cloud.prices["gpu_8x_a100"] = 1099
    renting.until(Stage.BOOTING)


def test_the_cheapest_type_of_a_class_is_launched_in_the_region_asked_for(renting: Renting) -> None:
    renting.want(machine="8xh100m80", max_usd_per_hour=30.0, region="us-west-3")
    renting.cloud.capacity |= {"gpu_8x_h100_sxm5": ["us-east-1"], "gpu_8x_h100_sxm5gdr": ["us-west-3", "us-east-1"]}
    one = renting.until(Stage.BOOTING)
    assert (one.type, one.place, one.usd_per_hour) == ("gpu_8x_h100_sxm5gdr", "us-west-3", 25.92)


@pytest.mark.parametrize(("limits", "says", "hours"), [
    ({"hours": 2.0}, "its limit of 2 h", 2.0),
    ({"usd": 11.84}, "its limit of $11.84", 1.0),
])  # fmt: skip
def test_l1_a_machine_that_trains_is_emptied_and_ended_before_a_limit(renting, limits, says, hours) -> None:
    one = renting.up(**limits)
    trains(renting)
    leaving = renting.until(Stage.LEAVING, 1000)
    assert says in leaving.reason
    renting.turn()
    (node,) = renting.queue.roster.nodes()
    assert says in node.drained, "what trains saves a checkpoint"
    ended = renting.until(Stage.ENDED)
    assert hours - 0.06 < (ended.ended - one.launched) / 3600 <= hours
    assert ended.spent(renting.now) <= limits.get("usd", 24.0)


def test_l1_a_limit_holds_while_it_boots_too(renting: Renting) -> None:
    renting.want(hours=0.5)
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    one = renting.until(Stage.BOOTING)
    ended = renting.until(Stage.ENDED, 200)
    assert (ended.ended - one.launched <= 1800, renting.cloud.alive()) == (True, [])


def trains(renting: Renting) -> None:
    """Have a run train on the machine that is up."""
    renting.queue.put(tiny_study(machines=("8xa100m40",)))
    claim = renting.queue.claim("8xa100m40", "me", 3600, f"ray-{renting.one().name}")
    assert claim is not None
    renting.queue.renew(claim.lease, 1, job="job", node=f"ray-{renting.one().name}")


def test_a_machine_that_trains_is_not_idle(renting: Renting) -> None:
    renting.up()
    trains(renting)
    for _ in range(100):
        assert renting.turn().stage is Stage.UP
    (status,) = renting.queue.listing.running()
    renting.queue.cancel(status.id)
    renting.queue.sweep()


@pytest.mark.parametrize("fault", [DROPPED, "internal"])
def test_l2_a_launch_whose_answer_is_lost_is_found_by_its_name(renting: Renting, fault: str) -> None:
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.cloud.fail(LAUNCH, fault)
    assert renting.turn().stage is Stage.LAUNCHING
    renting.cloud.hidden = 4  # it is listed late
    one = renting.until(Stage.BOOTING)
    assert len(renting.cloud.alive()) == 1
    assert one.instance == renting.cloud.alive()[0]["id"]
    assert renting.cloud.count(LAUNCH) == (1 if fault == DROPPED else 2)


def test_l2_a_launch_that_came_to_nothing_is_repeated_only_when_that_is_sure(renting: Renting) -> None:
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.cloud.fail(LAUNCH, UNDONE)
    asked = renting.turn().launched
    renting.until(Stage.BOOTING)
    assert renting.one().launched - asked > 180
    assert (renting.cloud.count(LAUNCH), len(renting.cloud.alive())) == (2, 1)


def test_l2_a_head_that_is_killed_between_record_and_answer_launches_no_second(renting: Renting, monkeypatch) -> None:
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    launch = Lambda.launch

    def killed(*words: object) -> str:
        launch(*words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lambda, "launch", killed)
        with pytest.raises(KeyboardInterrupt):
            renting.turn()
    assert renting.one().stage is Stage.LAUNCHING
    renting.fresh()
    one = renting.until(Stage.BOOTING)
    assert (len(renting.cloud.instances), one.instance) == (1, next(iter(renting.cloud.instances)))


def test_l2_a_second_instance_of_a_name_is_ended(renting: Renting) -> None:
    one = renting.up()
    late = renting.cloud.add(one.name)
    renting.turn()
    assert [it["id"] for it in renting.cloud.alive()] == [one.instance]
    renting.until(Stage.ENDED)
    late = renting.cloud.add(one.name)
    renting.turn()
    assert renting.cloud.instances[late]["status"] == "terminated", "also after the record has ended"


def test_l2_another_writer_of_the_record_is_not_overruled(renting: Renting) -> None:
    """`farm rent --end` while the cloud is asked."""
    name = renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    before = renting.one()
    renting.queue.roster.change_rental(name, lambda one: one.ending("by hand", renting.now))
    renting.landlord._look_for_capacity(before, None)
    assert (renting.cloud.count(LAUNCH), renting.one().stage) == (0, Stage.ENDED)


@pytest.mark.parametrize("faults", [[UNDONE, "internal", "often"], [DROPPED]])
def test_l3_an_end_whose_answer_is_lost_is_repeated_until_it_is_gone(renting: Renting, faults: list[str]) -> None:
    renting.up()
    renting.cloud.fail(END, *faults)
    renting.until(Stage.ENDED)
    assert renting.cloud.alive() == []
    assert renting.cloud.count(END) == (4 if len(faults) == 3 else 1)


def test_l3_an_end_goes_on_after_a_crash(renting: Renting) -> None:
    renting.up()
    renting.cloud.fail(END, UNDONE)
    renting.until(Stage.ENDING)
    renting.fresh()
    renting.until(Stage.ENDED)
    assert renting.cloud.alive() == []


def test_l4_all_is_ended_when_the_farm_goes_down_but_what_is_to_stay(renting: Renting) -> None:
    one = renting.up()
    renting.want("farm-12345678-8xa100m40-0002", region="nowhere")
    renting.queue.roster.change_rental(one.name, lambda it: it.model_copy(update={"is_kept": True}))
    assert renting.landlord.close("farm down", 0.0) == []
    assert [it["id"] for it in renting.cloud.alive()] == [one.instance]
    stages = {it.name: it.stage for it in renting.queue.roster.rentals()}
    assert list(stages.values()) == [Stage.UP, Stage.ENDED]
    renting.fresh().begin()
    again = renting.queue.roster.rentals()[0]
    assert (again.stage, again.is_kept) == (Stage.BOOTING, False), "it is to join again"
    assert renting.landlord.close("farm down", 0.0) == []
    assert renting.cloud.alive() == []


def test_l4_what_could_not_be_ended_is_told(renting: Renting) -> None:
    one = renting.up()
    renting.cloud.fail(END, *["internal"] * 50)
    left = renting.landlord.close("farm down", 0.0)
    assert [it.name for it in left] == [one.name]
    assert renting.one().stage is Stage.ENDING


@pytest.mark.parametrize("status", ["preempted", "terminated", None])
def test_an_instance_that_dies_is_over(renting: Renting, status: str | None) -> None:
    one = renting.up()
    if status:
        renting.cloud.instances[one.instance]["status"] = status
    else:
        del renting.cloud.instances[one.instance]
    ended = renting.until(Stage.ENDED)
    assert ended.reason == (f"the cloud says that it is {status}" if status else "the cloud does not list it any more")


def test_an_instance_that_the_cloud_fails_to_list_for_a_moment_is_not_over(renting: Renting) -> None:
    renting.up()
    renting.turn(200)
    for _ in range(2):  # what it was not listed before counts no more
        renting.cloud.hidden = 3  # the third list has it again
        assert [renting.turn().missing, renting.turn().missing, renting.turn().missing] == [1, 2, 0]
        assert renting.one().stage is Stage.UP


def test_a_machine_of_another_class_is_ended(renting: Renting) -> None:
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.want()
    renting.until(Stage.BOOTING)
    renting.cloud.boot()
    renting.until(Stage.JOINING)
    renting.join("8xa100m80")
    assert renting.until(Stage.ENDED).reason == "it is 8xa100m80, and not the 8xa100m40 that was asked for"
    assert renting.cloud.alive() == []


def test_an_arrival_that_fails_is_tried_again_and_then_given_up(renting: Renting) -> None:
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.want()
    renting.until(Stage.BOOTING)
    renting.cloud.boot()
    renting.until(Stage.JOINING)
    renting.broken = [Unreachable("ssh: Connection refused.")] * 2
    wait_until(lambda: renting.turn() and renting.brought, "the third try works")
    ended = renting.until(Stage.ENDED, 300)
    assert "did not join within 60 min" in ended.reason
    assert renting.cloud.alive() == []


def test_a_quota_ends_the_wish_and_says_why(renting: Renting) -> None:
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    renting.cloud.fail(LAUNCH, "quota")
    one = renting.turn()
    assert (one.stage, one.launched) == (Stage.ENDED, None)
    assert one.reason == "not launched: Lambda: Quota exceeded. Do something about quota."


def test_a_cloud_that_does_not_answer_is_asked_again_later(renting: Renting) -> None:
    renting.up()
    renting.cloud.fail(LIST, "internal", "key", UNDONE)
    assert "Something unexpected occurred" in renting.turn().note
    asked = renting.cloud.count(LIST)
    renting.turn(30.0)
    assert renting.cloud.count(LIST) == asked, "a rest"
    renting.until(Stage.ENDED)


def test_the_key_is_kept_as_long_as_anything_is_rented(renting: Renting) -> None:
    renting.up()
    renting.until(Stage.ENDED)
    assert api_key.kept(renting.home).key == renting.cloud.key
    renting.turn(4 * 180.0)
    assert not (renting.home / api_key.KEPT).exists()


def test_records_of_what_ended_long_ago_are_forgotten(renting: Renting) -> None:
    renting.up()
    renting.until(Stage.ENDED)
    renting.now += 31 * 86400.0
    renting.landlord.turn()
    assert renting.queue.roster.rentals() == []


def test_whatever_goes_wrong_the_watch_goes_on_until_it_is_told_to_stop(renting: Renting, monkeypatch, caplog) -> None:
    monkeypatch.setattr(watching, "TURN_SECONDS", 0.01)
    renting.want()
    renting.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    turn, wrong = renting.landlord.turn, [ValueError("a bug"), Unreachable("Redis is away.")]

    def faulty() -> None:
        if wrong:
            raise wrong.pop()
        turn()

    monkeypatch.setattr(renting.landlord, "turn", faulty)
    stop = threading.Event()
    thread = threading.Thread(target=watching.watch, args=(renting.landlord, stop))
    thread.start()
    try:
        wait_until(lambda: renting.one().stage is Stage.BOOTING, "it is launched all the same", 30)
    finally:
        stop.set()
        thread.join(10)
    assert "ValueError: a bug" in caplog.text
    assert "Redis is away" in caplog.text
