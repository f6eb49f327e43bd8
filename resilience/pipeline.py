"""Policies put together."""

from __future__ import annotations

from functools import partial

from resilience.context import CallContext
from resilience.policy import Call, Policy, T


class Pipeline:
    """Policies around a call, outermost first: read it as "who sees the failure last". A pipeline is a policy itself.

    Args:
        policies: From the outside in; none: the call alone.
    """

    def __init__(self, *policies: Policy) -> None:
        self._inside_out = tuple(policy.execute for policy in reversed(policies))

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call under all policies."""
        for execute in self._inside_out:
            call = partial(execute, call)
        return await call(ctx)
