"""A stand-in for a model provider: OpenAI's chat protocol over real HTTP on loopback, healthy or ill as the test says."""

from __future__ import annotations

import json
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
STREAM_LIMIT = 30.0
"""Longest that a stream waits for its test, seconds."""


@dataclass(frozen=True)
class Reply:
    """What the provider does with one request.

    Args:
        text: The answer's text.
        calls: Tool calls, name and arguments; bytes are sent as they are.
        status: HTTP status; other than 200: an error with `code`.
        code: OpenAI's error code.
        headers: Further response headers.
        raw: Sent as it is instead of a completion.
        hangs: Never answer (until the provider closes).
        cut_after: Break the connection after this many streamed words, or in the middle of an answer that is not streamed.
        pause: Seconds between two streamed words, sending them included.
        waits_after: Streamed words after which the stream stops until the event is set; an answer that is not streamed stops in its middle.
        finish: The finish reason.
    """

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any] | bytes], ...] = ()
    status: int = 200
    code: str = "server_error"
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    hangs: bool = False
    cut_after: int | None = None
    pause: float = 0.0
    waits_after: tuple[int, threading.Event] | None = None
    finish: str = ""


Behaviour = Callable[[Request], Reply]


def routes_to(specialist: str, confidence: float = 0.9) -> Reply:
    """A routing decision."""
    decision = {"specialist": specialist, "confidence": confidence, "reason": "it is theirs", "alternatives": []}
    return Reply(json.dumps(decision))


def concludes(text: str, confidence: float = 0.9) -> Reply:
    """A specialist's answer."""
    return Reply(text, calls=(("conclude", {"confidence": confidence, "sources": []}),))


def is_routing(request: Request) -> bool:
    """Whether the supervisor asks."""
    return "response_format" in request


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The library's five are full when thirty ask at once on a busy machine: the kernel then turns connections away, and a service
    # that sees that takes the provider for dead.
    request_queue_size = 1024


class Provider:
    """The provider; `behaviour` may be replaced at any time.

    Args:
        behaviour: What to do with each request; called from a thread per connection.
        port: Where to listen; 0: any free port.

    Attributes:
        requests: Every request so far, oldest first, with its headers under `_headers` and its time under `_at`, seconds.
        reader_left: Set once a reader has left before the end of a stream, or while its request was hanging.
    """

    def __init__(self, behaviour: Behaviour, port: int = 0) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.reader_left = threading.Event()
        self._closing = threading.Event()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes, and the second must not wait for an acknowledgement

            def log_message(self, *args: Any) -> None: ...

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                request["_headers"] = {name.lower(): value for name, value in self.headers.items()}
                request["_at"] = time.monotonic()
                provider.requests.append(request)
                try:
                    provider._answer(self, request, provider.behaviour(request))
                except (BrokenPipeError, ConnectionResetError):
                    provider.reader_left.set()
                    self.close_connection = True

        self._server = _Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    @contextmanager
    def serving(self) -> Iterator[Provider]:
        """Serve for as long as the block lasts."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler, request: Request, reply: Reply) -> None:
        if reply.hangs:
            _wait(handler, self._closing, limit=math.inf)
            handler.close_connection = True
        elif reply.status != 200:
            error = {"error": {"message": "the stand-in was told to fail", "type": "error", "param": None, "code": reply.code}}
            self._send(handler, reply, json.dumps(error).encode())
        elif reply.raw is not None:
            self._send(handler, reply, reply.raw)
        elif request.get("stream"):
            self._stream(handler, request, reply)
        else:
            self._send(handler, reply, json.dumps(_completion(request, reply)).encode())

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply, body: bytes) -> None:
        handler.send_response(reply.status)
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if reply.cut_after is not None:
            body, handler.close_connection = body[: len(body) // 2], True
        if reply.waits_after is not None:
            begun, body = body[: len(body) // 2], body[len(body) // 2 :]
            handler.wfile.write(begun)
            _wait(handler, reply.waits_after[1])
        handler.wfile.write(body)

    def _stream(self, handler: BaseHTTPRequestHandler, request: Request, reply: Reply) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.send_header("transfer-encoding", "chunked")  # as providers do: a stream that breaks can be told from one that ends
        handler.end_headers()
        begun = time.monotonic()
        for i, chunk in enumerate(_chunks(request, reply)):
            if reply.cut_after is not None and i > reply.cut_after:
                handler.close_connection = True
                return
            if reply.waits_after is not None and i > reply.waits_after[0]:
                _wait(handler, reply.waits_after[1])
            _send_chunk(handler, b"data: " + json.dumps(chunk).encode() + b"\n\n")
            if reply.pause:
                time.sleep(max(0.0, begun + (i + 1) * reply.pause - time.monotonic()))
        _send_chunk(handler, b"data: [DONE]\n\n")
        handler.wfile.write(b"0\r\n\r\n")


def _wait(handler: BaseHTTPRequestHandler, event: threading.Event, limit: float = STREAM_LIMIT) -> None:
    """Return when the event is set or after `limit` seconds; a reader who leaves meanwhile breaks the pipe."""
    end = time.monotonic() + limit
    while not event.wait(0.02) and time.monotonic() < end:
        if select.select([handler.connection], [], [], 0)[0] and not handler.connection.recv(1, socket.MSG_PEEK):
            raise BrokenPipeError


def _send_chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
    handler.wfile.flush()


def _usage(request: Request, reply: Reply) -> dict[str, int]:
    read, written = sum(len(str(m.get("content"))) // 4 for m in request["messages"]), len(reply.text) // 4 + 1
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "index": i,
            "id": f"call_{time.monotonic_ns()}_{i}",
            "type": "function",
            "function": {"name": name, "arguments": arguments.decode() if isinstance(arguments, bytes) else json.dumps(arguments)},
        }
        for i, (name, arguments) in enumerate(reply.calls)
    ]


def _finish(reply: Reply) -> str:
    return reply.finish or ("tool_calls" if reply.calls else "stop")


def _completion(request: Request, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = _tool_calls(reply)
    return {
        "id": f"chatcmpl-{time.monotonic_ns()}",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(request, reply),
    }


def chunks_of(reply: Reply) -> int:
    """In how many pieces the reply is streamed."""
    return sum(1 for _ in _chunks({"model": "", "messages": []}, reply))


def _chunks(request: Request, reply: Reply) -> Iterator[dict[str, Any]]:
    head = {"id": f"chatcmpl-{time.monotonic_ns()}", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    for i, word in enumerate(reply.text.split(" ") if reply.text else []):
        yield chunk({"content": word if i == 0 else f" {word}"})
    if reply.calls:
        yield chunk({"tool_calls": _tool_calls(reply)})
    yield chunk({}, _finish(reply))
    yield {**head, "choices": [], "usage": _usage(request, reply)}
