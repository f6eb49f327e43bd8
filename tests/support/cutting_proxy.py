"""A proxy that cuts connections in the middle of a stream, as networks do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes bytes on, and cuts the first streams of events after so many bytes of each.

    Args:
        upstream: Address of the service.
        cuts: Bytes of each stream that pass before it is cut, one number per stream; later streams are left alone.

    Attributes:
        streams: How many streams of events have passed.
    """

    def __init__(self, upstream: str, cuts: Sequence[int]) -> None:
        self.streams = 0
        self._upstream = (urlsplit(upstream).hostname, urlsplit(upstream).port)
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def serving(self) -> Iterator[CuttingProxy]:
        """Serve for as long as the block lasts."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), closing(socket.create_connection(self._upstream)) as service:
            threading.Thread(target=_pump, args=(client, service), daemon=True).start()
            left: int | None = None
            is_stream = False
            while chunk := _received(service):
                if not is_stream and b"text/event-stream" in chunk:
                    is_stream = True
                    left = self._cuts[self.streams] if self.streams < len(self._cuts) else None
                    self.streams += 1
                if left is not None:
                    chunk, left = chunk[:left], left - len(chunk)
                try:
                    client.sendall(chunk)
                except OSError:
                    break
                if left is not None and left <= 0:
                    break
            for end in (client, service):
                _shut(end)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := _received(source):
            target.sendall(chunk)
    except OSError:
        pass
    _shut(target)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
