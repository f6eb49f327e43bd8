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
from app.runs.dispatcher import Dispatcher
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
from app.storage.redis.runs import RunRepository
from app.storage.redis.threads import THREAD_TTL, ThreadRepository
from app.storage.redis.webhooks import WebhookOutbox
from app.storage.redis.work import WorkQueue
from app.telemetry.logging import configure, get_logger
from app.telemetry.metrics import Metrics
from app.threads.service import ThreadService
from graphs.conformance import RECURSION_LIMIT as CONFORMANCE_STEPS
from graphs.conformance import build_conformance
from graphs.context import RunContext, RunScope
from graphs.input import SupervisorRequest, SupervisorUpdate
from graphs.registry import GraphEntry
from graphs.routing import RECURSION_LIMIT
from graphs.supervisor import build_supervisor
from resilience.registry import PolicyRegistry, ResilienceSettings

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
        policies = PolicyRegistry(ResilienceSettings(off=settings.guards.off), listeners=[metrics.on_event])
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
        executor = Executor(graphs, runs, saver, logs, leases, tracer, metrics, dispatcher.soon)
        service = RunService(graphs, threads, states, runs, work, IdempotencyKeys(redis), logs, executor, dispatcher, _deadlines(settings))
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


def _deadlines(settings: Settings) -> Deadlines:
    guards = settings.guards
    return Deadlines(guards.deadline, guards.maximum_deadline, guards.background_deadline)


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
