from structlog.testing import capture_logs

from app.telemetry.fallbacks import EVERY, FallbackLog
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import FakeClock


def taken(why: str = "model_rejected_request") -> ResilienceEvent:
    return ResilienceEvent(EventKind.FALLBACK_TAKEN, "model:a", "model:a", {"from": "model:a", "to": "model:b", "why": why})


def test_a_step_is_told_once_a_minute_with_how_often_it_was_taken() -> None:
    """A key that was mistyped is not hidden by the model that answers instead; an outage does not fill the log."""
    clock = FakeClock()
    log = FallbackLog(clock)
    line = {"event": "fallback_taken", "log_level": "warning", "from": "model:a", "to": "model:b", "code": "model_rejected_request"}

    with capture_logs() as lines:
        for _ in range(3):
            log(taken())
        log(taken("circuit_open"))
        clock.advance(EVERY)
        log(taken())
        log(ResilienceEvent(EventKind.RETRY_SCHEDULED, "model:a", "model:a", {"attempt": 1}))

    assert lines == [{**line, "times": 1}, {**line, "code": "circuit_open", "times": 1}, {**line, "times": 3}]
