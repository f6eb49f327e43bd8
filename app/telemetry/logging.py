"""Structured logs: JSON lines for machines, a console for people."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO, cast

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["bound_contextvars", "configure", "get_logger"]

_SECRET_WORDS = ("api_key", "apikey", "authorization", "password", "secret", "access_token", "cookie")
_TAKEN_OVER = ("uvicorn", "uvicorn.error", "uvicorn.access")
# These write a line per request or per failed export; the service tells the same once, in its own words.
_QUIET = {
    "uvicorn.access": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "openai": logging.WARNING,
    "langfuse": logging.ERROR,
    "opentelemetry": logging.CRITICAL,
}


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger of events with fields: `log.info("run_claimed", run_id=…, lease_s=…)`.

    Fields bound around it with `bound_contextvars(request_id=…, run_id=…, thread_id=…)` appear on every line of that context.
    """
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger())


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every log line of this process through one format; call it once, at start.

    Args:
        level: Name of the lowest level that is written.
        stream: Where to; None: standard error. A terminal gets coloured text, anything else one JSON object per line.

    Raises:
        ValueError: There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"LOG_LEVEL: {level!r} is none of {', '.join(sorted(logging.getLevelNamesMapping()))}")
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _hide_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(out)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _TAKEN_OVER:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name, floor in _QUIET.items():
        logging.getLogger(name).setLevel(max(floor, number))


def _rendering(out: TextIO) -> list[Processor]:
    """The last processors, for a terminal or for a machine."""
    drop_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if out.isatty():
        return [drop_meta, structlog.dev.ConsoleRenderer()]
    return [drop_meta, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace the value of any field that is named like a secret."""
    return {key: "[hidden]" if _is_secret(key) else value for key, value in event.items()}


def _is_secret(key: Any) -> bool:
    name = str(key).lower()
    return any(word in name for word in _SECRET_WORDS)
