"""The service: the ASGI application, and the process that serves it. Nothing happens at import."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import (
    admin,
    assistants,
    browser_tokens,
    chat,
    crons,
    feedback,
    health,
    openai,
    problems,
    protocol,
    run_batches,
    runs,
    store,
    thread_search,
    thread_streams,
    threads,
    webhooks,
)
from app.api.body_limit import BodyLimit
from app.api.deps import Services
from app.api.openapi import describe
from app.api.rate_limit import LEFT, POLICY, RateLimitFields
from app.api.request_id import RequestId
from app.bootstrap.garbage import collect_less
from app.bootstrap.running import run, running
from app.settings import Settings
from graphs.registry import GraphEntry

MAX_BODY_BYTES = 1024 * 1024
"""Largest request body."""
CONNECTION_GRACE = 22
"""How long open connections may take to end when the service is told to stop, seconds."""
_EXPOSED = [
    "content-location",
    "location",
    "x-pagination-next",
    "x-pagination-total",
    "x-request-id",
    "x-thread-id",
    "retry-after",
    POLICY,
    LEFT,
]
_LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


def create_app(services: Services | None, settings: Settings) -> FastAPI:
    """The ASGI application over `services`; without any, it can only be described (`openapi()`)."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"services": services}

    app = FastAPIOffline(
        redoc_url=None,
        title="Capataz",
        summary="A LangGraph supervisor service over HTTP",
        version=__version__,
        lifespan=lifespan,
        telemetry={"tracing": False},  # traces are ours (ADR-0011)
        generate_unique_id_function=lambda route: route.name,
    )
    resources = (threads, thread_search, thread_streams, protocol, runs, run_batches, feedback, assistants, store, crons, webhooks)
    for module in (*resources, openai, browser_tokens, health):
        app.include_router(module.router, max_body_size=MAX_BODY_BYTES)
    access = settings.access
    app.include_router(chat.router(access.cors_origins, has_keys=bool(access.api_keys)), max_body_size=MAX_BODY_BYTES)
    if settings.access.admin_token is not None:  # without one, /admin is a path like any other that leads nowhere
        app.include_router(admin.router(settings.access.admin_token), max_body_size=MAX_BODY_BYTES)
    problems.install(app)
    describe(app, [openai.ChatCompletionChunk])
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    if services is not None and services.request_limit is not None:
        app.add_middleware(RateLimitFields)
    # A service without keys must not be open to every page that its user's browser visits.
    named = list(access.cors_origins or (["*"] if access.api_keys else []))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=named,
        allow_origin_regex=None if named else _LOOPBACK_ORIGIN,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
    )
    app.add_middleware(RequestId)
    return app


class _Server(uvicorn.Server):
    """Uvicorn's server, but the process goes on after a signal: there is a storage to leave in order."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no new work from now on, then end as uvicorn does."""
        self._loop.call_soon_threadsafe(self._on_signal)
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; uvicorn's own would raise them again at the end."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


async def serve(settings: Settings, more: Sequence[GraphEntry] = ()) -> None:
    """Serve our graphs and `more` until a signal says to stop.

    Raises:
        SettingsError: The configuration is wrong.
        StorageError: There is no storage that we could use.
    """
    async with running(settings, more=more) as services:
        config = uvicorn.Config(
            create_app(services, settings),
            host=settings.server.host,
            port=settings.server.port,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=CONNECTION_GRACE,
        )
        collect_less()
        print(_banner(settings), file=sys.stderr, flush=True)  # noqa: T201  for the person at the terminal
        await _Server(config, services.runs.begin_drain).serve()


def main() -> None:
    """Serve with the settings of the environment; see `bootstrap.run`."""
    run(serve)


def _banner(settings: Settings) -> str:
    models, host = settings.models, "localhost" if settings.server.is_loopback else settings.server.host
    where = f"http://{host}:{settings.server.port}"
    roles = ", ".join(f"{role}={name}" for role, name in sorted(models.roles.items()))
    provider = "offline (set OPENAI_API_KEY for a real one)" if models.is_offline else f"{models.base_url or 'OpenAI'} {roles}"
    keys = f"{len(settings.access.api_keys)} API key(s)" if settings.access.api_keys else "open, tenant default (set API_KEYS)"
    lines = {
        "service": f"{where}  docs {where}/docs  health {where}/health/ready  metrics {where}/metrics",
        "model": provider + (f", then {models.fallback}" if models.fallback else ""),
        "storage": "REDIS_URL"
        if settings.storage.redis_url
        else f"embedded Redis in {settings.server.data_dir} (set REDIS_URL for a real one)",
        "access": keys,
        "traces": "Langfuse" if settings.tracing.public_key else "off (set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY)",
    }
    if settings.guards.chaos is not None:
        befalls = ", ".join(dict.fromkeys(fault.dependency for fault in settings.guards.chaos.faults))
        lines["CHAOS"] = f"FAULTS ARE INJECTED ON PURPOSE into {befalls} (unset CHAOS_PLAN to stop it)"
    return "\n".join([f"Capataz {__version__}", *(f"  {name:<8} {text}" for name, text in lines.items())])


if __name__ == "__main__":
    main()
