"""An S3 server on loopback: moto's, made strict. It checks every signature, and serves one request at a time.

`python tests/s3_server.py PORT`. By itself moto takes any credentials, and between the look and the write of a
conditional put another request may come. Both users below are known to it; the second may only read. Nothing can be
written below FULL, nothing removed below HELD.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import wait_until

from farm.site.server import free_port

ACCOUNT = "123456789012"
BUCKET = "farm-test"
FULL = "full"  # below this prefix there is no space left
HELD = "held"  # below this one a policy denies removal: DeleteObjects answers 200, with an error per key


class S3Server:
    """A server process on a free port, with one empty bucket. Its objects are gone when it stops."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        self.environment: dict[str, str] = {}
        self.reader: dict[str, str] = {}

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__)), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        writer, reader = json.loads(self.process.stdout.readline())
        self.environment, self.reader = self._of(writer), self._of(reader)
        wait_until(self._answers, "the S3 server answers", 30)

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _of(self, key: dict[str, str]) -> dict[str, str]:
        return key | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server that does not outlive the block."""
    server = S3Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def main(port: int) -> None:
    from moto import settings
    from moto.iam.models import iam_backends
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    users = iam_backends[ACCOUNT]["aws"]
    keys = []
    for name, actions in (("writer", ["s3:*"]), ("reader", ["s3:Get*", "s3:List*", "s3:Head*"])):
        users.create_user("us-east-1", name)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        users.put_user_policy(name, "all", json.dumps(policy))
        key = users.create_access_key(name)
        keys.append({"AWS_ACCESS_KEY_ID": key.access_key_id, "AWS_SECRET_ACCESS_KEY": key.secret_access_key})
    buckets = s3_backends[ACCOUNT]["aws"]
    buckets.create_bucket(BUCKET, "us-east-1")
    below = f"arn:aws:s3:::{BUCKET}/{HELD}/*"
    held = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": below}
    buckets.put_bucket_policy(BUCKET, json.dumps({"Version": "2012-10-17", "Statement": [held]}).encode())
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0  # from now on
    app, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serve(environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].startswith(f"/{BUCKET}/{FULL}/"):
            start_response("507 Insufficient Storage", [("Content-Type", "application/xml")])
            return [b"<Error><Code>XMinioStorageFull</Code><Message>as MinIO says it</Message></Error>"]
        with one_at_a_time:
            return list(app(environ, start_response))

    sys.stdout.write(json.dumps(keys) + "\n")
    sys.stdout.flush()
    run_simple("127.0.0.1", port, serve, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main(int(sys.argv[1]))
