"""A receiver of webhooks, written from the Standard Webhooks specification and from RFC 2104, with nothing of the sender's."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

TOLERANCE = 300
"""Oldest timestamp that is believed, seconds."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def said(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request is answered.

    Args:
        status: The status.
        headers: More headers.
        hangs: Whether nothing is answered until the receiver's end.
        is_endless: Whether the body is written until the other side has gone.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    hangs: bool = False
    is_endless: bool = False


class WebhookReceiver:
    """Listens on a free loopback port while the `with` block lasts.

    Args:
        answers: How the first requests are answered, in their order; all others with 200.
    """

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Received] = []
        self.written = 0
        self.given_up = threading.Event()
        self.answers = list(answers)
        self._changed = threading.Condition()
        self._leaving = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def wait(self, count: int, timeout: float = 15.0) -> Sequence[Received]:
        """The first `count` requests, once they have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, timeout), f"only {len(self.requests)} requests came"
            return self.requests[:count]

    def wait_for_runs(self, run_ids: Collection[str], timeout: float = 15.0) -> Sequence[Any]:
        """What was said of these runs, once something has been said of each."""

        def told() -> list[Any]:
            return [said for said in (request.said for request in self.requests) if said["run_id"] in run_ids]

        with self._changed:
            assert self._changed.wait_for(lambda: {said["run_id"] for said in told()} == {*run_ids}, timeout), "some run was not told of"
            return told()

    def __enter__(self) -> WebhookReceiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._leaving.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, request: Received) -> Answer:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            answer = self.answers.pop(0) if self.answers else Answer()
        if answer.hangs:
            self._leaving.wait()
        return answer

    def _write_endlessly(self, write: Callable[[bytes], Any]) -> None:
        try:
            while not self._leaving.is_set():
                write(b"x" * 65_536)
                self.written += 65_536
        finally:
            self.given_up.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receive, write_endlessly = self._receive, self._write_endlessly

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                answer = receive(Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers:
                        self.send_header(name, value)
                    if not answer.is_endless:
                        self.send_header("content-length", "0")
                    self.end_headers()
                    if answer.is_endless:
                        write_endlessly(self.wfile.write)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None: ...

        return Handler


def verify(request: Received, secret: str, now: float) -> bool:
    """Whether one of the request's signatures was made with `secret` (`whsec_…`), over what has arrived, not long ago."""
    timestamp = request.headers["webhook-timestamp"]
    if abs(now - int(timestamp)) > TOLERANCE:
        return False
    expected = _hmac(base64.b64decode(secret.partition("_")[2]), f"{request.id}.{timestamp}.".encode() + request.body)
    versions = (part.split(",", 1) for part in request.headers["webhook-signature"].split(" "))
    return any(version == "v1" and base64.b64decode(text) == expected for version, text in versions)


def _hmac(key: bytes, message: bytes) -> bytes:
    padded = key.ljust(64, b"\0")  # keys are at most 64 bytes long, SHA-256's block
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()
