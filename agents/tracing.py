"""What the work below a run tells about itself, whoever listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from agents.usage import Usage

SpanKind = Literal["agent", "tool", "generation", "chain", "retriever", "guardrail"]


@dataclass(frozen=True, slots=True)
class RunTrace:
    """What is known of a run when its trace opens.

    Args:
        seed: Runs with the same seed share one trace: the run's id, or that of the interrupted run that this one resumes.
        name: What is run: the graph's name.
        thread_id: Groups the traces of a conversation.
        tenant: Whose deployment this is.
        user_id: Whose conversation this is; None: nobody is identified.
        tags: Words to filter by.
        metadata: Small values to look up by; strings over 200 characters are dropped.
        input: What the run was asked; plain data.
    """

    seed: str
    name: str
    thread_id: str
    tenant: str
    user_id: str | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] | None = None
    input: Any = None


class Span(Protocol):
    """One observed piece of work."""

    def update(
        self,
        *,
        output: Any = None,
        model: str | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Add what is known by now; what is not given stays as it was. Never raises.

        Args:
            output: What came of it; plain data.
            model: The model that answered; only a `generation` has one.
            usage: What the call cost; only a `generation` has one.
            error: Marks the span as failed; a stable code or a short text.
            metadata: Small values to look up by.
        """
        ...


class Tracer(Protocol):
    """Opens spans as context managers; a span's parent is the one that is open around it in the same context.

    Tracing never hurts: neither opening, updating nor closing a span raises or waits for a network. An exception that
    leaves the block marks the span as failed and passes through unchanged. A cancelled task and a graph's own signals
    (interrupt, drain) close the span without marking it.
    """

    def run(self, run: RunTrace) -> AbstractContextManager[Span]:
        """The root span of a run, of kind `agent`."""
        ...

    def span(self, kind: SpanKind, name: str, *, input: Any = None) -> AbstractContextManager[Span]:
        """A span below the current one."""
        ...

    def score(self, seed: str, name: str, value: float, comment: str = "") -> None:
        """What somebody thinks of the run whose trace has this seed; the same name again replaces the earlier word."""
        ...


class _NullSpan:
    """Takes everything and keeps nothing."""

    __slots__ = ()

    def update(
        self,
        *,
        output: Any = None,
        model: str | None = None,
        usage: Usage | None = None,
        error: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None: ...

    def __enter__(self) -> _NullSpan:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None: ...


_NULL_SPAN = _NullSpan()


class NullTracer:
    """The tracer of a service without one: a shared span, no allocation, nothing sent."""

    def run(self, run: RunTrace) -> AbstractContextManager[Span]:
        """The span that does nothing."""
        return _NULL_SPAN

    def span(self, kind: SpanKind, name: str, *, input: Any = None) -> AbstractContextManager[Span]:
        """The span that does nothing."""
        return _NULL_SPAN

    def score(self, seed: str, name: str, value: float, comment: str = "") -> None:
        """Nothing is sent."""
