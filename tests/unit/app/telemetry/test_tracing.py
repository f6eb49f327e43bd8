from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from agents.tracing import NullTracer, RunTrace
from agents.usage import Usage
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Outbox

SPAN = ReadableSpan("answer")
TRACE = RunTrace(seed="r", name="support", thread_id="t", tenant="acme")


class Exporter(SpanExporter):
    """Answers with what it is told to."""

    def __init__(self) -> None:
        self.is_well = True
        self.is_broken = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.is_broken:
            raise RuntimeError("bug")
        return SpanExportResult.SUCCESS if self.is_well else SpanExportResult.FAILURE

    def shutdown(self) -> None: ...


def dropped(metrics: Metrics) -> float:
    line = next(line for line in metrics.render().decode().splitlines() if line.startswith("capataz_traces_dropped_total"))
    return float(line.split()[-1])


def fill(outbox: Outbox, spans: int) -> None:
    for _ in range(spans):
        outbox.expect()


def test_runs_are_refused_before_the_queue_is_full_and_again_taken_when_it_is_not() -> None:
    """Whole runs go untraced, counted one by one, until the backend has caught up."""
    metrics = Metrics()
    outbox = Outbox(Exporter(), metrics)
    fill(outbox, 1023)
    assert outbox.has_room()

    fill(outbox, 1)
    assert not outbox.has_room()
    assert dropped(metrics) == 1

    outbox.export([SPAN] * 512)
    assert outbox.has_room()


def test_what_the_queue_forgets_is_counted_and_no_longer_waits() -> None:
    """Beyond its length every further span costs the oldest; the count stays right when the backend returns."""
    metrics = Metrics()
    outbox = Outbox(Exporter(), metrics)

    fill(outbox, 2048 + 10)

    assert dropped(metrics) == 10
    assert outbox.waiting == 2048


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_failed_export_is_counted_and_told_once(is_broken: bool) -> None:
    """Two failed batches are two counts and one line, the recovery another line."""
    metrics, exporter = Metrics(), Exporter()
    outbox = Outbox(exporter, metrics)
    exporter.is_well, exporter.is_broken = False, is_broken

    with capture_logs() as logs:
        assert outbox.export([SPAN]) is SpanExportResult.FAILURE
        assert outbox.export([SPAN, SPAN]) is SpanExportResult.FAILURE
        exporter.is_well, exporter.is_broken = True, False
        assert outbox.export([SPAN]) is SpanExportResult.SUCCESS

    assert dropped(metrics) == 3
    assert [line["event"] for line in logs if line["event"].startswith("tracing_backend")] == [
        "tracing_backend_unreachable",
        "tracing_backend_reachable",
    ]


def test_the_null_tracer_takes_everything_and_makes_nothing() -> None:
    """One shared span, whatever is opened."""
    tracer = NullTracer()

    with tracer.run(TRACE) as root, tracer.span("generation", "answer", input="hi") as span:
        span.update(output="x", model="m", usage=Usage(1, 1), error="e", metadata={})

    assert span is root


def test_the_null_tracer_lets_exceptions_through() -> None:
    """Not tracing swallows nothing."""
    with pytest.raises(ValueError, match="as it was"), NullTracer().run(TRACE):
        raise ValueError("as it was")
