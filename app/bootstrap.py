"""The composition root: every object is made here, handed down, and closed in the reverse order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any
from uuid import uuid4

from pydantic import SecretStr
from redis.asyncio import Redis

from agents.answers import AnswerStore, NoAnswers
from agents.demo.company import help_centre
from agents.errors import OutputInvalid
from agents.models.adapter import LangChainModel
from agents.models.gateway import DEFAULT_ROLE, ModelGateway, dependency
from agents.models.limits import ModelLimits, limits_of
from agents.models.offline import OFFLINE, OfflineChatModel
from agents.models.openai import openai_model
from agents.models.port import ChatModel
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.tracing import NullTracer, Tracer
from agents.understudy import Understudy
from app import __version__
from app.api.deps import ApiKeys, Services
from app.guards.admission import Admission, Stages
from app.guards.breakers import BreakerChanges, FleetBreakers, breaker_rules, log_transition
from app.guards.rate_limits import ProviderLimiter, RequestLimit, SharedBuckets, parse_quotas, provider_limiters
from app.runs.dispatcher import CAPACITY, Dispatcher
from app.runs.events import EventLogs
from app.runs.executor import Executor
from app.runs.leases import LeaseKeeper
from app.runs.public_http import AllowedHosts
from app.runs.service import Deadlines, RunService
from app.runs.webhook_sender import WebhookSender
from app.runs.webhooks import WebhookSecrets, check_webhook
from app.settings import DEFAULT_MODEL, ModelSettings, Settings, SettingsError
from app.storage.errors import StorageError
from app.storage.redis.answers import RedisAnswers
from app.storage.redis.breakers import BreakerBoard
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.connection import check_server, connect, connect_blocking, ping
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.idempotency import IdempotencyKeys
from app.storage.redis.limits import RedisBuckets
from app.storage.redis.runs import RunRecord, RunRepository
from app.storage.redis.threads import THREAD_TTL, ThreadRepository
from app.storage.redis.webhooks import WebhookOutbox
from app.storage.redis.work import WorkQueue
from app.telemetry.fallbacks import FallbackLog
from app.telemetry.logging import configure, get_logger
from app.telemetry.metrics import Metrics
from app.threads.service import ThreadService
from graphs.conformance import RECURSION_LIMIT as CONFORMANCE_STEPS
from graphs.conformance import build_conformance
from graphs.context import RunContext, RunScope
from graphs.input import SupervisorRequest, SupervisorUpdate
from graphs.registry import GraphEntry
from graphs.routing import ANSWER_AT, RECURSION_LIMIT
from graphs.supervisor import build_supervisor
from resilience.adaptive import AdaptiveSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.deadline import Deadline
from resilience.events import Listener
from resilience.rate_limit import Limiter
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings

SUPERVISOR, CONFORMANCE = "supervisor", "conformance"
NO_DEADLINE = 7 * 86_400.0
"""What a run's nodes have where the policy `deadline` is off, seconds: more than any run may take, which then ends in their midst."""
ROUTING_ROLES = frozenset({"routing", DEFAULT_ROLE})


def run(main: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run a process with the settings of the environment; what is wrong with them is said in words, with exit code 2."""
    try:
        settings = Settings.load()
        configure(settings.server.log_level)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(main(settings))
    except (SettingsError, StorageError) as exc:
        print(f"capataz cannot start:\n{exc}", file=sys.stderr)  # noqa: T201  for the person at the terminal
        sys.exit(2)
    get_logger().info("stopped")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@asynccontextmanager
async def running(settings: Settings, *, always_executes: bool = False, more: Sequence[GraphEntry] = ()) -> AsyncIterator[Services]:
    """Everything the service needs, from the storage up, for as long as the block lasts.

    Args:
        settings: What is configured.
        always_executes: Execute runs here whatever `EXECUTION` says: this is a worker.
        more: Graphs to offer besides our own.

    Raises:
        SettingsError: A model is set for a role that does not exist.
        StorageError: There is no storage that we could use.
    """
    specialists = SpecialistRegistry.discover()
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        tracer = await _tracer(settings, metrics, stack)
        url = await _redis_url(settings, stack)
        redis = connect(url)
        stack.push_async_callback(redis.aclose)
        await check_server(redis)
        chains = model_chains(settings.models, specialists)
        buckets = SharedBuckets(RedisBuckets(redis), metrics)
        limiters = _provider_limiters(settings, chains, buckets)
        for limiter in limiters.values():
            stack.push_async_callback(limiter.aclose)
        changes = BreakerChanges()
        policies = _policies(settings, limiters, [metrics.on_event, log_transition, FallbackLog(), changes])
        metrics.watch(policies.bulkheads)
        gateway = ModelGateway(chains, policies, tracer, metrics, model_limits(settings.models, specialists))
        runner = AgentRunner(gateway, policies, tracer)
        breakers = await _fleet_breakers(policies, changes, redis, specialists, stack)
        answers = await _answers(settings, redis, metrics, stack)
        understudy = Understudy(answers, tracer, sure_at=ANSWER_AT, listener=policies.listener, is_on=policies.is_on(PolicyName.FALLBACK))

        def make_context(scope: RunScope) -> RunContext:
            if not policies.is_on(PolicyName.DEADLINE):
                scope = replace(scope, deadline=Deadline.after(NO_DEADLINE))
            return RunContext(scope, specialists, _is_available(policies), runner, understudy, gateway, tracer)

        graphs = build_graphs(specialists, make_context, has_conformance=settings.runs.conformance_graph)
        graphs = {**graphs, **{entry.graph_id: entry for entry in more}}
        help_centre()  # read now, so that the first customer does not wait for it
        lease = settings.runs.lease
        saver = RedisSaver(redis, ttl=THREAD_TTL)
        threads, runs, work = ThreadRepository(redis), RunRepository(redis, lease=lease), WorkQueue(redis)
        states = ThreadService(threads, saver, graphs, SUPERVISOR)
        outbox = WebhookOutbox(redis)
        logs = EventLogs(runs, states.snapshot)
        executes = always_executes or settings.runs.execution == "local"
        dispatcher = Dispatcher(runs, work, saver, states, outbox, lease=lease, executes=executes)
        loop = asyncio.get_running_loop()

        def on_lost(run_id: str) -> None:
            loop.call_soon_threadsafe(executor.stop, run_id)

        leases = LeaseKeeper(connect_blocking(url), lease=lease, on_lost=on_lost)
        admission = Admission(
            _stages(policies, gateway, specialists, limiters) if not settings.models.is_offline else lambda graph_id: (),
            metrics,
            queue_share=settings.guards.queue_share,
            is_on=policies.is_on(PolicyName.ADMISSION),
        )

        def on_ran(run: RunRecord, is_success: bool, seconds: float) -> None:
            admission.ran(run.run_id, run.graph_id, seconds if is_success else None)

        executor = Executor(graphs, runs, saver, logs, leases, tracer, metrics, dispatcher.soon, on_ran)
        keys, deadlines = IdempotencyKeys(redis), _deadlines(settings)
        service = RunService(graphs, threads, states, runs, work, keys, logs, executor, dispatcher, deadlines, admission)
        leases.start()
        stack.callback(leases.stop)
        await dispatcher.start(executor)
        stack.push_async_callback(dispatcher.stop)
        stack.push_async_callback(service.drain)
        allowed, secrets = _webhooks(settings)
        if executes:
            sender = WebhookSender(outbox, secrets, allowed=allowed, listener=lambda event: metrics.webhook(event.kind))
            stack.push_async_callback(_stop, asyncio.create_task(sender.run(), name="webhooks"))
        yield Services(
            api_keys=ApiKeys(settings.access.api_keys),
            threads=states,
            runs=service,
            assistants=tuple((entry.assistant_id, graph_id) for graph_id, entry in sorted(graphs.items())),
            request_limit=_request_limit(settings, policies, buckets),
            metrics=metrics,
            breakers=breakers,
            check_storage=partial(ping, redis),
            outbox=outbox,
            check_webhook=lambda url, tenant: check_webhook(url, tenant, allowed, secrets),
            version=__version__,
            started_at=datetime.now(UTC),
        )


async def _fleet_breakers(
    policies: PolicyRegistry, changes: BreakerChanges, redis: Redis, specialists: SpecialistRegistry, stack: AsyncExitStack
) -> FleetBreakers:
    """Every breaker there is, and in step with the fleet before anything is served; the models' were made by the gateway."""
    for spec in specialists.values():
        policies.breaker(f"specialist:{spec.name}")
        for tool in spec.tools:
            policies.breaker(f"tool:{tool.name}")
    breakers = FleetBreakers(policies, changes, BreakerBoard(redis, uuid4().hex))
    await breakers.exchange()
    stack.push_async_callback(_stop, asyncio.create_task(breakers.run(), name="breakers"))
    return breakers


def build_graphs(
    specialists: SpecialistRegistry, make_context: Callable[[RunScope], RunContext], *, has_conformance: bool
) -> Mapping[str, GraphEntry]:
    """The graphs that the service offers, compiled, by id."""
    graphs = {
        SUPERVISOR: GraphEntry(
            graph_id=SUPERVISOR,
            graph=build_supervisor(specialists).compile(name=SUPERVISOR),
            accepts=SupervisorRequest,
            accepts_update=SupervisorUpdate,
            as_input=SupervisorUpdate.as_input,
            shown=("messages", "answer", "specialist", "confidence", "sources", "escalation", "degraded", "usage"),
            recursion_limit=RECURSION_LIMIT,
            make_context=make_context,
        )
    }
    if has_conformance:
        graphs[CONFORMANCE] = GraphEntry(
            graph_id=CONFORMANCE,
            graph=build_conformance().compile(name=CONFORMANCE),
            accepts=SupervisorRequest,
            accepts_update=SupervisorUpdate,
            as_input=SupervisorUpdate.as_input,
            shown=None,
            recursion_limit=CONFORMANCE_STEPS,
            make_context=lambda scope: None,
        )
    return graphs


def _policies(settings: Settings, limiters: Mapping[str, Limiter], listeners: Sequence[Listener]) -> PolicyRegistry:
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


def _deadlines(settings: Settings) -> Deadlines:
    guards = settings.guards
    return Deadlines(guards.deadline, guards.maximum_deadline, guards.background_deadline)


def _request_limit(settings: Settings, policies: PolicyRegistry, buckets: SharedBuckets) -> RequestLimit | None:
    per_minute = settings.requests_per_minute
    return RequestLimit(buckets, per_minute) if per_minute and policies.is_on(PolicyName.RATE_LIMIT) else None


def _provider_limiters(
    settings: Settings, chains: Mapping[str, Sequence[ChatModel]], buckets: SharedBuckets
) -> Mapping[str, ProviderLimiter]:
    """The limiters of the models that `PROVIDER_LIMITS` names.

    Raises:
        SettingsError: It is malformed, or names a model that this service does not use.
    """
    try:
        quotas = parse_quotas(settings.guards.provider_limits)
        return provider_limiters(quotas, {dependency(model) for chain in chains.values() for model in chain}, buckets)
    except ValueError as exc:
        raise SettingsError(f"PROVIDER_LIMITS: {exc}") from None


def _stages(
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


def _webhooks(settings: Settings) -> tuple[AllowedHosts, WebhookSecrets]:
    """Whom webhooks may reach, and what signs them.

    Raises:
        SettingsError: One of the two is malformed.
    """
    try:
        return AllowedHosts.parse(settings.runs.webhook_allow_hosts), WebhookSecrets.parse(settings.runs.webhook_secret.get_secret_value())
    except ValueError as exc:
        raise SettingsError(f"WEBHOOK_ALLOW_HOSTS or WEBHOOK_SECRET: {exc}") from None


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _redis_url(settings: Settings, stack: AsyncExitStack) -> str:
    if settings.storage.redis_url is not None:
        return settings.storage.redis_url
    return (await stack.enter_async_context(EmbeddedRedis(settings.server.data_dir))).url


async def _answers(settings: Settings, redis: Redis, metrics: Metrics, stack: AsyncExitStack) -> AnswerStore:
    if settings.models.is_offline:
        return NoAnswers()
    answers = RedisAnswers(redis, listener=metrics.cached_answer)
    stack.push_async_callback(_stop, asyncio.create_task(answers.run(), name="answers"))
    return answers


async def _tracer(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Tracer:
    keys = settings.tracing
    if keys.public_key is None or keys.secret_key is None:
        return NullTracer()
    # Imported here because it takes most of a second, which a service without tracing need not wait for.
    from app.telemetry.tracing import LangfuseTracer

    tracer = LangfuseTracer(
        public_key=keys.public_key, secret_key=keys.secret_key.get_secret_value(), base_url=keys.base_url, metrics=metrics
    )
    stack.push_async_callback(tracer.close)
    return tracer


def _is_available(policies: PolicyRegistry) -> Callable[[str], bool]:
    return lambda name: policies.breaker(f"specialist:{name}").is_admitting


def model_limits(settings: ModelSettings, specialists: SpecialistRegistry) -> Mapping[str, ModelLimits]:
    """How long each role waits for its models.

    Raises:
        SettingsError: Limits are set for a role that does not exist, or are no times.
    """
    _check_roles("LIMITS", settings.limits_of_roles, specialists)
    try:
        return limits_of({**dict.fromkeys(sorted(ROUTING_ROLES)), **specialists}, settings.limits)
    except ValueError as exc:
        raise SettingsError(f"LIMITS or LIMITS_<ROLE>: {exc}") from None


def model_chains(settings: ModelSettings, specialists: SpecialistRegistry) -> Mapping[str, tuple[ChatModel, ...]]:
    """For each role the models to ask, in the order of preference; the last that routes needs no provider.

    Raises:
        SettingsError: A model is set for a role that does not exist.
    """
    roles = sorted(ROUTING_ROLES | set(specialists))
    _check_roles("MODEL", settings.roles, specialists)
    if settings.is_offline:
        return {role: (_offline_model(role),) for role in roles}
    key = settings.api_key or SecretStr("none")  # servers that need no key still get the header
    limits = model_limits(settings, specialists)
    # A provider, a model and limits: roles that have all three in common share one.
    make = cache(partial(openai_model, api_key=key, base_url=settings.base_url))
    chains: dict[str, tuple[ChatModel, ...]] = {}
    for role in roles:
        name = settings.roles.get(role) or settings.roles.get(DEFAULT_ROLE) or DEFAULT_MODEL
        chains[role] = (make(name, limits=limits[role]),)
        if settings.fallback:
            base_url = settings.fallback_base_url or settings.base_url
            chains[role] += (make(settings.fallback, limits=limits[role], api_key=settings.fallback_api_key or key, base_url=base_url),)
    return {**chains, "routing": (*chains["routing"], _offline_model("routing"))}


def _offline_model(role: str) -> ChatModel:
    return LangChainModel(OfflineChatModel(role=role), name=OFFLINE, provider=OFFLINE)


def _check_roles(prefix: str, given: Iterable[str], specialists: SpecialistRegistry) -> None:
    roles = ROUTING_ROLES | set(specialists)
    for role in sorted(set(given) - roles):
        known = ", ".join(f"{prefix}_{role.upper()}" for role in sorted(roles))
        raise SettingsError(
            f"{prefix}_{role.upper()} names no role; there are: {known}" + (", MODEL_FALLBACK" if prefix == "MODEL" else "")
        )
