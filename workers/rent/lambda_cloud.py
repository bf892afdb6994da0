"""Lambda's cloud API, version 1, as far as a farm needs it: types with capacity, launch, list, terminate, SSH keys.

Its answers are read field by field, those that are needed and no other, so that a new field breaks nothing. An answer
that does not come, or that says 5xx, leaves open whether the cloud did what it was asked: `Unreachable`.
"""

import json
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit

from farm.errors import BadSetting, FarmError, NoCapacity, Refused, TooOften, Unreachable, last_line
from workers.rent.engine import Instance, Offer

URL, VARIABLE = "https://cloud.lambda.ai", "LAMBDA_API_URL"  # another place that speaks the same API
SECONDS = 30.0  # to wait for an answer
MAX_BYTES = 2**24
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS_PAGE = "https://cloud.lambda.ai/api-keys"
SSH_PAGE = "https://cloud.lambda.ai/ssh-keys"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to one server, and to no other that this one names."""

    def redirect_request(self, *_: object) -> None:
        return None


class Lambda:
    """An account, by its key. `url` is where the API is."""

    name = "lambda"
    user = "ubuntu"  # who ssh logs in as

    def __init__(self, key: str, url: str = URL, seconds: float = SECONDS):
        place = urlsplit(url)
        if place.scheme != "https" and place.hostname not in LOOPBACK:
            raise BadSetting(f"{VARIABLE} {url!r} would send the API key unencrypted.", remedy="Use an https:// URL.")
        self._key, self._url, self._seconds = key, url.rstrip("/"), seconds
        self._opener = urllib.request.build_opener(_NoRedirect)

    def offers(self) -> list[Offer]:
        """Every instance type, cheapest first."""
        found = self._ask("GET", "instance-types")
        return sorted(self._read(lambda: [_offer(one) for one in found.values()]), key=lambda one: one.usd_per_hour)

    def instances(self) -> list[Instance]:
        """Every instance that the account has."""
        found = self._ask("GET", "instances")
        return self._read(lambda: [_instance(one) for one in found])

    def ssh_keys(self) -> dict[str, str]:
        """The account's SSH keys: name -> public key."""
        found = self._ask("GET", "ssh-keys")
        return self._read(lambda: {one["name"]: one["public_key"] for one in found})

    def launch(self, type: str, region: str, name: str, ssh_key: str, user_data: str | None) -> str:
        """Launch one instance; its id.

        Raises: NoCapacity, TooOften, Refused, FarmError: nothing was launched. Unreachable: nobody knows.
        """
        asked: dict[str, Any] = {
            "region_name": region,
            "instance_type_name": type,
            "ssh_key_names": [ssh_key],
            "name": name,
        }
        found = self._ask("POST", "instance-operations/launch", asked | ({"user_data": user_data} if user_data else {}))
        return self._read(lambda: str(found["instance_ids"][0]))

    def end(self, ids: list[str]) -> None:
        """Terminate instances. One that is gone already is no error."""
        try:
            self._ask("POST", "instance-operations/terminate", {"instance_ids": ids})
        except FarmError as error:
            if not error.fields.get("code", "").endswith("object-does-not-exist"):
                raise

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The `data` of an answer."""
        request = urllib.request.Request(
            f"{self._url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Accept": "application/json"}
            | ({} if body is None else {"Content-Type": "application/json"}),
        )
        try:
            with self._opener.open(request, timeout=self._seconds) as answer:
                text = answer.read(MAX_BYTES)
        except HTTPError as error:
            with error:
                self._refuse(error.code, error.read(MAX_BYTES) if error.fp else b"")
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(
                f"{urlsplit(self._url).netloc} did not answer: {str(reason) or type(reason).__name__}.",
                remedy="Is this machine online?",
            ) from None
        return self._read(lambda: json.loads(text)["data"])

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise Unreachable(
                f"{urlsplit(self._url).netloc} does not answer as Lambda's API does: {last_line(repr(error))}.",
                remedy=f"Is {VARIABLE} right?",
            ) from None

    def _refuse(self, status: int, text: bytes) -> NoReturn:
        """Raises: what the cloud answered with a status of 300 or more, as an error of the farm."""
        try:
            told = json.loads(text)["error"]
            code, said, remedy = str(told["code"]), str(told["message"]), told.get("suggestion")
        except (ValueError, KeyError, TypeError):
            code, said, remedy = "", f"HTTP {status}", None
        message = f"Lambda: {last_line(said).rstrip('.')}."
        fields: dict[str, Any] = {"code": code, "status": status}
        remedy = last_line(str(remedy)) if remedy else None
        if status == 401 or code == "global/invalid-api-key":
            raise Refused(message, remedy=f"Make a key at {KEYS_PAGE} and set LAMBDA_API_KEY to it.", **fields)
        if status == 403:
            raise Refused(message, remedy=remedy or "See https://cloud.lambda.ai.", **fields)
        if code.endswith("insufficient-capacity"):
            raise NoCapacity(message, **fields)
        if status == 429:
            raise TooOften(message, **fields)
        if status >= 500 or status < 400:
            raise Unreachable(message, **fields)
        if code.endswith("quota-exceeded"):
            remedy = remedy or "Ask Lambda's support for a higher quota, or end another instance: farm rent --list"
        raise FarmError(message, remedy=remedy, **fields)


def _offer(said: Mapping[str, Any]) -> Offer:
    kind = said["instance_type"]
    regions = tuple(region["name"] for region in said["regions_with_capacity_available"])
    return Offer(kind["name"], kind["price_cents_per_hour"] / 100, regions)


def _instance(said: Mapping[str, Any]) -> Instance:
    kind = said["instance_type"]
    return Instance(
        id=said["id"],
        name=said.get("name") or "",
        status=said["status"],
        address=said.get("ip"),
        type=kind["name"],
        region=said["region"]["name"],
        usd_per_hour=kind["price_cents_per_hour"] / 100,
    )
