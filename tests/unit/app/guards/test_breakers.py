"""What is decided about the fleet's breakers without asking anybody; the rest is in tests/integration/test_fleet_breakers.py."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from agents.models.limits import ModelLimits
from app.guards.breakers import BreakerChanges, breaker_rules, log_transition
from app.settings import GuardSettings
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import FakeClock


def moved(new: str, by: str = "here", dependency: str = "model:a") -> ResilienceEvent:
    fields = {"old": "closed", "new": new, "retry_in": 30.0, "why": "model_unavailable", "by": by}
    return ResilienceEvent(EventKind.BREAKER_TRANSITION, dependency, dependency, fields)


def test_only_models_can_be_slow() -> None:
    """All kinds share the open time; five minutes is ten times half a minute."""
    rules = breaker_rules(30.0, 5.0)

    assert {kind: rule.slow_call for kind, rule in rules.items()} == {"model": 5.0, "specialist": None, "tool": None}
    assert {(rule.open_time, rule.open_time_cap) for rule in rules.values()} == {(30.0, 300.0)}
    assert breaker_rules(1.0, 0.0)["model"].slow_call is None


def test_a_model_is_slow_before_its_attempts_time_out() -> None:
    """Otherwise the limit would never be met: a call that takes as long has failed."""
    assert 0.0 < GuardSettings().slow_model_call < ModelLimits().first_token


def test_a_transition_is_one_line_in_the_log() -> None:
    """With all that the event says; other events are none."""
    with capture_logs() as lines:
        log_transition(moved("open"))
        log_transition(ResilienceEvent(EventKind.REJECTED, "model:a", "model:a", {"why": "circuit_open"}))

    assert lines == [
        {
            "event": "breaker_moved",
            "log_level": "warning",
            "dependency": "model:a",
            "old": "closed",
            "new": "open",
            "retry_in": 30.0,
            "why": "model_unavailable",
            "by": "here",
        }
    ]


@pytest.mark.parametrize("event", [moved("half_open"), moved("open", by="fleet"), moved("closed", by="fleet")], ids=str)
async def test_what_is_no_news_to_the_fleet_is_not_noted(event: ResilienceEvent) -> None:
    """What it has told us itself, and what is everybody's own."""
    changes = BreakerChanges()

    changes(event)

    assert changes.take() == {}
    assert not changes.arrived.is_set()


async def test_many_moves_become_one_and_a_hand_among_them_is_remembered() -> None:
    """The last one says when; also if the first ones could not be told and are put back."""
    clock = FakeClock()
    changes = BreakerChanges(clock)
    changes(moved("closed", by="hand"))
    clock.advance(5)
    taken = changes.take()
    changes(moved("open"))
    changes.put_back({**taken, "model:b": taken["model:a"]})
    clock.advance(2)

    told = changes.take()

    assert {name: (changes.age(change), change.by_hand) for name, change in told.items()} == {"model:a": (2, True), "model:b": (7, True)}
