"""How long a role waits for a model: to connect, for the first token, between two tokens, and in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from agents.spec import AgentSpec

FIRST_TOKEN_SHARE = 0.6
"""Most of a question's or a specialist's time that one attempt may wait for its first token. Less than what the first model has of it
(a specialist's models have 90 % of its time, the first of them 80 % of that), so that a model which hangs fails by its own limit and its
breaker hears of it."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Four limits of one role, seconds; the defaults are those of a specialist.

    Args:
        connect: Longest wait for a connection to the provider. A handshake takes two round trips, and nobody is that far away.
        first_token: Longest wait of one attempt for its first token. An answer that is not streamed comes in one piece, so for it
            this is the wait for the whole. Short answers of small models take one second, long ones three to five.
        between_tokens: Longest gap between two pieces of a stream; many providers send an empty first one at once.
        total: Longest that one question may take: all attempts, the next models, and the streamed answer up to its end.
    """

    connect: float = 2.0
    first_token: float = 7.0
    between_tokens: float = 10.0
    total: float = 30.0

    def __post_init__(self) -> None:
        for name in LIMITS:
            if not getattr(self, name) > 0.0:  # so that nan is refused too
                raise ValueError(f"{name} must be more than 0 seconds")


LIMITS = tuple(field.name for field in fields(ModelLimits))
"""The names of the four."""
QUICK = ModelLimits(first_token=5.0, between_tokens=5.0, total=10.0)
"""For `routing` and `reasoning`, whose answers are short and hold up everything else."""
Overrides = Mapping[str, Mapping[str, float]]
"""What is configured: role, or "" for all roles, to some of the four limits."""


def limits_of(roles: Mapping[str, AgentSpec | None], overrides: Overrides) -> dict[str, ModelLimits]:
    """The limits of every role; none waits longer for a first token than its `total` and a specialist's timeout allow.

    Args:
        roles: Every role, and the spec if it is a specialist.
        overrides: What is configured; a role's own limits win over those for all.

    Raises:
        ValueError: A limit is no time; the text begins with the role.
    """
    found = {}
    for role, spec in roles.items():
        try:
            limits = replace(ModelLimits() if spec else QUICK, **{**overrides.get("", {}), **overrides.get(role, {})})
        except ValueError as exc:
            raise ValueError(f"{role}: {exc}") from None
        time = limits.total if spec is None else min(limits.total, spec.timeout)
        found[role] = replace(limits, first_token=min(limits.first_token, time * FIRST_TOKEN_SHARE))
    return found
