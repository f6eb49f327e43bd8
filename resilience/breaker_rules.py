"""A breaker's states and rules, and what it shows of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """Closed lets through, open refuses, half_open tries, isolated is open by hand until it is released."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"


class MovedBy(StrEnum):
    """Who changed a breaker's state: its own rules, an operator, or another process of the fleet."""

    HERE = "here"
    HAND = "hand"
    FLEET = "fleet"


def is_ill(error: Exception) -> bool:
    """Whether `error` says that the dependency is ill; each error type says it of itself (docs/resilience/breaker.md has the table)."""
    return bool(getattr(error, "is_illness", False))


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When one dependency is left alone, and for how long. Any of the three rules opens.

    Args:
        consecutive_failures: Opens after this many failures in a row.
        failure_rate: Opens on a failure that brings the share of failures in `window` to this, 0..1.
        slow_call: A call that succeeds is slow if its first output, or its end where nothing is shown before, takes this long,
            seconds. What it waited in queues of ours is not its fault. None: no call is slow.
        slow_rate: Opens on a slow call that brings the share of slow calls in `window` to this, 0..1.
        window: How far back the rates look, seconds.
        minimum_calls: Fewest results in `window` for the rates to mean anything.
        open_time: Seconds until an open breaker lets a probe through. Doubles with each opening that follows another one before the
            breaker has been closed for as long as it was open.
        open_time_cap: Longest open time, seconds.
        jitter: An open time may be shorter by up to this share, 0..1, so that processes which open together do not probe together.
        probes: Most probes under way at once, and successes needed to close; the first failure opens again.
        counts: Which errors are failures. All others are neutral: neither failure nor success.
    """

    consecutive_failures: int = 5
    failure_rate: float = 0.5
    slow_call: float | None = None
    slow_rate: float = 0.5
    window: float = 30.0
    minimum_calls: int = 10
    open_time: float = 30.0
    open_time_cap: float = 300.0
    jitter: float = 0.1
    probes: int = 3
    counts: Callable[[Exception], bool] = is_ill

    def __post_init__(self) -> None:
        if min(self.consecutive_failures, self.probes) < 1 or not 0.0 < self.open_time <= self.open_time_cap:
            raise ValueError("a breaker needs failures and probes >= 1 and 0 < open_time <= open_time_cap")


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """A breaker at one moment, for display and for the other processes.

    Args:
        dependency: Whose breaker it is.
        state: Its state.
        since: Seconds in this state.
        by: Who moved it there.
        why: The reason: a stable code; empty: it never moved.
        is_admitting: Whether it would let a call through now.
        consecutive_failures: Failures since the last success.
        recent_calls: Results in the window, neutral ones left out.
        recent_failures: The failures among them.
        recent_slow: The slow calls among them.
        retry_in: Seconds until a probe may pass; 0.0 unless open.
        openings: Openings in a row, each before the one before was forgotten; 0: none.
        last_failure: Code of the last failure; None: there was none.
    """

    dependency: str
    state: BreakerState
    since: float
    by: MovedBy
    why: str
    is_admitting: bool
    consecutive_failures: int
    recent_calls: int
    recent_failures: int
    recent_slow: int
    retry_in: float
    openings: int
    last_failure: str | None
