"""Rate limits: of requests per API key, and of calls and tokens per model provider; shared by all processes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agents.models.port import ModelReply
from app.storage.errors import StorageError
from app.storage.redis.keys import TenantKeys, provider_rate
from app.storage.redis.limits import RedisBuckets
from resilience.context import CallContext
from resilience.rate_limit import Grant
from resilience.token_bucket import Charge, LocalBuckets, Rate, Taken

REDIS_PATIENCE = 0.5
"""Longest wait for the shared buckets, seconds; they answer in a thousandth of it."""
AWAY = 1.0
"""How long this process's own buckets count before Redis is asked again, seconds."""
FIRST_ANSWER = 200
"""Tokens that an answer is taken to have before the first has been seen."""
LEARNING = 0.1
"""Weight of the newest answer in the mean of a model's answers."""
UNTOLD = 5.0
"""Seconds for which a model is not asked again that answered 429 without saying how long: quotas are counted per minute, so the next
tenth of a second is no better, and one look every five finds the end soon enough."""
MOST_PER_MINUTE = 10**9
"""Largest allowance; the buckets count time in thousandths of a millisecond."""
Outcome = Literal["allowed", "waited", "refused"]
_DEPENDENCY = "model:"
_AMOUNT = re.compile(r"([0-9]{1,10})(rpm|tpm)")


class LimitMeter(Protocol):
    """Counts decisions."""

    def rate_limit(self, limit: str, outcome: Outcome, *, is_local: bool) -> None:
        """Something was asked of `limit`, of this process's own buckets if `is_local`."""
        ...


class SharedBuckets:
    """The buckets of all processes; while Redis is away, full ones of this process: an outage neither lifts a limit nor locks out."""

    def __init__(self, shared: RedisBuckets, meter: LimitMeter) -> None:
        self._shared = shared
        self._local = LocalBuckets()
        self._meter = meter
        self._away_until = 0.0

    async def take(self, limit: str, charges: Sequence[Charge], *, patience: float = 0.0) -> Taken:
        """Take all charges, or none of them; `limit` is the name under which that is counted. See `LocalBuckets.take`."""
        taken: Taken | None = None
        if self._is_there():
            try:
                async with asyncio.timeout(REDIS_PATIENCE):
                    taken = await self._shared.take(charges, patience=patience)
            except (StorageError, TimeoutError):
                self._miss()
        is_local = taken is None
        taken = taken or self._local.take(charges, patience=patience)
        outcome: Outcome = "refused" if not taken.is_allowed else "waited" if taken.wait > 0.0 else "allowed"
        self._meter.rate_limit(limit, outcome, is_local=is_local)
        return taken

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Add to what has been taken, or give back what has a negative cost; may overdraw."""
        if not await self._reached(lambda: self._shared.settle(charges)):
            self._local.settle(charges)

    async def hold(self, charges: Sequence[Charge], seconds: float) -> None:
        """Have nothing to give for `seconds`, at most a window."""
        if not await self._reached(lambda: self._shared.hold(charges, seconds)):
            self._local.hold(charges, seconds)

    async def _reached(self, change: Callable[[], Awaitable[None]]) -> bool:
        """Make a change in Redis, and say whether Redis was there."""
        if not self._is_there():
            return False
        try:
            async with asyncio.timeout(REDIS_PATIENCE):
                await change()
        except (StorageError, TimeoutError):
            self._miss()
            return False
        return True

    def _is_there(self) -> bool:
        return asyncio.get_running_loop().time() >= self._away_until

    def _miss(self) -> None:
        self._away_until = asyncio.get_running_loop().time() + AWAY


class RequestLimit:
    """How many runs the holder of one API key may ask for per minute. A tenant with several keys has as many allowances.

    Args:
        buckets: Keep the allowances.
        per_minute: Runs; as many may come at once.
    """

    NAME = "api_key"

    def __init__(self, buckets: SharedBuckets, per_minute: int) -> None:
        self._buckets = buckets
        self.rate = Rate(per_minute)

    async def spend(self, tenant: str, key_id: str, runs: int = 1) -> Taken:
        """Take `runs` of the allowance of the key with the digest `key_id`, if that many are left, else none."""
        return await self._buckets.take(self.NAME, [Charge(TenantKeys(tenant).rate(key_id), self.rate, runs)])


@dataclass(frozen=True, slots=True)
class Quota:
    """What a provider allows for one of its models or for all of them; None: as much as one likes.

    Args:
        name: `provider/model` or `provider`.
        calls: Per minute.
        tokens: Per minute, prompts and answers together.
    """

    name: str
    calls: int | None = None
    tokens: int | None = None

    def covers(self, dependency: str) -> bool:
        """Whether the calls of `model:provider/model` count here."""
        model = dependency.removeprefix(_DEPENDENCY)
        return self.name in (model, model.partition("/")[0])


def parse_quotas(text: str) -> tuple[Quota, ...]:
    """The quotas of `openai/gpt-4.1-mini=500rpm,200000tpm;openai=1000rpm`; none of an empty text.

    Raises:
        ValueError: It is not of that form; the text says where.
    """
    quotas: dict[str, Quota] = {}
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, _, amounts = (part.strip() for part in entry.partition("="))
        found = [_AMOUNT.fullmatch(amount.strip()) for amount in amounts.split(",")]
        given = {match[2]: int(match[1]) for match in found if match}
        if not name or len(given) < len(found):
            raise ValueError(f"{entry!r} must be provider/model=500rpm,200000tpm or provider=…, either amount once")
        if not all(1 <= amount <= MOST_PER_MINUTE for amount in given.values()):
            raise ValueError(f"{entry!r}: amounts are from 1 to {MOST_PER_MINUTE}")
        if name in quotas:
            raise ValueError(f"{name!r} is there twice")
        quotas[name] = Quota(name, given.get("rpm"), given.get("tpm"))
    return tuple(quotas.values())


def provider_limiters(quotas: Sequence[Quota], dependencies: Iterable[str], buckets: SharedBuckets) -> Mapping[str, ProviderLimiter]:
    """A limiter for each of the `model:…` dependencies that a quota covers.

    Raises:
        ValueError: A quota covers no model of this service.
    """
    names = sorted(dependencies)
    for quota in quotas:
        if not any(quota.covers(name) for name in names):
            known = ", ".join(name.removeprefix(_DEPENDENCY) for name in names)
            raise ValueError(f"no model of this service is called {quota.name!r}; there are: {known}")
    covering = {name: [quota for quota in quotas if quota.covers(name)] for name in names}
    return {name: ProviderLimiter(name, found, buckets) for name, found in covering.items() if found}


class ProviderLimiter:
    """The allowance of one model: its own and its share of its provider's. A `resilience.rate_limit.Limiter`.

    What a call will use is estimated before it: its prompt's tokens and a mean answer. What it did use is settled after it, off the
    request path, and may overdraw.

    Args:
        dependency: `model:provider/model`.
        quotas: All that cover it.
        buckets: Keep the allowances.
    """

    def __init__(self, dependency: str, quotas: Sequence[Quota], buckets: SharedBuckets) -> None:
        self._dependency = dependency
        self._buckets = buckets
        provider = dependency.removeprefix(_DEPENDENCY).partition("/")[0]
        self._calls = [(provider_rate(provider, quota.name, "calls"), Rate(quota.calls)) for quota in quotas if quota.calls]
        self._tokens = [(provider_rate(provider, quota.name, "tokens"), Rate(quota.tokens)) for quota in quotas if quota.tokens]
        model = dependency.removeprefix(_DEPENDENCY)
        self._own = [provider_rate(provider, model, unit) for unit in ("calls", "tokens")]
        self._most = min((rate.allowance for _, rate in self._tokens), default=0)
        self._answer = float(FIRST_ANSWER)
        self._owed_calls = self._owed_tokens = 0
        self._hold: float | None = None
        self._nothing_until = float("-inf")
        self._settling: asyncio.Task[None] | None = None

    async def take(self, ctx: CallContext, *, patience: float) -> Grant:
        """See `Limiter.take`. What would need more than a whole allowance waits until that is full."""
        weight = min(ctx.weigh() + round(self._answer), self._most) if self._tokens else 0
        taken = await self._buckets.take(self._dependency, self._charges(1, weight), patience=patience)
        if not taken.is_allowed:
            self._nothing_until = asyncio.get_running_loop().time() + taken.wait
        return Grant(taken.is_allowed, taken.wait, weight)

    @property
    def is_used_up(self) -> bool:
        """Whether the last call that was refused here would be refused or have to wait now, as far as this process knows."""
        return asyncio.get_running_loop().time() < self._nothing_until

    def settle(self, grant: Grant, result: object) -> None:
        """See `Limiter.settle`; a reply without usage keeps the estimate."""
        if not self._tokens or not isinstance(result, ModelReply):
            return
        used = result.usage
        if used.input_tokens or used.output_tokens:
            self._answer += LEARNING * (used.output_tokens - self._answer)
            self._owe(0, used.input_tokens + used.output_tokens - grant.weight)

    def throttled(self, retry_after: float) -> None:
        """See `Limiter.throttled`. Only the model's own allowance is held: its provider's other models may have some left."""
        self._hold = max(retry_after or UNTOLD, self._hold or 0.0)
        self._soon()

    def give_back(self, grant: Grant) -> None:
        """See `Limiter.give_back`."""
        self._owe(-1, -grant.weight)

    async def aclose(self) -> None:
        """Return once everything is settled."""
        if self._settling is not None:
            await asyncio.wait([self._settling])

    def _owe(self, calls: int, tokens: int) -> None:
        self._owed_calls += calls
        self._owed_tokens += tokens
        self._soon()

    def _soon(self) -> None:
        """Settle; what comes up while a correction is on its way goes together with the next one."""
        if self._settling is None:
            self._settling = asyncio.create_task(self._settle(), name=f"settle {self._dependency}")

    async def _settle(self) -> None:
        try:
            while self._owed_calls or self._owed_tokens or self._hold is not None:
                owed, hold = self._charges(self._owed_calls, self._owed_tokens), self._hold
                self._owed_calls, self._owed_tokens, self._hold = 0, 0, None
                if owed:
                    await self._buckets.settle(owed)
                own = [charge for charge in self._charges(1, 1) if charge.bucket in self._own]
                if own and hold is not None:
                    await self._buckets.hold(own, hold)
        finally:
            self._settling = None

    def _charges(self, calls: int, tokens: int) -> list[Charge]:
        costs = [*((key, rate, calls) for key, rate in self._calls), *((key, rate, tokens) for key, rate in self._tokens)]
        return [Charge(*cost) for cost in costs if cost[2]]
