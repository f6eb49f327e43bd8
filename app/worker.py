"""A worker: the same code as the service, without HTTP; it executes what gateways and other workers leave."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from app.bootstrap import run, running
from app.settings import Settings
from app.telemetry.logging import get_logger
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
    async with running(settings, always_executes=True, more=more):
        get_logger().info("worker_ready")
        await stopping.wait()
        get_logger().info("worker_draining")


def main() -> None:
    """Work with the settings of the environment; see `bootstrap.run`."""
    run(work)


if __name__ == "__main__":
    main()
