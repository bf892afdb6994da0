"""The metadata services of AWS and GCP, as far as notices go, over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Metadata:
    """What the service knows. Set `action`, `rebalance` or `preempted`, and the cloud has spoken."""

    def __init__(self, cloud: str):
        self.cloud = cloud
        self.action: str | None = None
        self.rebalance: str | None = None
        self.preempted = False
        self.token = "token-1"
        self.flavour = "Google"
        self.asked: list[str] = []
        self.waiting = 0  # requests that wait for a change
        self.changed = threading.Condition()
        self.url = ""

    def preempt(self) -> None:
        with self.changed:
            self.preempted = True
            self.changed.notify_all()

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of one request."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        self.asked.append(f"{method} {path}")
        return self._aws(method, path, headers) if self.cloud == "AWS" else self._gcp(path, query, headers)

    def _aws(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        if method == "PUT" and path == "/latest/api/token":
            return (200, {}, self.token) if "x-aws-ec2-metadata-token-ttl-seconds" in headers else (400, {}, "")
        if headers.get("x-aws-ec2-metadata-token") != self.token:
            return 401, {}, ""
        pages = {
            "/latest/meta-data/spot/instance-action": self.action,
            "/latest/meta-data/events/recommendations/rebalance": self.rebalance,
        }
        text = pages.get(path)
        return (404, {}, "") if text is None else (200, {}, text)

    def _gcp(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        if path != "/computeMetadata/v1/instance/preempted":
            return 404, {"Metadata-Flavor": self.flavour}, ""
        if headers.get("metadata-flavor") != "Google":
            return 403, {}, ""
        with self.changed:
            if query.get("wait_for_change") == ["true"] and query.get("last_etag") == [str(self.preempted)]:
                self.waiting += 1
                self.changed.wait(float(query["timeout_sec"][0]))
                self.waiting -= 1
            said = self.preempted
        return 200, {"Metadata-Flavor": self.flavour, "ETag": str(said)}, str(said).upper()


@contextmanager
def served(cloud: str) -> Iterator[Metadata]:
    """A service of `cloud` ("AWS" or "GCP") on a free port of this machine."""
    service = Metadata(cloud)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, text = service.answer(
                self.command, self.path, {k.lower(): v for k, v in self.headers.items()}
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.preempt()  # lets go of whoever waits for a change
            server.shutdown()
