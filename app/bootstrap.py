"""The composition root: every object is made here, handed down, and closed in the reverse order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import SecretStr

from agents.demo.company import help_centre
from agents.models.adapter import LangChainModel
from agents.models.gateway import DEFAULT_ROLE, ModelGateway
from agents.models.offline import OfflineChatModel
from agents.models.openai import openai_model
from agents.models.port import ChatModel
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.tracing import NullTracer, Tracer
from app import __version__
from app.api.deps import ApiKeys, Services
from app.guards.admission import Admission, Stages
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
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.connection import check_server, connect, connect_blocking, ping
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.idempotency import IdempotencyKeys
from app.storage.redis.runs import RunRecord, RunRepository
from app.storage.redis.threads import THREAD_TTL, ThreadRepository
from app.storage.redis.webhooks import WebhookOutbox
from app.storage.redis.work import WorkQueue
from app.telemetry.logging import configure, get_logger
from app.telemetry.metrics import Metrics
from app.threads.service import ThreadService
from graphs.conformance import RECURSION_LIMIT as CONFORMANCE_STEPS
from graphs.conformance import build_conformance
from graphs.context import RunContext, RunScope
from graphs.input import SupervisorRequest
from graphs.registry import GraphEntry
from graphs.routing import RECURSION_LIMIT
from graphs.supervisor import build_supervisor
from resilience.adaptive import AdaptiveSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings

SUPERVISOR, CONFORMANCE = "supervisor", "conformance"
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
        policies = PolicyRegistry(_rules(settings), listeners=[metrics.on_event])
        metrics.watch(policies.bulkheads)
        gateway = ModelGateway(model_chains(settings.models, specialists), policies, tracer, metrics)
        runner = AgentRunner(gateway, policies, tracer)

        def make_context(scope: RunScope) -> RunContext:
            return RunContext(scope, specialists, _is_available(policies), runner, gateway, tracer)

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
            _stages(policies, gateway, specialists) if not settings.models.is_offline else lambda graph_id: (),
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
            metrics=metrics,
            check_storage=partial(ping, redis),
            outbox=outbox,
            check_webhook=lambda url, tenant: check_webhook(url, tenant, allowed, secrets),
            version=__version__,
            started_at=datetime.now(UTC),
        )


def build_graphs(
    specialists: SpecialistRegistry, make_context: Callable[[RunScope], RunContext], *, has_conformance: bool
) -> Mapping[str, GraphEntry]:
    """The graphs that the service offers, compiled, by id."""
    graphs = {
        SUPERVISOR: GraphEntry(
            graph_id=SUPERVISOR,
            graph=build_supervisor(specialists).compile(name=SUPERVISOR),
            accepts=SupervisorRequest,
            as_input=SupervisorRequest.as_input,
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
            as_input=SupervisorRequest.as_input,
            shown=None,
            recursion_limit=CONFORMANCE_STEPS,
            make_context=lambda scope: None,
        )
    return graphs


def _deadlines(settings: Settings) -> Deadlines:
    guards = settings.guards
    return Deadlines(guards.deadline, guards.maximum_deadline, guards.background_deadline)


def _rules(settings: Settings) -> ResilienceSettings:
    """The rules of this service, where they differ from the policies' defaults."""
    most = settings.guards.max_model_calls
    usual = AdaptiveSettings()
    # The offline model has nothing inside where calls could wait; what slows it down is this process.
    adaptive = AdaptiveSettings(min(usual.start, most), min(usual.minimum, most), most)
    return ResilienceSettings(
        off=settings.guards.off,
        # Whoever has been taken must find room: there can be no more of them than runs.
        bulkheads={"model": BulkheadSettings(min(256, most), queue=CAPACITY)},
        adaptive={} if settings.models.is_offline else {"model": adaptive},
    )


def _stages(policies: PolicyRegistry, gateway: ModelGateway, specialists: SpecialistRegistry) -> Stages:
    """What no run of the supervisor can go around: the routing model, and the specialists' model if they have the same."""

    def stage(role: str) -> Bulkhead:
        """Where the next call for this role would wait; a model that refuses all calls is gone around."""
        names = gateway.dependencies(role)
        usable = (name for name in names if policies.breaker(name).is_admitting and not policies.bulkhead(name).is_refusing)
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


def model_chains(settings: ModelSettings, specialists: SpecialistRegistry) -> Mapping[str, tuple[ChatModel, ...]]:
    """For each role the models to ask, in the order of preference.

    Raises:
        SettingsError: A model is set for a role that does not exist.
    """
    roles = sorted(ROUTING_ROLES | set(specialists))
    unknown = sorted(set(settings.roles) - set(roles))
    if unknown:
        known = ", ".join(f"MODEL_{role.upper()}" for role in roles)
        raise SettingsError(f"MODEL_{unknown[0].upper()} names no role; there are: {known}, MODEL_FALLBACK")
    if settings.is_offline:
        return {role: (LangChainModel(OfflineChatModel(role=role), name="offline", provider="offline"),) for role in roles}
    key = settings.api_key or SecretStr("none")  # servers that need no key still get the header
    models: dict[str, ChatModel] = {}
    chains: dict[str, tuple[ChatModel, ...]] = {}
    fallback: tuple[ChatModel, ...] = ()
    if settings.fallback:
        base_url = settings.fallback_base_url or settings.base_url
        fallback = (openai_model(settings.fallback, api_key=settings.fallback_api_key or key, base_url=base_url),)
    for role in roles:
        name = settings.roles.get(role) or settings.roles.get(DEFAULT_ROLE) or DEFAULT_MODEL
        if name not in models:
            models[name] = openai_model(name, api_key=key, base_url=settings.base_url)
        chains[role] = (models[name], *fallback)
    return chains
