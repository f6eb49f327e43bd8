"""A worker: the same code as the service, without HTTP; it executes what gateways and other workers leave."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from app.bootstrap.garbage import collect_less
from app.bootstrap.running import run, running
from app.settings import Settings
from app.telemetry.logging import get_logger
from app.telemetry.metrics import Metrics
from graphs.registry import GraphEntry


async def work(settings: Settings, more: Sequence[GraphEntry] = ()) -> None:
    """Execute runs, of our graphs and of `more`, until a signal says to stop; what is under way then is handed back.

    Raises:
        SettingsError: The configuration is wrong.
        StorageError: There is no storage that we could use.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stopping.set)
    async with running(settings, always_executes=True, more=more) as services:
        with _metrics(services.metrics, settings):
            collect_less()
            get_logger().info("worker_ready")
            await stopping.wait()
            get_logger().info("worker_draining")


def _metrics(metrics: Metrics, settings: Settings) -> AbstractContextManager[None]:
    """The worker's metrics page, if it was given a port for it."""
    host, port = settings.server.host, settings.server.metrics_port
    return metrics.serving(host, port) if port is not None else nullcontext()


def main() -> None:
    """Work with the settings of the environment; see `bootstrap.run`."""
    run(work)


if __name__ == "__main__":
    main()
