"""What an error says of itself, to people and to programs."""

import pytest

from resilience.errors import (
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    DependencyError,
    Overloaded,
    PermanentError,
    RateLimited,
    Rejected,
    ResilienceError,
    Throttled,
    TransientError,
)

CODES = {
    ResilienceError: "resilience_error",
    Rejected: "rejected",
    CircuitOpen: "circuit_open",
    BulkheadFull: "bulkhead_full",
    RateLimited: "rate_limited",
    Overloaded: "overloaded",
    AttemptTimedOut: "attempt_timed_out",
    DeadlineExceeded: "deadline_exceeded",
    DependencyError: "dependency_error",
    TransientError: "dependency_unavailable",
    Throttled: "dependency_throttled",
    PermanentError: "dependency_refused",
}


def test_codes_are_part_of_the_public_interface():
    """They stay as they are, and no two errors share one."""
    assert {error: error.code for error in CODES} == CODES
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("kind", [ResilienceError, Rejected, CircuitOpen, BulkheadFull, RateLimited, Overloaded])
def test_a_decision_of_a_policy_names_the_call_and_when_to_come_back(kind: type[ResilienceError]):
    """In its text and in its fields."""
    error = kind("model:gpt-x", "not now", 2.5)

    assert (str(error), error.operation, error.retry_after) == ("model:gpt-x: not now", "model:gpt-x", 2.5)
    assert kind("model:gpt-x", "not now").retry_after is None


def test_what_took_too_long_says_what_and_how_long():
    """The call in both cases; an attempt also says its limit."""
    attempt, deadline = AttemptTimedOut("model:gpt-x", 7.0), DeadlineExceeded("model:gpt-x")

    assert (str(attempt), attempt.operation, attempt.seconds) == ("model:gpt-x: no result within 7 s", "model:gpt-x", 7.0)
    assert (str(deadline), deadline.operation) == ("model:gpt-x: the deadline has passed", "model:gpt-x")


@pytest.mark.parametrize("kind", [DependencyError, TransientError, Throttled, PermanentError])
def test_an_error_of_a_dependency_says_what_the_dependency_said(kind: type[DependencyError]):
    """Its text, and the seconds to wait if it named any."""
    assert (str(kind("busy", 3.0)), kind("busy", 3.0).retry_after, kind("busy").retry_after) == ("busy", 3.0, None)
