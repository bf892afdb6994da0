"""An SSH server on loopback that takes one throw-away key, runs commands in a home of its own, and forwards ports.

It is asyncssh's: an sshd would need root, a system account and a package that Python's registry does not have. What is
tested against it is the system's own `ssh`.
"""

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh


class Sshd:
    """`command` is the ssh that gets in."""

    def __init__(self, folder: Path, host_key: str | None = None):
        self.home = folder / "there"
        self.home.mkdir()
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._connections: list[asyncssh.SSHServerConnection] = []
        made = asyncssh.generate_private_key("ssh-ed25519")
        self._host_key = asyncssh.import_private_key(host_key) if host_key else made
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / "key")
        (folder / "key").chmod(0o600)
        key.write_public_key(folder / "authorized_keys")
        self.port = 0
        self._loop.run_until_complete(self._listen())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        known = f"[127.0.0.1]:{self.port} {self._host_key.export_public_key().decode()}"
        (folder / "known_hosts").write_text(known)

    @property
    def command(self) -> str:
        return (
            f"ssh -F none -p {self.port} -i {self._folder}/key -o IdentitiesOnly=yes -l somebody"
            f" -o UserKnownHostsFile={self._folder}/known_hosts"
        )

    def hang_up(self) -> None:
        """Break every connection, as a network does."""
        for connection in self._connections:
            self._loop.call_soon_threadsafe(connection.abort)
        self._connections.clear()

    def leave(self) -> None:
        """Break every connection and take no other."""
        self.hang_up()
        asyncio.run_coroutine_threadsafe(self._closed(), self._loop).result(timeout=10)

    def come_back(self) -> None:
        """Take connections again, at the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(timeout=10)

    def close(self) -> None:
        self.leave()
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _closed(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _listen(self) -> None:
        outer = self

        class Login(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                outer._connections.append(conn)

            def connection_requested(self, *_: object) -> bool:
                return True  # forward to wherever is asked for

        async def run(process: asyncssh.SSHServerProcess) -> None:
            given = await process.stdin.read()
            done = await asyncio.to_thread(
                subprocess.run,
                ["sh", "-c", process.command or ""],
                input=given,
                env={"HOME": str(self.home)},
                cwd=self.home,
                capture_output=True,
            )
            process.stdout.write(done.stdout)
            process.stderr.write(done.stderr)
            process.exit(done.returncode)

        self._server = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=Login,
            server_host_keys=[self._host_key],
            authorized_client_keys=str(self._folder / "authorized_keys"),
            process_factory=run,
            encoding=None,
        )
        self.port = self._server.get_port()


@contextmanager
def sshd(folder: Path, host_key: str | None = None) -> Iterator[Sshd]:
    """`host_key`: the private key by which it says who it is, in OpenSSH's format."""
    server = Sshd(folder, host_key)
    try:
        yield server
    finally:
        server.close()
