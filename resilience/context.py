"""What travels with one guarded call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from resilience.deadline import Deadline

PATIENCE = 0.25
"""Longest wait for another attempt, or for a turn, where something as good stands ready, seconds: the bound of a retry's first wait, and
less than whoever stands ready needs for an answer (ADR-0024)."""


class Priority(IntEnum):
    """Whose turn comes first where calls wait; the smaller, the sooner."""

    INTERACTIVE = 0
    DEFAULT = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Standing:
    """Where in a queue a call belongs.

    Args:
        tenant: Whose call it is; tenants of one priority take turns.
        priority: How urgent the request is that the call belongs to.
        is_under_way: Whether the request has been served in part already; then the call goes before all those that have not begun,
            so that nothing is begun which cannot be finished.
        request: Names the request that the call belongs to; by it a call is known that was expected.
    """

    tenant: str = ""
    priority: Priority = Priority.DEFAULT
    is_under_way: bool = False
    request: str = ""


class Output:
    """Whether a call has begun to show its result to somebody.

    Shared by all attempts of one operation. Once it has started nothing is retried, hedged or replaced by a
    fallback: the reader would see the beginning twice (design D6). Attempt timeouts end there too, since they bound
    the wait for the first output; the deadline stays.

    Attributes:
        held_back: Seconds that queues of ours have kept the operation waiting, over all its attempts; queues add to it.
    """

    def __init__(self) -> None:
        self.held_back = 0.0
        self._started = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def has_started(self) -> bool:
        """Whether the first piece is out."""
        return self._started

    def start(self) -> None:
        """Say that the first piece is out; later calls change nothing."""
        if self._started:
            return
        self._started = True
        for listener in self._listeners:
            listener()
        self._listeners.clear()

    def on_start(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` once when the output starts; never, if it has started already.

        Returns:
            A function that stops listening; calling it later than the start does nothing.
        """
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop


def _nothing() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call through a pipeline; policies hand a changed copy down, never the same object back up.

    Args:
        operation: What is called, for errors and metrics: `model:gpt-x`, `specialist:billing_support`, `tool:find_order`.
        deadline: The instant by which the caller needs an answer.
        attempt: Number of this attempt, from 1.
        idempotent: Whether calling twice does what calling once does.
        is_read_only: Whether the call changes nothing anywhere and shows nothing to anybody before it returns, so that two may be under
            way at once and one of them be thrown away.
        standing: Where it belongs in a queue.
        output: Whether the caller's reader has seen the first piece of the result.
        weigh: What the call is expected to use of an allowance per time, besides being one call: the prompt's tokens, for a model.
            Asked only where there is such an allowance.
        ending: By when output that has begun must be whole; None: by `deadline`. It may be later: what flows is worth waiting for,
            and nobody else can take over any more.
        has_stand_in: Whether something as good is asked next if this call fails, so that time spent on trying again here is lost.
    """

    operation: str
    deadline: Deadline
    attempt: int = 1
    idempotent: bool = False
    is_read_only: bool = False
    standing: Standing = field(default_factory=Standing)
    output: Output = field(default_factory=Output, compare=False)
    weigh: Callable[[], int] = field(default=_nothing, compare=False)
    ending: Deadline | None = None
    has_stand_in: bool = False

    @property
    def due(self) -> Deadline:
        """The deadline that holds now: `ending`, once the output has begun."""
        return self.ending if self.ending is not None and self.output.has_started else self.deadline

    def with_attempt(self, attempt: int) -> CallContext:
        """The same call, tried again."""
        return self if attempt == self.attempt else replace(self, attempt=attempt)

    def with_deadline(self, deadline: Deadline) -> CallContext:
        """The same call with less (never more) time."""
        return replace(self, deadline=deadline)
