"""The one shape that every policy has."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from resilience.context import CallContext

T = TypeVar("T")
Call = Callable[[CallContext], Awaitable[T]]


class Policy(Protocol):
    """Wraps a call. A policy never imports another: a pipeline puts them together."""

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run `call` under this policy and return what it returns.

        Raises:
            ResilienceError: The policy refused the call or gave it up.
            Exception: Whatever the call raised, unchanged. `asyncio.CancelledError` always passes through.
        """
        ...
