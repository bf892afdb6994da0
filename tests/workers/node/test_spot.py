"""What the cloud says to a machine that it will take away, over real HTTP."""

import socket
import threading
import time
from collections.abc import Callable

import pytest
from metadata import Metadata, served
from waiting import wait_until

from workers.node import spot

QUICK = 0.01


def heard(service: Metadata, speak: Callable[[], None]) -> tuple[str | None, list[str]]:
    """The cloud that was recognised, and what the watcher says after `speak`, which it did not say before."""
    notices: list[str] = []
    over = threading.Event()
    cloud = spot.watch(notices.append, over, service.url, QUICK)
    try:
        asked = len(service.asked)
        wait_until(lambda: len(service.asked) > asked + 1, "the watcher asks")
        assert notices == []
        speak()
        wait_until(lambda: notices, "the watcher has heard it")
    finally:
        over.set()
    return cloud, notices


def test_an_interruption_by_aws_is_heard_once() -> None:
    with served("AWS") as service:

        def speak() -> None:
            service.action = '{"action": "terminate", "time": "2030-01-01T00:02:00Z"}'

        cloud, notices = heard(service, speak)
        asked = len(service.asked)
    assert cloud == "AWS"
    assert notices == ["AWS will terminate this spot instance at 2030-01-01T00:02:00Z"]
    assert service.asked[asked:] == [], "nobody asks any more"


def test_a_rebalance_recommendation_is_a_notice_too() -> None:
    with served("AWS") as service:

        def speak() -> None:
            service.rebalance = '{"noticeTime": "2030-01-01T00:00:00Z"}'

        assert heard(service, speak)[1] == ["AWS recommends leaving this spot instance, since 2030-01-01T00:00:00Z"]


def test_a_token_that_aws_refuses_is_renewed() -> None:
    with served("AWS") as service:

        def speak() -> None:
            service.token = "token-2"
            service.action = '{"action": "stop", "time": "soon"}'

        assert heard(service, speak)[1] == ["AWS will stop this spot instance at soon"]


def test_a_page_that_is_no_notice_is_passed_over() -> None:
    with served("AWS") as service:
        service.action, service.rebalance = "<html>", "[]"

        def speak() -> None:
            service.action = '{"action": "hibernate", "time": "now"}'

        assert heard(service, speak)[1] == ["AWS will hibernate this spot instance at now"]


def test_a_preemption_by_gcp_is_heard_when_the_value_changes() -> None:
    with served("GCP") as service:
        notices: list[str] = []
        assert spot.watch(notices.append, threading.Event(), service.url, QUICK) == "GCP"
        wait_until(lambda: service.waiting, "the watcher waits for a change")
        assert notices == []
        service.preempt()
        wait_until(lambda: notices, "the watcher has heard it")
    assert notices == ["GCP preempts this instance within 30 s"]


def test_a_machine_that_leaves_first_hears_nothing() -> None:
    with served("GCP") as service:
        notices: list[str] = []
        over = threading.Event()
        spot.watch(notices.append, over, service.url, QUICK)
        wait_until(lambda: service.waiting, "the watcher waits for a change")
        over.set()
        watcher = next(thread for thread in threading.enumerate() if thread.name == spot.THREAD)
        service.preempt()
        watcher.join(timeout=10)
        assert not watcher.is_alive()
    assert notices == []


@pytest.mark.parametrize("listens", [False, True])
def test_no_metadata_service_is_found_out_quickly_and_leaves_nothing_behind(
    listens: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody listens; or somebody does and never answers, as where packets to that address are dropped."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if listens:
            mute.listen()
        began, threads = time.monotonic(), threading.active_count()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert spot.watch(lambda notice: pytest.fail(notice), threading.Event(), url) is None
        assert time.monotonic() - began < 4, "two tries of a second"
        assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_a_service_of_another_kind_is_not_taken_for_a_cloud() -> None:
    with served("AWS") as service:
        service.cloud = "GCP"  # answers 403 or 404 to what is not its own
        service.flavour = "Other"
        assert spot.watch(lambda notice: None, threading.Event(), service.url) is None


def test_a_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with served("AWS") as service:
        over = threading.Event()
        assert spot.watch(lambda notice: None, over, service.url, QUICK) == "AWS"
        over.set()
