"""The policies with this service's rules, and what protects it as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.errors import OutputInvalid
from agents.models.gateway import ModelGateway, dependency
from agents.models.port import ChatModel
from agents.registry import SpecialistRegistry
from app.bootstrap.graphs import SUPERVISOR
from app.guards.admission import Stages
from app.guards.breakers import breaker_rules
from app.guards.rate_limits import ProviderLimiter, RequestLimit, SharedBuckets, parse_quotas, provider_limiters
from app.runs.dispatcher import CAPACITY
from app.settings import Settings, SettingsError
from app.telemetry.logging import get_logger
from resilience.adaptive import AdaptiveSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.events import Listener
from resilience.rate_limit import Limiter
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings


def make_policies(settings: Settings, limiters: Mapping[str, Limiter], listeners: Sequence[Listener]) -> PolicyRegistry:
    """The policies, with this service's rules where they differ from the defaults."""
    guards, usual = settings.guards, AdaptiveSettings()
    if guards.chaos is not None:
        get_logger().warning("faults_are_injected", faults=guards.chaos.model_dump(mode="json")["faults"])
    most = guards.max_model_calls
    # The offline model has nothing inside where calls could wait; what slows it down is this process.
    adaptive = AdaptiveSettings(min(usual.start, most), min(usual.minimum, most), most)
    rules = ResilienceSettings(
        off=guards.off,
        breakers=breaker_rules(guards.breaker_open_time, guards.slow_model_call),
        # Whoever has been taken must find room: there can be no more of them than runs.
        bulkheads={"model": BulkheadSettings(min(256, most), queue=CAPACITY)},
        adaptive={} if settings.models.is_offline else {"model": adaptive},
        chaos=guards.chaos,
    )
    return PolicyRegistry(
        rules, listeners=listeners, limiters=limiters, garbage=lambda dependency: OutputInvalid("garbage", f"chaos at {dependency}")
    )


def request_limit(settings: Settings, policies: PolicyRegistry, buckets: SharedBuckets) -> RequestLimit | None:
    """What each API key may ask for; None: there is no limit."""
    per_minute = settings.requests_per_minute
    return RequestLimit(buckets, per_minute) if per_minute and policies.is_on(PolicyName.RATE_LIMIT) else None


def model_limiters(settings: Settings, chains: Mapping[str, Sequence[ChatModel]], buckets: SharedBuckets) -> Mapping[str, ProviderLimiter]:
    """The limiters of the models that `PROVIDER_LIMITS` names.

    Raises:
        SettingsError: It is malformed, or names a model that this service does not use.
    """
    try:
        quotas = parse_quotas(settings.guards.provider_limits)
        return provider_limiters(quotas, {dependency(model) for chain in chains.values() for model in chain}, buckets)
    except ValueError as exc:
        raise SettingsError(f"PROVIDER_LIMITS: {exc}") from None


def stages_of(
    policies: PolicyRegistry, gateway: ModelGateway, specialists: SpecialistRegistry, limiters: Mapping[str, ProviderLimiter]
) -> Stages:
    """What no run of the supervisor can go around: the routing model, and the specialists' model if they have the same."""

    def is_away(name: str) -> bool:
        limiter = limiters.get(name) if policies.is_on(PolicyName.RATE_LIMIT) else None
        return policies.bulkhead(name).is_refusing or (limiter is not None and limiter.is_used_up)

    def stage(role: str) -> Bulkhead:
        """Where the next call for this role would wait; a model that refuses all calls is gone around."""
        names = gateway.dependencies(role)
        usable = (name for name in names if policies.breaker(name).is_admitting and not is_away(name))
        return policies.bulkhead(next(usable, names[0]))

    has_one_model = len({gateway.dependencies(name) for name in specialists}) == 1

    def stages(graph_id: str) -> Sequence[Bulkhead]:
        if graph_id != SUPERVISOR:
            return ()
        first = stage("routing")
        second = stage(next(iter(specialists))) if has_one_model else first
        return (first,) if second is first else (first, second)

    return stages
