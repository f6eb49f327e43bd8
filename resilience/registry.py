"""The breakers and bulkheads that all callers of a dependency share, and the pipelines that are made with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TypeVar

from resilience.adaptive import AdaptiveLimit, AdaptiveSettings
from resilience.breaker import Breaker, BreakerSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.clock import Clock, SystemClock
from resilience.deadline_guard import DeadlineGuard
from resilience.events import Broadcast, Listener
from resilience.pipeline import Pipeline
from resilience.policy import Policy
from resilience.retry import Retry
from resilience.timeout import AttemptTimeout

S = TypeVar("S")


class PolicyName(StrEnum):
    """The policies that can be switched off one by one, to see what each is worth and what it costs."""

    ADMISSION = "admission"
    RATE_LIMIT = "rate_limit"
    FALLBACK = "fallback"
    REPAIR = "repair"
    DEADLINE = "deadline"
    RETRY = "retry"
    RETRY_BUDGET = "retry_budget"
    HEDGE = "hedge"
    BREAKER = "breaker"
    BULKHEAD = "bulkhead"
    ADAPTIVE_LIMIT = "adaptive_limit"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class ResilienceSettings:
    """Rules per dependency. The key is a dependency (`model:openai/gpt-x`) or its kind (`model`); the longer one wins.

    Args:
        off: Policies that pipelines leave out.
        breakers: Breakers that differ from the defaults of `BreakerSettings`.
        bulkheads: Bulkheads that differ from the defaults of `BulkheadSettings`.
        adaptive: Bulkheads whose limit adapts; those that no rule names keep theirs.
    """

    off: frozenset[PolicyName] = frozenset()
    breakers: Mapping[str, BreakerSettings] = field(default_factory=dict)
    bulkheads: Mapping[str, BulkheadSettings] = field(default_factory=dict)
    adaptive: Mapping[str, AdaptiveSettings] = field(default_factory=dict)


class PolicyRegistry:
    """One breaker and one bulkhead per dependency, made when first asked for; one registry per process.

    Dependencies are named `kind:name`: `model:openai/gpt-x`, `specialist:billing_support`, `tool:find_order`.
    Pipelines hold no state of their own: make one where it is used and keep it.

    Args:
        settings: Rules that differ from the defaults.
        clock: Clock of every policy.
        rng: Jitter of every retry.
        listeners: Hear of every event.
    """

    def __init__(
        self,
        settings: ResilienceSettings | None = None,
        *,
        clock: Clock | None = None,
        rng: Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        self._settings = settings or ResilienceSettings()
        self._clock = clock or SystemClock()
        self._rng = rng or Random()
        self._listener = Broadcast(*listeners)
        self._breakers: dict[str, Breaker] = {}
        self._bulkheads: dict[str, Bulkhead] = {}

    @property
    def listener(self) -> Listener:
        """Tells all listeners; for policies that are made elsewhere, such as a fallback."""
        return self._listener

    def breaker(self, dependency: str) -> Breaker:
        """The breaker that all callers of `dependency` share."""
        if dependency not in self._breakers:
            settings = _rules(self._settings.breakers, dependency)
            self._breakers[dependency] = Breaker(dependency, settings, clock=self._clock, listener=self._listener)
        return self._breakers[dependency]

    def bulkhead(self, dependency: str) -> Bulkhead:
        """The bulkhead that all callers of `dependency` share."""
        if dependency not in self._bulkheads:
            bounds = _rules(self._settings.adaptive, dependency) if self.is_on(PolicyName.ADAPTIVE_LIMIT) else None
            self._bulkheads[dependency] = Bulkhead(
                dependency,
                _rules(self._settings.bulkheads, dependency),
                adaptive=AdaptiveLimit(bounds) if bounds else None,
                clock=self._clock,
                listener=self._listener,
            )
        return self._bulkheads[dependency]

    def breakers(self) -> tuple[Breaker, ...]:
        """Every breaker made so far, sorted by dependency."""
        return tuple(breaker for _, breaker in sorted(self._breakers.items()))

    def bulkheads(self) -> tuple[Bulkhead, ...]:
        """Every bulkhead made so far, sorted by dependency."""
        return tuple(bulkhead for _, bulkhead in sorted(self._bulkheads.items()))

    def provider_pipeline(self, dependency: str, *, timeout: float = 20.0, attempts: int = 3) -> Pipeline:
        """What guards calls of one model: deadline › retry › breaker › bulkhead › attempt timeout.

        A fallback to another model goes around it and calls through the other model's own pipeline.

        Args:
            dependency: Provider and model, `model:openai/gpt-x`.
            timeout: Longest wait of one attempt for its first output, seconds.
            attempts: Most attempts.
        """
        return self._pipeline(self._deadline(), self._retry(dependency, attempts), *self._guards(dependency, timeout))

    def specialist_pipeline(self, name: str, timeout: float) -> Pipeline:
        """What guards one specialist: deadline › breaker › bulkhead › timeout. No retry: the models below have theirs.

        Args:
            name: The specialist; its dependency is `specialist:<name>`.
            timeout: Longest wait for its first output, seconds.
        """
        return self._pipeline(self._deadline(), *self._guards(f"specialist:{name}", timeout))

    def tool_pipeline(self, name: str, timeout: float, *, is_idempotent: bool) -> Pipeline:
        """What guards one tool: deadline › (retry ›) breaker › bulkhead › attempt timeout.

        Args:
            name: The tool; its dependency is `tool:<name>`.
            timeout: Longest one attempt may take, seconds.
            is_idempotent: Whether calling twice does what calling once does; else there is no retry.
        """
        dependency = f"tool:{name}"
        retry = [self._retry(dependency, attempts=3)] if is_idempotent else []
        return self._pipeline(self._deadline(), *retry, *self._guards(dependency, timeout))

    def is_on(self, policy: PolicyName) -> bool:
        """Whether `policy` has not been switched off."""
        return policy not in self._settings.off

    def _pipeline(self, *policies: tuple[PolicyName, Policy]) -> Pipeline:
        return Pipeline(*(policy for name, policy in policies if self.is_on(name)))

    def _deadline(self) -> tuple[PolicyName, Policy]:
        return PolicyName.DEADLINE, DeadlineGuard()

    def _retry(self, dependency: str, attempts: int) -> tuple[PolicyName, Policy]:
        return PolicyName.RETRY, Retry(attempts, rng=self._rng, clock=self._clock, dependency=dependency, listener=self._listener)

    def _guards(self, dependency: str, timeout: float) -> tuple[tuple[PolicyName, Policy], ...]:
        return (
            (PolicyName.BREAKER, self.breaker(dependency)),
            (PolicyName.BULKHEAD, self.bulkhead(dependency)),
            (PolicyName.TIMEOUT, AttemptTimeout(timeout, dependency=dependency, listener=self._listener)),
        )


def _rules(rules: Mapping[str, S], dependency: str) -> S | None:
    return rules.get(dependency) or rules.get(dependency.partition(":")[0])
