"""Listeners hear of everything and hurt nothing."""

import logging

import pytest

from resilience.errors import BulkheadFull
from resilience.events import Broadcast, EventKind, ResilienceEvent, why

EVENT = ResilienceEvent(EventKind.REJECTED, "model:gpt-x", "model:openai/gpt-x", {"why": "circuit_open"})


def test_a_broadcast_tells_every_listener_in_order():
    """Each listener hears of each event once."""
    heard: list[str] = []
    broadcast = Broadcast(lambda _: heard.append("first"), None, lambda _: heard.append("second"))

    broadcast(EVENT)

    assert heard == ["first", "second"]


def test_a_listener_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture):
    """Its error is logged; the next listener still hears."""
    heard: list[ResilienceEvent] = []

    def broken(event: ResilienceEvent) -> None:
        raise RuntimeError("no room on the disk")

    with caplog.at_level(logging.ERROR):
        Broadcast(broken, heard.append)(EVENT)

    assert heard == [EVENT]
    said = [record.getMessage() for record in caplog.records if record.name == "resilience.events"]
    assert said == ["a resilience listener failed on rejected"]


def test_the_reason_is_the_code_or_else_the_class():
    """Errors without a stable code are named by their class."""
    assert why(BulkheadFull("tool:x", "full")) == "bulkhead_full"
    assert why(KeyError("x")) == "KeyError"
