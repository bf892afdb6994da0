"""A proxy for programs that insist on https://HOST: CONNECT to a host that it knows ends at a port of this machine."""

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress


@contextmanager
def proxy(known: Mapping[str, tuple[int, ssl.SSLContext]]) -> Iterator[str]:
    """Its address. `known`: host -> the port that answers for it in the clear, and the certificate to be that host.

    Every other host is refused: nothing leaves this machine.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, known), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, known: Mapping[str, tuple[int, ssl.SSLContext]]) -> None:
    with suppress(OSError):
        while True:
            threading.Thread(target=_serve, args=(server.accept()[0], known), daemon=True).start()


def _serve(client: socket.socket, known: Mapping[str, tuple[int, ssl.SSLContext]]) -> None:
    with suppress(OSError), client:
        head = b""
        while b"\r\n\r\n" not in head and (piece := client.recv(4096)):
            head += piece
        host = head.partition(b" ")[2].partition(b":")[0].decode()
        if not head.startswith(b"CONNECT ") or host not in known:
            client.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        port, context = known[host]
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with (
            context.wrap_socket(client, server_side=True) as there,
            socket.create_connection(("127.0.0.1", port)) as here,
        ):
            threading.Thread(target=_pass_on, args=(there, here), daemon=True).start()
            _pass_on(here, there)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
