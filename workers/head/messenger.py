"""Messages to a person through apprise: who is told, which of that may be shown, and what the service answered.

apprise hides the password of a URL, but not a secret in its path or query, such as a webhook's, nor the topic of an
ntfy. So nothing of a URL is shown but its place in the list and its scheme, and of what apprise says nothing that also
stands in the URL.
"""

import logging
import re
import threading
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from farm.errors import BadSetting, first_line, nearest

if TYPE_CHECKING:
    from apprise import Apprise

SEND_SECONDS = 30.0  # for a service to take a message, whatever it does meanwhile
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9]{0,19})://")  # of apprise; what is longer may be anything
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_SHORTEST_SECRET = 4  # characters

Tone = Literal["info", "success", "warning", "failure"]


class Message(NamedTuple):
    """A message, as text: no part of it is ever read as markup."""

    title: str
    body: str
    tone: Tone = "info"


class Service:
    """Someone who is told: one URL of [notify], and its `place` in the list.

    Raises: BadSetting: apprise is not installed, or does not understand the URL.
    """

    def __init__(self, place: int, url: str):
        self.name = masked(place, url)
        self.url = url
        self._apprise = _open(url, self.name)

    def send(self, message: Message) -> str | None:
        """Send a message, and wait for the answer. Returns why the service did not take it; None: it did."""
        answers: list[str | None] = []
        sending = threading.Thread(target=lambda: answers.append(self._ask(message)), name=self.name, daemon=True)
        sending.start()  # apprise's own limits are per read, so that one that answers a byte a second is waited for
        sending.join(SEND_SECONDS)
        return answers[0] if answers else f"it has not answered within {SEND_SECONDS:g} s"

    def _ask(self, message: Message) -> str | None:
        from apprise import NotifyFormat, NotifyType

        try:
            found = self._apprise.notify(
                body=plain(message.body),
                title=plain(message.title).replace("\n", " "),
                notify_type=NotifyType(message.tone),
                body_format=NotifyFormat.TEXT,
            )
        except Exception as error:  # a plugin's, of which there are a hundred: none may end the thread that tells
            return self._without_secrets(f"{type(error).__name__}: {first_line(error)}")
        if found:
            return None
        said = [entry.message for result in found for entry in result.logs()]
        return self._without_secrets(" ".join(said)) or "apprise does not say why"

    def _without_secrets(self, said: str) -> str:
        """What apprise says, on one line, without any word that is in the URL."""
        words = {word for word in re.split(r"[^\w.-]+", self.url) if len(word) >= _SHORTEST_SECRET}
        for word in sorted(words, key=len, reverse=True):
            said = said.replace(word, "...")
        return plain(" ".join(said.split()))


def services(urls: Sequence[str]) -> list[Service]:
    """All of [notify]. Raises: BadSetting: names those that apprise does not understand, or that it is missing."""
    found, faults = [], []
    for place, url in enumerate(urls):
        try:
            found.append(Service(place, url))
        except BadSetting as fault:
            faults.append(fault)
    if faults:
        first, *more = faults
        raise BadSetting(first.message, remedy=first.remedy, also=tuple(str(fault) for fault in more))
    return found


def masked(place: int, url: str) -> str:
    """A URL of [notify] as it may be shown: which one it is, and of which scheme."""
    scheme = _SCHEME.match(url)
    return f"notify.urls[{place}] ({scheme[1].lower()}://...)" if scheme else f"notify.urls[{place}] (no SCHEME://)"


def plain(text: str) -> str:
    """`text` without what moves a cursor, hides or reorders other text, or calls for everybody who reads a channel."""
    kept = (c for c in _ESCAPE.sub("", text) if c == "\n" or unicodedata.category(c) not in _UNSEEN)
    return re.sub(r"@(?=\w)", "@\u200b", "".join(kept))


_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _open(url: str, name: str) -> "Apprise":
    try:
        from apprise import Apprise, AppriseAsset
    except ImportError:
        raise BadSetting(
            "[notify] names someone to tell, and apprise, which tells them, is not installed.",
            remedy="Install it where the farm runs: pip install apprise",
            page="docs/monitoring.md#messages",
        ) from None
    log = logging.getLogger("apprise")
    log.propagate = False  # it names hosts and targets, which may be all that is secret; what matters is in its results
    log.addHandler(logging.NullHandler())
    asset = AppriseAsset(app_id="farm", app_desc="farm", app_url="", storage_mode="memory", async_mode=False)
    service = Apprise.instantiate(url, asset=asset)
    if service is None:
        raise BadSetting(f"{name} is not a service that apprise understands{_hint(url)}", remedy=_REMEDY)
    opened = Apprise(asset=asset)
    opened.add(service)
    return opened


_REMEDY = "Write it as https://appriseit.com/services/ shows, e.g. ntfys://TOPIC or slack://TOKEN_A/TOKEN_B/TOKEN_C."


def _hint(url: str) -> str:
    """The end of the sentence: the scheme that is meant, or that the scheme is known and the rest is not right."""
    from apprise import Apprise

    scheme = _SCHEME.match(url)
    if not scheme:
        return "."
    if scheme[1].lower() in ("http", "https"):
        return "; a webhook of your own begins with json:// or jsons://."
    known = {str(word) for one in Apprise().details()["schemas"] for word in _schemes(one)}
    return ": what follows its scheme is not complete." if scheme[1].lower() in known else nearest(scheme[1], known)


def _schemes(service: dict) -> list[str]:
    return [*(service["protocols"] or ()), *(service["secure_protocols"] or ())]
