"""What policies tell whoever listens: metrics, logs, and later the other processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

_log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What happened; the fields of each kind are listed beside it."""

    RETRY_SCHEDULED = "retry_scheduled"
    """`attempt` (the one that failed), `wait` in seconds, `why`."""
    BREAKER_TRANSITION = "breaker_transition"
    """`old`, `new` (states), `retry_in` in seconds, `why`; `by`: `here`, `hand` or `fleet` (another process)."""
    REJECTED = "rejected"
    """`why`: the code of the error: `circuit_open`, `bulkhead_full`, `rate_limited`, `overloaded`."""
    ATTEMPT_TIMED_OUT = "attempt_timed_out"
    """`attempt`, `seconds`."""
    FALLBACK_TAKEN = "fallback_taken"
    """`from`, `to` (operations), `why`."""
    RETRY_REFUSED = "retry_refused"
    """The retry budget is used up; `attempt` (the one that failed), `why`."""
    HEDGE_STARTED = "hedge_started"
    """A second call was made beside a slow first one; `after` in seconds."""
    HEDGE_WON = "hedge_won"
    """The second call answered first; `after` in seconds since the first began."""
    WAITED = "waited"
    """A call had to wait for its place in a bulkhead and has it now; `seconds`."""
    LIMIT_CHANGED = "limit_changed"
    """The adaptive limit moved; `old`, `new` (calls at once), `why`."""
    OUTPUT_REPAIRED = "output_repaired"
    """An unusable answer was asked for again; `why`."""
    FAULT_INJECTED = "fault_injected"
    """Chaos; `fault`."""


@dataclass(frozen=True, slots=True)
class ResilienceEvent:
    """One decision of one policy.

    Args:
        kind: What happened.
        operation: The call in whose course it happened; a breaker moved by hand puts its own name here.
        dependency: Whose policy decided: `model:openai/gpt-x`, `specialist:billing_support`; empty if it has no name.
        fields: The details, JSON values only.
    """

    kind: EventKind
    operation: str
    dependency: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class Listener(Protocol):
    """Hears of every event, in the caller's task: it must return at once. What it raises is logged and forgotten."""

    def __call__(self, event: ResilienceEvent, /) -> None:
        """Take note of `event`."""
        ...


class Broadcast:
    """A listener that tells many; one that raises hurts neither the call nor the others.

    Args:
        listeners: Whom to tell, in this order; None is nobody.
    """

    def __init__(self, *listeners: Listener | None) -> None:
        self._listeners = tuple(listener for listener in listeners if listener)

    def __call__(self, event: ResilienceEvent, /) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # the outermost frame of foreign code: observing never hurts a call (design D11)
                _log.exception("a resilience listener failed on %s", event.kind)


def why(error: BaseException) -> str:
    """The stable code of an error, or its class name if it has none."""
    return str(getattr(error, "code", type(error).__name__))
