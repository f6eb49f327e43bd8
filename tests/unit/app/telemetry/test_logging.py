import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app.telemetry.logging import bound_contextvars, configure, get_logger

LOGGERS = (None, "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "openai", "langfuse", "opentelemetry")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    before = [(logging.getLogger(name), logging.getLogger(name).handlers[:], logging.getLogger(name).level) for name in LOGGERS]
    propagation = {name: logging.getLogger(name).propagate for name in LOGGERS if name}
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    for name, propagate in propagation.items():
        logging.getLogger(name).propagate = propagate
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_with_its_context() -> None:
    """Fields bound around a call are on its lines, and gone afterwards."""
    out = io.StringIO()
    configure("INFO", out)
    log = get_logger()

    with bound_contextvars(request_id="q-1", run_id="r-1", thread_id="t-1"):
        log.info("run_claimed", lease_s=15)
    log.warning("later")

    first, second = lines(out)
    assert first | {"timestamp": ""} == {
        "event": "run_claimed",
        "level": "info",
        "timestamp": "",
        "lease_s": 15,
        "request_id": "q-1",
        "run_id": "r-1",
        "thread_id": "t-1",
    }
    assert "run_id" not in second


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    """Modules may hold a logger; importing them configures nothing."""
    log = get_logger()
    out = io.StringIO()
    configure("INFO", out)

    log.info("hello")

    assert lines(out)[0]["event"] == "hello"


def test_the_level_holds_for_everything() -> None:
    """Lower events are not written, whether ours or a library's."""
    out = io.StringIO()
    configure("warning", out)

    get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    get_logger().error("loud")

    assert [line["event"] for line in lines(out)] == ["loud"]


def test_an_unknown_level_is_refused() -> None:
    """The message names the setting and the levels there are."""
    with pytest.raises(ValueError, match=r"LOG_LEVEL: 'loud' is none of .*INFO"):
        configure("loud")


def test_the_server_speaks_the_same_format() -> None:
    """uvicorn's lines are JSON too, once each, and its line per request is left out."""
    out = io.StringIO()
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(out))
    configure("INFO", out)

    logging.getLogger("uvicorn.error").info("Started server process [%d]", 7)
    logging.getLogger("uvicorn.access").info("GET /health/live 200")

    assert [line["event"] for line in lines(out)] == ["Started server process [7]"]


@pytest.mark.parametrize("field", ["api_key", "openai_api_key", "Authorization", "redis_password", "LANGFUSE_SECRET_KEY"])
def test_a_field_named_like_a_secret_is_hidden(field: str) -> None:
    """A secret that somebody logs by mistake does not reach the log."""
    out = io.StringIO()
    configure("INFO", out)

    get_logger().info("connected", **{field: "hunter2"})

    assert lines(out)[0][field] == "[hidden]"
    assert "hunter2" not in out.getvalue()


def test_token_counts_are_no_secrets() -> None:
    """`input_tokens` is a number one wants to read."""
    out = io.StringIO()
    configure("INFO", out)

    get_logger().info("model_called", input_tokens=7)

    assert lines(out)[0]["input_tokens"] == 7


def test_an_exception_is_part_of_its_line() -> None:
    """One event is one line, with its traceback as a field."""
    out = io.StringIO()
    configure("INFO", out)
    try:
        raise KeyError("gone")
    except KeyError:
        get_logger().exception("task_failed")

    (line,) = lines(out)
    assert "KeyError: 'gone'" in line["exception"]


def test_a_terminal_gets_text() -> None:
    """A person at a terminal reads no JSON."""
    out = Terminal()
    configure("INFO", out)

    get_logger().info("run_claimed", lease_s=15)

    assert "run_claimed" in out.getvalue()
    assert not out.getvalue().startswith("{")
