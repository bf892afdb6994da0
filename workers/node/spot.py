"""Notices that the cloud is about to take this machine away, from the machine's own metadata service.

AWS (IMDSv2) gives a spot instance two minutes, and sometimes a recommendation to leave before that; GCP gives 30 s. A
machine without such a service costs two tries of a second when the watch begins, and nothing afterwards.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple
from urllib.parse import urlsplit

SERVICE = "http://169.254.169.254"  # of both clouds; by address, since a name costs a look-up that may take long
POLL_SECONDS = 5.0  # what AWS asks for
CHANGE_SECONDS = 30  # GCP answers when the value changes, at the latest after this long
TRY_SECONDS = 1.0  # for the service to answer; it is on the host
TOKEN_SECONDS = 21600  # the longest that AWS gives
THREAD = "spot notices"

AWS_TOKEN = "/latest/api/token"
AWS_ACTION = "/latest/meta-data/spot/instance-action"
AWS_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
GCP_PREEMPTED = "/computeMetadata/v1/instance/preempted"
GCP_FLAVOUR = {"Metadata-Flavor": "Google"}


class _Response(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def watch(
    notice: Callable[[str], None],
    over: threading.Event,
    service: str = SERVICE,
    poll_seconds: float = POLL_SECONDS,
) -> str | None:
    """Call `notice` with what the cloud says, once, from a thread of its own, unless `over` comes first.

    Returns the cloud's name, or None where there is no such service; then nothing is watched.
    """
    for name, cloud in (("AWS", _Aws), ("GCP", _Gcp)):
        with suppress(OSError, HTTPException):
            if cloud.is_here(service):
                notices = cloud(service).notices()
                threading.Thread(
                    target=_watch, args=(notices, notice, over, poll_seconds), name=THREAD, daemon=True
                ).start()
                return name
    return None


def _watch(
    notices: Iterator[str | None], notice: Callable[[str], None], over: threading.Event, poll_seconds: float
) -> None:
    for said in notices:
        if said is not None and not over.is_set():
            notice(said)
            return
        if over.wait(poll_seconds):
            return


class _Aws:
    """An instance of EC2. A spot instance that stays has neither page: they answer 404."""

    def __init__(self, service: str):
        self.service = service
        self.token = ""

    @classmethod
    def is_here(cls, service: str) -> bool:
        return bool(cls(service)._new_token())

    def notices(self) -> Iterator[str | None]:
        """The notices so far, again and again; None for no notice, or no answer."""
        while True:
            said = None
            with suppress(OSError, HTTPException, ValueError, KeyError, TypeError):
                said = self._action() or self._rebalance()
            yield said

    def _action(self) -> str | None:
        text = self._page(AWS_ACTION)
        if text is None:
            return None
        action = json.loads(text)
        return f"AWS will {action['action']} this spot instance at {action['time']}"

    def _rebalance(self) -> str | None:
        text = self._page(AWS_REBALANCE)
        if text is None:
            return None
        return f"AWS recommends leaving this spot instance, since {json.loads(text)['noticeTime']}"

    def _page(self, path: str) -> str | None:
        """The page, or None if it is not there. The token is renewed when it is refused."""
        answer = self._get(path)
        if answer.status == 401:
            self.token = self._new_token()
            answer = self._get(path)
        return answer.text if answer.status == 200 else None

    def _get(self, path: str) -> _Response:
        return _ask(self.service, "GET", path, {"X-aws-ec2-metadata-token": self.token})

    def _new_token(self) -> str:
        wanted = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        answer = _ask(self.service, "PUT", AWS_TOKEN, wanted)
        return answer.text if answer.status == 200 else ""


class _Gcp:
    """An instance of Compute Engine: `preempted` is TRUE from the notice on."""

    def __init__(self, service: str):
        self.service = service
        self.etag = ""

    @classmethod
    def is_here(cls, service: str) -> bool:
        answer = _ask(service, "GET", GCP_PREEMPTED, GCP_FLAVOUR)
        return answer.status == 200 and answer.headers.get("metadata-flavor") == "Google"

    def notices(self) -> Iterator[str | None]:
        """The notices so far, again and again: each time after a change or a while."""
        while True:
            said = None
            with suppress(OSError, HTTPException):
                said = "GCP preempts this instance within 30 s" if self._is_preempted() else None
            yield said

    def _is_preempted(self) -> bool:
        change = f"?wait_for_change=true&timeout_sec={CHANGE_SECONDS}&last_etag={self.etag}" if self.etag else ""
        answer = _ask(self.service, "GET", GCP_PREEMPTED + change, GCP_FLAVOUR, CHANGE_SECONDS + TRY_SECONDS)
        self.etag = answer.headers.get("etag", "")
        return answer.status == 200 and answer.text.strip() == "TRUE"


def _ask(service: str, method: str, path: str, headers: dict[str, str], seconds: float = TRY_SECONDS) -> _Response:
    """One request, past any proxy: the service is the machine's own."""
    place = urlsplit(service)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=seconds)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        said = {key.lower(): value for key, value in answer.getheaders()}
        return _Response(answer.status, said, answer.read().decode(errors="replace"))
    finally:
        connection.close()
