"""The breakers, bulkheads, hedges and retry budgets that all callers of a dependency share, and the pipelines made with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TypeVar

from resilience.adaptive import AdaptiveLimit, AdaptiveSettings
from resilience.breaker import Breaker, BreakerSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.chaos import Chaos, ChaosPlan, garbage
from resilience.clock import Clock, SystemClock
from resilience.deadline_guard import DeadlineGuard
from resilience.events import Broadcast, Listener
from resilience.hedge import Hedge, HedgeSettings
from resilience.pipeline import Pipeline
from resilience.policy import Policy
from resilience.rate_limit import Limiter, RateLimit
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget, RetryBudgetSettings
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
        retry_budgets: Retry budgets that differ from the defaults of `RetryBudgetSettings`.
        hedges: Hedges that differ from the defaults of `HedgeSettings`.
        chaos: Faults to inject; None: none.
        adaptive: Bulkheads whose limit adapts; those that no rule names keep theirs.
    """

    off: frozenset[PolicyName] = frozenset()
    breakers: Mapping[str, BreakerSettings] = field(default_factory=dict)
    bulkheads: Mapping[str, BulkheadSettings] = field(default_factory=dict)
    retry_budgets: Mapping[str, RetryBudgetSettings] = field(default_factory=dict)
    hedges: Mapping[str, HedgeSettings] = field(default_factory=dict)
    chaos: ChaosPlan | None = None
    adaptive: Mapping[str, AdaptiveSettings] = field(default_factory=dict)


class PolicyRegistry:
    """One breaker, bulkhead, hedge and retry budget per dependency, made when first asked for; one registry per process.

    Dependencies are named `kind:name`: `model:openai/gpt-x`, `specialist:billing_support`, `tool:find_order`.
    Pipelines hold no state of their own: make one where it is used and keep it.

    Args:
        settings: Rules that differ from the defaults.
        clock: Clock of every policy.
        rng: Jitter of every retry and every open time.
        listeners: Hear of every event.
        garbage: What injected garbage of a dependency ends in: the error that its real garbage would.
        limiters: Allowances per time, by dependency; others have none.
    """

    def __init__(
        self,
        settings: ResilienceSettings | None = None,
        *,
        clock: Clock | None = None,
        rng: Random | None = None,
        listeners: Iterable[Listener] = (),
        garbage: Callable[[str], Exception] = garbage,
        limiters: Mapping[str, Limiter] | None = None,
    ) -> None:
        self._settings = settings or ResilienceSettings()
        self._clock = clock or SystemClock()
        self._rng = rng or Random()
        self._listener = Broadcast(*listeners)
        self._limiters = limiters or {}
        self._breakers: dict[str, Breaker] = {}
        self._bulkheads: dict[str, Bulkhead] = {}
        self._retry_budgets: dict[str, RetryBudget] = {}
        self._hedges: dict[str, Hedge] = {}
        self._garbage = garbage
        self._chaos: dict[str, Chaos] = {}
        self._started_at = self._clock.monotonic() if self._settings.chaos else 0.0

    @property
    def listener(self) -> Listener:
        """Tells all listeners; for policies that are made elsewhere, such as a fallback."""
        return self._listener

    def breaker(self, dependency: str) -> Breaker:
        """The breaker that all callers of `dependency` share."""
        if dependency not in self._breakers:
            settings = _rules(self._settings.breakers, dependency)
            self._breakers[dependency] = Breaker(dependency, settings, clock=self._clock, rng=self._rng, listener=self._listener)
        return self._breakers[dependency]

    def bulkhead(self, dependency: str) -> Bulkhead:
        """The bulkhead that all callers of `dependency` share."""
        if dependency not in self._bulkheads:
            bounds = _rules(self._settings.adaptive, dependency) if self.is_on(PolicyName.ADAPTIVE_LIMIT) else None
            self._bulkheads[dependency] = Bulkhead(
                dependency,
                _rules(self._settings.bulkheads, dependency),
                adaptive=AdaptiveLimit(bounds, cpu=self._clock.cpu) if bounds else None,
                clock=self._clock,
                listener=self._listener,
            )
        return self._bulkheads[dependency]

    def retry_budget(self, dependency: str) -> RetryBudget:
        """The retry budget that all callers of `dependency` share."""
        if dependency not in self._retry_budgets:
            self._retry_budgets[dependency] = RetryBudget(_rules(self._settings.retry_budgets, dependency), clock=self._clock)
        return self._retry_budgets[dependency]

    def hedge(self, dependency: str) -> Hedge:
        """The hedge that all callers of `dependency` share."""
        if dependency not in self._hedges:
            settings = _rules(self._settings.hedges, dependency)
            self._hedges[dependency] = Hedge(settings, clock=self._clock, dependency=dependency, listener=self._listener)
        return self._hedges[dependency]

    def breakers(self) -> tuple[Breaker, ...]:
        """Every breaker made so far, sorted by dependency."""
        return tuple(breaker for _, breaker in sorted(self._breakers.items()))

    def bulkheads(self) -> tuple[Bulkhead, ...]:
        """Every bulkhead made so far, sorted by dependency."""
        return tuple(bulkhead for _, bulkhead in sorted(self._bulkheads.items()))

    def provider_pipeline(self, dependency: str, *, timeout: float = 20.0, attempts: int = 3) -> Pipeline:
        """What guards calls of one model: deadline › retry › hedge › (rate limit ›) breaker › bulkhead › attempt timeout.

        A fallback to another model goes around it and calls through the other model's own pipeline.

        Args:
            dependency: Provider and model, `model:openai/gpt-x`.
            timeout: Longest wait of one attempt for its first output, seconds.
            attempts: Most attempts.
        """
        return self._pipeline(
            self._deadline(),
            self._retry(dependency, attempts),
            self._hedge(dependency),
            *self._rate_limit(dependency),
            *self._guards(dependency, timeout),
        )

    def specialist_pipeline(self, name: str, timeout: float) -> Pipeline:
        """What guards one specialist: deadline › breaker › bulkhead › timeout. No retry: the models below have theirs.

        Args:
            name: The specialist; its dependency is `specialist:<name>`.
            timeout: Longest wait for its first output, seconds.
        """
        return self._pipeline(self._deadline(), *self._guards(f"specialist:{name}", timeout))

    def tool_pipeline(self, name: str, timeout: float, *, is_idempotent: bool) -> Pipeline:
        """What guards one tool: deadline › (retry › hedge ›) breaker › bulkhead › attempt timeout.

        Args:
            name: The tool; its dependency is `tool:<name>`.
            timeout: Longest one attempt may take, seconds.
            is_idempotent: Whether calling twice does what calling once does; else there is neither retry nor hedge.
        """
        dependency = f"tool:{name}"
        again = [self._retry(dependency, attempts=3), self._hedge(dependency)] if is_idempotent else []
        return self._pipeline(self._deadline(), *again, *self._guards(dependency, timeout))

    def is_on(self, policy: PolicyName) -> bool:
        """Whether `policy` has not been switched off."""
        return policy not in self._settings.off

    def _pipeline(self, *policies: tuple[PolicyName | None, Policy]) -> Pipeline:
        return Pipeline(*(policy for name, policy in policies if name is None or self.is_on(name)))

    def _deadline(self) -> tuple[PolicyName, Policy]:
        return PolicyName.DEADLINE, DeadlineGuard()

    def _retry(self, dependency: str, attempts: int) -> tuple[PolicyName, Policy]:
        budget = self.retry_budget(dependency) if self.is_on(PolicyName.RETRY_BUDGET) else None
        retry = Retry(attempts, budget=budget, rng=self._rng, clock=self._clock, dependency=dependency, listener=self._listener)
        return PolicyName.RETRY, retry

    def _hedge(self, dependency: str) -> tuple[PolicyName, Policy]:
        return PolicyName.HEDGE, self.hedge(dependency)

    def _rate_limit(self, dependency: str) -> tuple[tuple[PolicyName, Policy], ...]:
        limiter = self._limiters.get(dependency)
        if limiter is None:
            return ()
        return ((PolicyName.RATE_LIMIT, RateLimit(limiter, clock=self._clock, dependency=dependency, listener=self._listener)),)

    def _guards(self, dependency: str, timeout: float) -> tuple[tuple[PolicyName | None, Policy], ...]:
        return (
            (PolicyName.BREAKER, self.breaker(dependency)),
            (PolicyName.BULKHEAD, self.bulkhead(dependency)),
            (PolicyName.TIMEOUT, AttemptTimeout(timeout, dependency=dependency, listener=self._listener)),
            *self._faults(dependency),
        )

    def _faults(self, dependency: str) -> tuple[tuple[None, Policy], ...]:
        plan = self._settings.chaos
        if plan is None:
            return ()
        if dependency not in self._chaos:
            self._chaos[dependency] = Chaos(
                dependency,
                plan.faults,
                seed=plan.seed,
                garbage=self._garbage,
                clock=self._clock,
                started_at=self._started_at,
                listener=self._listener,
            )
        chaos = self._chaos[dependency]
        return ((None, chaos),) if chaos.has_faults else ()


def _rules(rules: Mapping[str, S], dependency: str) -> S | None:
    return rules.get(dependency) or rules.get(dependency.partition(":")[0])
