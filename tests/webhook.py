"""A service that takes messages over HTTP: it may fail first, or hang."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """What was sent to a server, and how it answers: with each of `answers` once, then with 200; None hangs up late."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.answers: list[int | None] = []
        self.over = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.asked += 1
                code = hook.answers.pop(0) if hook.answers else 200
                if code is None:
                    hook.over.wait()
                    return
                if code == 200:
                    hook.taken.append(said)
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        """As apprise reads it, with a secret in each part that may hold one."""
        port = self.server.server_address[1]
        return f"json://user:{PASSWORD}@127.0.0.1:{port}/{PATH}?-key={QUERY}&+X-Token={HEADER}"

    @property
    def titles(self) -> list[str]:
        """Those of the messages that were taken, without which farm said them."""
        return [said["title"].partition(": ")[2] for said in self.taken]


PASSWORD, PATH, QUERY, HEADER = "pass5word", "hook-T0P5ecret", "qu3ry5ecret", "h3ader5ecret"
SECRETS = (PASSWORD, PATH, QUERY, HEADER)


@contextmanager
def webhook() -> Iterator[Webhook]:
    """One that listens until the end of the block."""
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hook
    finally:
        hook.over.set()
        hook.server.shutdown()
        hook.server.server_close()
        thread.join()
