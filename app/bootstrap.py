"""The composition root: every object is made here, handed down, and closed in the reverse order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial

from pydantic import SecretStr
from redis.asyncio import Redis

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
from app.runs.events import EventLogs
from app.runs.executor import LEASE, LocalExecutor
from app.runs.service import RunService
from app.settings import DEFAULT_MODEL, ModelSettings, Settings, SettingsError
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.connection import check_server, connect, ping
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.runs import RunRepository
from app.storage.redis.threads import THREAD_TTL, ThreadRepository
from app.telemetry.metrics import Metrics
from app.threads.service import ThreadService
from graphs.context import RunContext
from graphs.input import SupervisorRequest
from graphs.registry import GraphEntry
from graphs.routing import RECURSION_LIMIT
from graphs.supervisor import build_supervisor
from resilience.deadline import Deadline
from resilience.registry import PolicyRegistry

SUPERVISOR = "supervisor"
GRACE = 3.0
"""How long runs that nobody is connected to may take to end when the service stops, seconds."""
ROUTING_ROLES = frozenset({"routing", DEFAULT_ROLE})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    """Everything the service needs, from the storage up, for as long as the block lasts.

    Raises:
        SettingsError: A model is set for a role that does not exist.
        StorageError: There is no storage that we could use.
    """
    specialists = SpecialistRegistry.discover()
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        tracer = await _tracer(settings, metrics, stack)
        redis = await _redis(settings, stack)
        policies = PolicyRegistry(listeners=[metrics.on_event])
        gateway = ModelGateway(model_chains(settings.models, specialists), policies, tracer, metrics)
        runner = AgentRunner(gateway, policies, tracer)

        def make_context(run_id: str, tenant: str, deadline: Deadline) -> RunContext:
            return RunContext(run_id, tenant, deadline, specialists, _is_available(policies), runner, gateway, tracer)

        supervisor = GraphEntry(
            graph_id=SUPERVISOR,
            graph=build_supervisor(specialists).compile(name=SUPERVISOR),
            accepts=SupervisorRequest,
            as_input=SupervisorRequest.as_input,
            shown=("messages", "answer", "specialist", "confidence", "sources", "escalation", "degraded", "usage"),
            recursion_limit=RECURSION_LIMIT,
            make_context=make_context,
        )
        graphs = {SUPERVISOR: supervisor}
        saver = RedisSaver(redis, ttl=THREAD_TTL)
        threads = ThreadRepository(redis)
        runs = RunRepository(redis, lease=LEASE)
        logs = EventLogs(runs)
        executor = LocalExecutor(graphs, runs, saver, logs, tracer, metrics)
        run_service = RunService(graphs, threads, runs, saver, logs, executor)
        stack.push_async_callback(run_service.close, GRACE)
        yield Services(
            api_keys=ApiKeys(settings.access.api_keys),
            threads=ThreadService(threads, saver, graphs, SUPERVISOR),
            runs=run_service,
            assistants=tuple((entry.assistant_id, graph_id) for graph_id, entry in sorted(graphs.items())),
            metrics=metrics,
            check_storage=partial(ping, redis),
            version=__version__,
            started_at=datetime.now(UTC),
        )


async def _redis(settings: Settings, stack: AsyncExitStack) -> Redis:
    url = settings.storage.redis_url
    if url is None:
        url = (await stack.enter_async_context(EmbeddedRedis(settings.server.data_dir))).url
    client = connect(url)
    stack.push_async_callback(client.aclose)
    await check_server(client)
    return client


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
