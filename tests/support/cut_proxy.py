"""A TCP proxy that cuts streams: what a lost network looks like to a client."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit


class CutProxy:
    """`with CutProxy(url, cuts=[3, 5]) as proxy:` cuts the first stream in its 4th event, the second in its 6th, and no other.

    Args:
        upstream: Address of the service.
        cuts: How many events of each stream are let through whole.
    """

    def __init__(self, upstream: str, cuts: list[int]) -> None:
        self._upstream = (urlsplit(upstream).hostname, urlsplit(upstream).port)
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Request line and header fields (lower case) of everything that was asked."""

    def __enter__(self) -> CutProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for opened in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                service = socket.create_connection(self._upstream)
                self._sockets += [client, service]
                threading.Thread(target=self._up, args=(client, service), daemon=True).start()
                threading.Thread(target=self._down, args=(client, service), daemon=True).start()

    def _up(self, client: socket.socket, service: socket.socket) -> None:
        for data in _received(client):
            head = data.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            if head[0].endswith("HTTP/1.1"):
                fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
                self.requests.append((head[0], fields))
            service.sendall(data)
        with contextlib.suppress(OSError):
            service.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, service: socket.socket) -> None:
        left: int | None = None
        for data in _received(service):
            if left is None and b"text/event-stream" in data and self._cuts:
                left = self._cuts.pop(0)
            if left is not None:
                at = _end_of(data, left + 1)
                left -= data.count(b"\nevent: ")
                if at is not None:
                    client.sendall(data[:at])
                    break
            client.sendall(data)
        for cut in (client, service):
            with contextlib.suppress(OSError):
                cut.shutdown(socket.SHUT_RDWR)


def _end_of(data: bytes, number: int) -> int | None:
    """Where the line `event:` of the event `number` (from 1) ends in `data`; None: it has fewer."""
    at = 0
    for _ in range(number):
        at = data.find(b"\nevent: ", at) + 1
        if at == 0:
            return None
    return at + len("event: ") + 3


def _received(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            yield data
