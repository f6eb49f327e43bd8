"""A Langfuse server as its SDK sees it: takes spans over the OTLP export protocol, and scores, and remembers them."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from google.protobuf import text_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

TRACES_PATH = "/api/public/otel/v1/traces"
SCORES_PATH = "/api/public/scores"


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span as it arrived; ids are hexadecimal, `text` is all of it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    text: str

    @property
    def kind(self) -> str:
        return str(self.attributes["langfuse.observation.type"])

    def field(self, name: str) -> Any:
        """The observation's `input`, `output`, `level`…, parsed if it is JSON; None: it was not sent."""
        value = self.attributes.get(f"langfuse.observation.{name}")
        return json.loads(value) if isinstance(value, str) and value[:1] in '{["' else value


class LangfuseReceiver:
    """Listens on a free loopback port while the `with` block lasts.

    Args:
        answers: Whether requests are answered; False: they hang until the block ends.
    """

    def __init__(self, *, answers: bool = True) -> None:
        self.requests = 0
        self._answers = answers
        self._spans: list[ReceivedSpan] = []
        self._scores: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._leaving = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait(self, enough: Callable[[list[ReceivedSpan]], bool], timeout: float = 15.0) -> list[ReceivedSpan]:
        """All spans so far, as soon as they are `enough`.

        Raises:
            AssertionError: They were not within `timeout` seconds; the text names those that came.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._spans), timeout):
                raise AssertionError(f"after {timeout} s only these spans: {[span.name for span in self._spans]}")
            return list(self._spans)

    def wait_for_request(self, timeout: float = 15.0) -> None:
        """Return once a request has come in, answered or not."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests > 0, timeout), "no request came"

    def spans(self) -> list[ReceivedSpan]:
        """All spans so far."""
        return self.wait(lambda _: True)

    def scores(self) -> list[dict[str, Any]]:
        """All scores so far, as they were sent."""
        with self._changed:
            return list(self._scores)

    def __enter__(self) -> LangfuseReceiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._leaving.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _receive(self, path: str, body: bytes) -> tuple[str, bytes]:
        """Remember what a request holds; the media type and the body of its answer."""
        with self._changed:
            self.requests += 1
            self._changed.notify_all()
        if not self._answers:
            self._leaving.wait()
        if path == SCORES_PATH:
            batch = json.loads(body)
            with self._changed:
                self._scores += batch
            return "application/json", b'{"message": "Accepted"}'
        if path != TRACES_PATH:
            return "application/json", b'{"successes": [], "errors": []}'
        batch = [
            ReceivedSpan(
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                {attribute.key: _plain(attribute.value) for attribute in span.attributes},
                text_format.MessageToString(span, as_utf8=True),
            )
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._changed:
            self._spans += batch
            self._changed.notify_all()
        return "application/x-protobuf", ExportTraceServiceResponse().SerializeToString()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receive = self._receive

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                media_type, answer = receive(self.path, body)
                try:
                    self.send_response(200)
                    self.send_header("content-type", media_type)
                    self.send_header("content-length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except ConnectionError:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None: ...

        return Handler


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
