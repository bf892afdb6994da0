"""A server on loopback that speaks Lambda's cloud API (1.8.3), as far as a farm asks, and fails as it is told to.

Requests and answers have the fields, error codes and types of Lambda's published OpenAPI description. A request that
the description does not allow is answered with 400, as there.
"""

import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

KEY = "secret_farm_0123456789abcdef"
PRICES = {"gpu_8x_a100": 1184, "gpu_1x_a10": 75, "gpu_8x_h100_sxm5": 2392, "gpu_8x_h100_sxm5gdr": 2592}  # cents an hour
LAUNCH_FIELDS = {
    "region_name",
    "instance_type_name",
    "ssh_key_names",
    "name",
    "user_data",
    "file_system_names",
    "tags",
    "quantity",
}  # fmt: skip; quantity: as SkyPilot still sends it
ERRORS = {
    "capacity": (
        400,
        "instance-operations/launch/insufficient-capacity",
        "Not enough capacity to fulfill launch request.",
    ),
    "quota": (400, "global/quota-exceeded", "Quota exceeded."),
    "invalid": (400, "global/invalid-parameters", "Invalid request data"),
    "key": (401, "global/invalid-api-key", "API key was invalid, expired, or deleted."),
    "inactive": (403, "global/account-inactive", "Your account is inactive."),
    "gone": (404, "global/object-does-not-exist", "Specified instance does not exist."),
    "often": (429, "global/too-many-requests", "Too many requests."),
    "internal": (500, "global/internal-error", "Something unexpected occurred."),
}
DROPPED, UNDONE = "dropped", "undone"  # the answer is lost: after the work was done, or before


class Fault(NamedTuple):
    """What happens to the next request of a path: one of ERRORS, DROPPED or UNDONE."""

    path: str
    kind: str


class LambdaCloud:
    """An account of the cloud. Tests change its fields; `asked` is every request, as (path, body)."""

    def __init__(self) -> None:
        self.capacity: dict[str, list[str]] = {}  # type -> regions
        self.keys: dict[str, str] = {}  # name -> public
        self.instances: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.asked: list[tuple[str, Any]] = []
        self.hidden = 0  # lists in which no instance is shown yet
        self.key, self.prices, self.address = KEY, dict(PRICES), "127.0.0.1"
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, path: str, *kinds: str) -> None:
        """Have the next requests of `path` end so, one after another."""
        self.faults += [Fault(path, kind) for kind in kinds]

    def boot(self) -> None:
        """Every instance that boots is up."""
        for it in self.instances.values():
            if it["status"] == "booting":
                it |= {"status": "active", "ip": self.address}

    def add(self, name: str, type: str = "gpu_8x_a100", status: str = "active") -> str:
        """An instance that somebody else has launched."""
        found = secrets.token_hex(16)
        kind = self._types()[type]["instance_type"]
        self.instances[found] = {"id": found, "name": name, "status": status, "region": _region("us-east-1"),
                                 "instance_type": kind, "ssh_key_names": [], "file_system_names": []}  # fmt: skip
        return found

    def alive(self) -> list[dict[str, Any]]:
        """The instances that are paid for."""
        return [it for it in self.instances.values() if it["status"] in ("booting", "active", "unhealthy")]

    def count(self, path: str) -> int:
        return sum(path == asked for asked, _ in self.asked)

    def answer(self, path: str, key: str, body: Any) -> tuple[int, Any] | None:
        """Status and JSON; None: hang up."""
        with self._lock:
            self.asked.append((path, body))
            fault = next((one for one in self.faults if one.path == path), None)
            if fault:
                self.faults.remove(fault)
            if fault and fault.kind in ERRORS:
                return _error(fault.kind)
            if fault and fault.kind == UNDONE:
                return None
            said = self._do(path, key, body)
            return None if fault else said

    def _do(self, path: str, key: str, body: Any) -> tuple[int, Any]:
        if key != f"Bearer {self.key}":
            return _error("key")
        match path:
            case "instance-types":
                return 200, {"data": self._types()}
            case "ssh-keys" if body is not None:
                self.keys[body["name"]] = body["public_key"]
                return 200, {"data": {"id": body["name"]} | body}
            case "ssh-keys":
                keys = [{"id": name, "name": name, "public_key": public} for name, public in self.keys.items()]
                return 200, {"data": keys}
            case "instances":
                self.hidden -= self.hidden > 0
                return 200, {"data": [] if self.hidden else list(self.instances.values())}
            case "instance-operations/launch":
                return self._launch(body)
            case "instance-operations/terminate":
                return self._terminate(body)
        return 404, {"error": {"code": "global/not-found", "message": "Not found."}}

    def _types(self) -> dict[str, Any]:
        return {
            name: {
                "instance_type": {
                    "name": name,
                    "description": name,
                    "gpu_description": name,
                    "price_cents_per_hour": cents,
                    "specs": {"vcpus": 124, "memory_gib": 1800, "storage_gib": 6144, "gpus": int(name[4])},
                },
                "regions_with_capacity_available": [_region(place) for place in self.capacity.get(name, [])],
            }
            for name, cents in self.prices.items()
        }

    def _launch(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, type = body.get("name", ""), body.get("instance_type_name")
        if body.keys() - LAUNCH_FIELDS or len(name) > 64 or type not in self.prices or len(body["ssh_key_names"]) != 1:
            return _error("invalid")
        if body.get("quantity", 1) != 1:
            return _error("invalid")
        if body["ssh_key_names"][0] not in self.keys:
            return _error("invalid")
        if body["region_name"] not in self.capacity.get(type, []):
            return _error("capacity")
        found = self.add(name, type, "booting")
        self.instances[found] |= {"region": _region(body["region_name"]), "ssh_key_names": body["ssh_key_names"]}
        return 200, {"data": {"instance_ids": [found]}}

    def _terminate(self, body: dict[str, Any]) -> tuple[int, Any]:
        if any(one not in self.instances for one in body["instance_ids"]):
            return _error("gone")
        for one in body["instance_ids"]:
            self.instances[one]["status"] = "terminated"
        return 200, {"data": {"terminated_instances": [self.instances[one] for one in body["instance_ids"]]}}


def _region(name: str) -> dict[str, str]:
    return {"name": name, "description": name}


def _error(kind: str) -> tuple[int, Any]:
    status, code, message = ERRORS[kind]
    return status, {"error": {"code": code, "message": message, "suggestion": f"Do something about {kind}."}}


def _handler(cloud: LambdaCloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: Any) -> None:
            said = cloud.answer(self.path.removeprefix("/api/v1/"), self.headers["Authorization"] or "", body)
            if said is None:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            text = json.dumps(said[1]).encode()
            self.send_response(said[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def lambda_cloud() -> Iterator[LambdaCloud]:
    """A server that does not outlive the block."""
    cloud = LambdaCloud()
    cloud.serve()
    try:
        yield cloud
    finally:
        cloud.close()
