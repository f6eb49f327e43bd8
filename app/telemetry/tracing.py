"""Sends the spans of runs to Langfuse, from a thread of its own.

On the request's path a span is built, masked and put into a bounded queue; everything that touches the network happens elsewhere.
When the backend is ill, whole runs go untraced and are counted: a queue never grows for it and nobody waits (ADR-0011).
"""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from langfuse import Langfuse, propagate_attributes
from langgraph.errors import GraphBubbleUp
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import get_current_span

from agents.tracing import NullTracer, RunTrace, Span, SpanKind
from agents.usage import Usage
from app.telemetry.logging import get_logger
from app.telemetry.masking import MAX_TEXT, mask, mask_text
from app.telemetry.metrics import Metrics

log = get_logger()

_MAX_ATTRIBUTE = 2 * MAX_TEXT
_CLOSE_TIMEOUT = 3.0
_EXPORT_TIMEOUT = 5
# The SDK's queue forgets its oldest span beyond the second number; new runs stop being traced well before.
_ROOM_FOR_RUNS = 1_024
_QUEUE = 2_048


class LangfuseTracer:
    """The tracer over the Langfuse SDK; one per process and public key (the SDK keeps one client per key for good).

    Args:
        public_key: The project's public key.
        secret_key: The project's secret key.
        base_url: Where Langfuse is; no trailing slash.
        metrics: Told of the spans that are lost.
        flush_interval: Longest a finished span waits before it is sent, seconds.
    """

    def __init__(self, *, public_key: str, secret_key: str, base_url: str, metrics: Metrics, flush_interval: float = 2.0) -> None:
        self._outbox = Outbox(_exporter(public_key, secret_key, base_url), metrics)
        # A provider of our own: as a global one it would make FastAPI's native spans the parents of ours.
        # Without `shutdown_on_exit` a dead backend cannot hold up the end of the process.
        self._provider = TracerProvider(span_limits=SpanLimits(max_attribute_length=_MAX_ATTRIBUTE), shutdown_on_exit=False)
        self._client = Langfuse(
            public_key=public_key,
            secret_key=secret_key,
            base_url=base_url,
            flush_interval=flush_interval,
            timeout=_EXPORT_TIMEOUT,
            tracer_provider=self._provider,
            span_exporter=self._outbox,
        )
        self._is_closed = False

    def run(self, run: RunTrace) -> AbstractContextManager[Span]:
        """The root span of a run; its trace id follows from `run.seed`."""
        if self._is_closed or not self._outbox.has_room():
            return _NOTHING.run(run)
        return _LangfuseSpan(self._client, self._outbox, "agent", run.name, run.input, run)

    def span(self, kind: SpanKind, name: str, *, input: Any = None) -> AbstractContextManager[Span]:
        """A span below the current one; outside a traced run it records nothing."""
        if self._is_closed or not get_current_span().is_recording():
            return _NOTHING.span(kind, name)
        return _LangfuseSpan(self._client, self._outbox, kind, name, input)

    def score(self, seed: str, name: str, value: float, comment: str = "") -> None:
        """A score of the run's trace, sent from the SDK's own thread; one that is given again has the same id, so it replaces."""
        if self._is_closed:
            return
        try:
            self._client.create_score(
                score_id=str(uuid5(NAMESPACE_OID, f"{seed}:{name}")),
                trace_id=Langfuse.create_trace_id(seed=seed),
                name=name,
                value=value,
                data_type="NUMERIC",
                comment=mask_text(comment) if comment else None,
            )
        except Exception as exc:
            log.warning("score_not_sent", error=type(exc).__name__)

    async def close(self) -> None:
        """Send what is waiting and stop, within three seconds; what is left then is lost. Never raises; may be called twice."""
        if self._is_closed:
            return
        self._is_closed = True
        # The SDK's shutdown blocks for as long as the backend hangs, and the loop's own executor would be waited for at its end.
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        threading.Thread(target=self._shut_down, args=(loop, done), name="langfuse-shutdown", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), _CLOSE_TIMEOUT)
        except TimeoutError:
            log.warning("tracing_not_flushed", spans=self._outbox.waiting)

    def _shut_down(self, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        try:
            self._client.shutdown()
            self._provider.shutdown()
        finally:
            with suppress(RuntimeError):  # the loop has not waited for us
                loop.call_soon_threadsafe(done.set)


class _LangfuseSpan:
    """One observation; entered and left in the same context."""

    def __init__(self, client: Langfuse, outbox: Outbox, kind: SpanKind, name: str, input: Any = None, run: RunTrace | None = None) -> None:
        self._client = client
        self._outbox = outbox
        self._kind = kind
        self._name = name
        self._input = _masked(input)
        self._run = run
        self._stack = ExitStack()
        self._observation: Any = None

    def __enter__(self) -> _LangfuseSpan:
        try:
            with ExitStack() as opening:
                self._observation = opening.enter_context(self._open())
                if self._run is not None:
                    opening.enter_context(_attributes(self._run))
                self._stack = opening.pop_all()
        except Exception as exc:
            self._observation = None
            log.warning("span_not_opened", span=self._name, error=type(exc).__name__)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if self._observation is None:
            return
        if isinstance(exc, Exception) and not isinstance(exc, GraphBubbleUp):
            self.update(error=f"{type(exc).__name__}: {exc}")
        self._outbox.expect()
        try:
            # The exception stays outside: the SDK would attach its text and its stack without masking them.
            self._stack.close()
        except Exception as error:
            log.warning("span_not_closed", span=self._name, error=type(error).__name__)

    def update(
        self,
        *,
        output: Any = None,
        model: str | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Add what is known by now."""
        if self._observation is None:
            return
        fields: dict[str, Any] = {"output": _masked(output), "metadata": _masked(metadata)}
        if error is not None:
            fields |= {"level": "ERROR", "status_message": _masked(error)}
        if self._kind == "generation":
            fields["model"] = model
            if usage is not None:
                fields["usage_details"] = {"input": usage.input_tokens, "output": usage.output_tokens}
                if usage.cost_usd:  # an unknown price is left to Langfuse's own table
                    fields["cost_details"] = {"total": usage.cost_usd}
        try:
            self._observation.update(**{name: value for name, value in fields.items() if value is not None})
        except Exception as exc:
            log.warning("span_not_updated", span=self._name, error=type(exc).__name__)

    def _open(self) -> AbstractContextManager[Any]:
        if self._run is None:
            return self._client.start_as_current_observation(as_type=self._kind, name=self._name, input=self._input)
        return self._client.start_as_current_observation(
            as_type="agent",
            name=self._name,
            input=self._input,
            trace_context={"trace_id": Langfuse.create_trace_id(seed=self._run.seed)},
        )


class Outbox(SpanExporter):
    """Counts what waits for the backend and what was lost on the way to it."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics
        self._lock = threading.Lock()
        self._is_failing = False
        self.waiting = 0

    def has_room(self) -> bool:
        """Whether another run may be traced; a run that may not is counted."""
        if self.waiting < _ROOM_FOR_RUNS:
            return True
        self._metrics.trace_dropped()
        return False

    def expect(self) -> None:
        """A span has ended and will come through `export`."""
        with self._lock:
            if self.waiting < _QUEUE:
                self.waiting += 1
                return
        self._metrics.trace_dropped()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in the exporting thread; says once that the backend is ill, and once that it is well again."""
        try:
            result = self._exporter.export(spans)
        except Exception as exc:
            log.warning("tracing_export_failed", error=type(exc).__name__)
            result = SpanExportResult.FAILURE
        with self._lock:
            self.waiting = max(0, self.waiting - len(spans))
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing:
            self._metrics.trace_dropped(len(spans))
        if is_failing != self._is_failing:
            self._is_failing = is_failing
            log.warning("tracing_backend_unreachable" if is_failing else "tracing_backend_reachable")
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered here."""
        return self._exporter.force_flush(timeout_millis)


def _exporter(public_key: str, secret_key: str, base_url: str) -> SpanExporter:
    """The exporter as the SDK would make it; made here because only a given one can be counted."""
    token = b64encode(f"{public_key}:{secret_key}".encode()).decode("ascii")
    return OTLPSpanExporter(
        endpoint=f"{base_url}/api/public/otel/v1/traces",
        headers={"Authorization": f"Basic {token}", "x-langfuse-ingestion-version": "4"},
        timeout=_EXPORT_TIMEOUT,
        compression=Compression.Gzip,
    )


def _attributes(run: RunTrace) -> AbstractContextManager[Any]:
    """What every span of the run carries; these do not pass the SDK's mask."""
    return propagate_attributes(
        user_id=None if run.user_id is None else mask_text(run.user_id),
        session_id=run.thread_id,
        tags=[mask_text(tag) for tag in run.tags],
        metadata={"tenant": run.tenant, **mask(run.metadata or {})},
        trace_name=run.name,
    )


def _masked(data: Any) -> Any:
    """`mask`, or nothing of the data.

    Done before the SDK sees the data and not by its `mask` option, which comes after it has uploaded files found in texts.
    """
    try:
        return None if data is None else mask(data)
    except Exception as exc:
        log.warning("masking_failed", error=type(exc).__name__)
        return "[MASKING FAILED]"


_NOTHING = NullTracer()
