"""The composition root: every object is made here, handed down, and closed in the reverse order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from agents.answers import AnswerStore, NoAnswers
from agents.demo.company import help_centre
from agents.models.gateway import ModelGateway
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.tracing import NullTracer, Tracer
from agents.understudy import Understudy
from app import __version__
from app.api.deps import ApiKeys, Services
from app.assistants.drawings import GraphDrawings
from app.assistants.service import AssistantService
from app.bootstrap.graphs import SUPERVISOR, build_graphs
from app.bootstrap.models import model_chains, model_limits
from app.bootstrap.policies import make_policies, model_limiters, request_limit, stages_of
from app.crons.service import CronService
from app.crons.ticker import CronTicker
from app.errors import NotFound
from app.guards.admission import Admission
from app.guards.breakers import BreakerChanges, FleetBreakers, log_transition
from app.guards.rate_limits import SharedBuckets
from app.runs.acceptance import Deadlines, RunAcceptance
from app.runs.dispatcher import Dispatcher
from app.runs.events import EventLogs
from app.runs.executor import Executor
from app.runs.leases import LeaseKeeper
from app.runs.public_http import AllowedHosts
from app.runs.service import RunService
from app.runs.webhook_sender import WebhookSender
from app.runs.webhooks import WebhookSecrets, check_webhook
from app.settings import Settings, SettingsError
from app.storage.errors import StorageError
from app.storage.redis.answers import RedisAnswers
from app.storage.redis.assistants import AssistantRepository
from app.storage.redis.breakers import BreakerBoard
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.connection import check_server, connect, connect_blocking, ping
from app.storage.redis.crons import CronRepository
from app.storage.redis.embedded import EmbeddedRedis
from app.storage.redis.idempotency import IdempotencyKeys
from app.storage.redis.limits import RedisBuckets
from app.storage.redis.runs import RunRecord, RunRepository
from app.storage.redis.store import RedisStore
from app.storage.redis.thread_index import ThreadIndex
from app.storage.redis.threads import THREAD_TTL, ThreadRepository
from app.storage.redis.webhooks import WebhookOutbox
from app.storage.redis.work import ThreadRef, WorkQueue
from app.telemetry.fallbacks import FallbackLog
from app.telemetry.logging import configure, get_logger
from app.telemetry.metrics import Metrics
from app.threads.indexer import ThreadIndexer
from app.threads.reaper import ThreadReaper
from app.threads.search import ThreadSearch
from app.threads.service import ThreadService
from graphs.configuration import SupervisorConfiguration
from graphs.context import RunContext, RunScope
from graphs.registry import GraphEntry
from graphs.routing import ANSWER_AT
from resilience.deadline import Deadline
from resilience.registry import PolicyName, PolicyRegistry

NO_DEADLINE = 7 * 86_400.0
"""What a run's nodes have where the policy `deadline` is off, seconds: more than any run may take, which then ends in their midst."""


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
        limiters = model_limiters(settings, chains, buckets)
        for limiter in limiters.values():
            stack.push_async_callback(limiter.aclose)
        changes = BreakerChanges()
        policies = make_policies(settings, limiters, [metrics.on_event, log_transition, FallbackLog(), changes])
        metrics.watch(policies.bulkheads)
        gateway = ModelGateway(chains, policies, tracer, metrics, model_limits(settings.models, specialists))
        runner = AgentRunner(gateway, policies, tracer)
        breakers = await _fleet_breakers(policies, changes, redis, specialists, stack)
        answers = await _answers(settings, redis, metrics, stack)
        understudy = Understudy(answers, tracer, sure_at=ANSWER_AT, listener=policies.listener, is_on=policies.is_on(PolicyName.FALLBACK))

        def make_context(scope: RunScope) -> RunContext:
            if not policies.is_on(PolicyName.DEADLINE):
                scope = replace(scope, deadline=Deadline.after(NO_DEADLINE))
            assert isinstance(scope.configuration, SupervisorConfiguration)
            return RunContext(scope, specialists, _is_available(policies), runner, understudy, gateway, tracer, scope.configuration)

        graphs = build_graphs(specialists, make_context, has_conformance=settings.runs.conformance_graph)
        graphs = {**graphs, **{entry.graph_id: entry for entry in more}}
        help_centre()  # read now, so that the first customer does not wait for it
        lease = settings.runs.lease
        saver, store = RedisSaver(redis, ttl=THREAD_TTL), RedisStore(redis)
        index = ThreadIndex(redis)
        indexer = ThreadIndexer(index)
        runs = RunRepository(redis, lease=lease, on_change=indexer.touch)
        threads, work = ThreadRepository(redis), WorkQueue(redis)
        states = ThreadService(threads, indexer, saver, store, graphs, SUPERVISOR)
        assistants = _assistants(graphs, AssistantRepository(redis), states)
        outbox = WebhookOutbox(redis)
        logs = EventLogs(runs, states.snapshot)
        executes = always_executes or settings.runs.execution == "local"

        def on_settled(thread: ThreadRef) -> None:
            indexer.touch(thread.tenant, thread.thread_id)

        dispatcher = Dispatcher(runs, work, saver, states, outbox, lease=lease, executes=executes, on_settled=on_settled)
        loop = asyncio.get_running_loop()

        def on_lost(run_id: str) -> None:
            loop.call_soon_threadsafe(executor.stop, run_id)

        leases = LeaseKeeper(connect_blocking(url), lease=lease, on_lost=on_lost)
        admission = Admission(
            stages_of(policies, gateway, specialists, limiters) if not settings.models.is_offline else lambda graph_id: (),
            metrics,
            queue_share=settings.guards.queue_share,
            is_on=policies.is_on(PolicyName.ADMISSION),
        )

        def on_ran(run: RunRecord, is_success: bool, seconds: float) -> None:
            admission.ran(run.run_id, run.graph_id, seconds if is_success else None)

        executor = Executor(graphs, runs, saver, store, logs, leases, tracer, metrics, dispatcher.soon, on_ran)
        keys, deadlines = IdempotencyKeys(redis), _deadlines(settings)
        acceptance = RunAcceptance(assistants, states, runs, work, keys, executor, dispatcher, deadlines, admission)
        service = RunService(acceptance, states, runs, work, logs, executor, dispatcher)
        stack.push_async_callback(_stop, asyncio.create_task(indexer.run(), name="index"))  # it hears of what ends last
        reaper = ThreadReaper(index, indexer, states, dispatcher.soon)
        leases.start()
        stack.callback(leases.stop)
        await dispatcher.start(executor)
        stack.push_async_callback(dispatcher.stop)
        stack.push_async_callback(service.drain)
        stack.push_async_callback(_stop, asyncio.create_task(reaper.run(), name="reaper"))
        limit = request_limit(settings, policies, buckets)
        crons = CronRepository(redis)
        ticker = CronTicker(crons, service, states, limit)
        stack.push_async_callback(_stop, asyncio.create_task(ticker.run(), name="crons"))
        allowed, secrets = _webhooks(settings)
        if executes:
            sender = WebhookSender(outbox, secrets, allowed=allowed, listener=lambda event: metrics.webhook(event.kind))
            stack.push_async_callback(_stop, asyncio.create_task(sender.run(), name="webhooks"))
        yield Services(
            api_keys=ApiKeys(settings.access.api_keys),
            threads=states,
            search=ThreadSearch(index, indexer, threads, states.values),
            runs=service,
            store=store,
            crons=CronService(crons, service, states),
            assistants=assistants,
            drawings=GraphDrawings(graphs),
            request_limit=limit,
            metrics=metrics,
            breakers=breakers,
            check_storage=partial(ping, redis),
            outbox=outbox,
            check_webhook=lambda url, tenant: check_webhook(url, tenant, allowed, secrets),
            version=__version__,
            started_at=datetime.now(UTC),
        )


def _assistants(graphs: Mapping[str, GraphEntry], stored: AssistantRepository, threads: ThreadService) -> AssistantService:
    async def delete_threads(tenant: str, assistant_id: str) -> None:
        async for thread_id in stored.threads_of(tenant, assistant_id):
            with suppress(NotFound):
                await threads.delete(tenant, thread_id)

    return AssistantService(graphs, stored, delete_threads)


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
