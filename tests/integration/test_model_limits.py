"""The four limits of a role, each alone against a provider over real HTTP: what is over it is given up in time, what is not is not."""

import asyncio
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from langchain_core.messages import HumanMessage
from langgraph.errors import NodeCancelledError
from pydantic import SecretStr

from agents.models.gateway import ModelGateway
from agents.models.limits import ModelLimits
from agents.models.openai import openai_model
from agents.models.port import ModelReply, ModelRequest
from resilience.context import Output
from resilience.deadline import Deadline
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from tests.support.cast import CountingMeter, RecordingTracer
from tests.support.provider import Provider, Reply
from tests.support.reader import Reader

LIMIT = 1.0
"""The limit under test, seconds; the others are an hour. A loaded machine needs a good part of it for a healthy first token."""
PATIENT = dict.fromkeys(("connect", "first_token", "between_tokens", "total"), 3600.0)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(lambda request: Reply("one two three")).serving() as provider:
        yield provider


def impatient(url: str, limit: str, seconds: float = LIMIT) -> ModelGateway:
    """A gateway whose model has this one limit; without retries, so that one attempt is one wait."""
    limits = ModelLimits(**{**PATIENT, limit: seconds})
    model = openai_model("gpt-x", api_key=SecretStr("sk-test"), base_url=url, limits=limits)
    policies = PolicyRegistry(ResilienceSettings(off=frozenset({PolicyName.RETRY})))
    return ModelGateway({"reasoning": [model]}, policies, RecordingTracer(), CountingMeter(), {"reasoning": limits})


async def outcome(gateway: ModelGateway, *, is_streamed: bool = True) -> tuple[str, float, str]:
    """How the question ended (`answered` or a code), after how many seconds, and what was read of the answer."""
    request = ModelRequest("reasoning", (HumanMessage("Is it so?"),), is_visible=is_streamed)
    begun = time.monotonic()
    reader = await Reader().watch(lambda: gateway.complete(request, Deadline.after(3600.0)))
    ended = "answered" if isinstance(reader.outcome, ModelReply) else reader.outcome.code
    return ended, time.monotonic() - begun, reader.text


@contextmanager
def unreachable() -> Iterator[str]:
    """An address at which every attempt to connect hangs: its listener takes nobody, and its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for one in waiting:
                one.close()


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_connecting(is_streamed: bool):
    """A provider to which no connection can be made is given up after `connect`, with time left for the next model."""
    with unreachable() as url:
        ended, seconds, _ = await outcome(impatient(url, "connect"), is_streamed=is_streamed)

    assert ended == "model_timed_out"
    assert LIMIT <= seconds < 3 * LIMIT


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_the_first_token(provider: Provider, is_streamed: bool):
    """A provider that takes the question and is silent is given up after `first_token`, and its breaker hears of it."""
    provider.behaviour = lambda request: Reply(hangs=True)

    ended, seconds, _ = await outcome(impatient(provider.url, "first_token"), is_streamed=is_streamed)

    assert ended == "attempt_timed_out"
    assert LIMIT <= seconds < 3 * LIMIT


async def test_an_answer_in_one_piece_has_the_time_of_a_first_token(provider: Provider):
    """It is its own first token: whoever does not stream waits for the whole of it."""
    held = threading.Event()
    provider.behaviour = lambda request: Reply("one two three", waits_after=(0, held))

    ended, _, _ = await outcome(impatient(provider.url, "first_token"), is_streamed=False)

    held.set()
    assert ended == "attempt_timed_out"


async def test_between_tokens(provider: Provider):
    """A stream that stops in the middle is given up after `between_tokens`; what was read of it stays read."""
    held = threading.Event()
    provider.behaviour = lambda request: Reply("one two three", waits_after=(2, held))

    ended, seconds, text = await outcome(impatient(provider.url, "between_tokens"))

    held.set()
    assert (ended, text) == ("model_stream_broken", "one two")
    assert LIMIT <= seconds < 3 * LIMIT


async def test_the_whole(provider: Provider):
    """A stream that never stops is ended after `total`, though each of its tokens comes in time."""
    provider.behaviour = lambda request: Reply(" ".join(["word"] * 1_000), pause=LIMIT / 20)

    ended, seconds, text = await outcome(impatient(provider.url, "total", 3 * LIMIT))

    assert ended == "deadline_exceeded"
    assert text.startswith("word word")
    assert 3 * LIMIT <= seconds < 9 * LIMIT


async def test_a_slow_stream_that_keeps_its_limits_is_read_to_its_end(provider: Provider):
    """Longer than the wait for its first token and longer than any gap: only what stands still is given up."""
    provider.behaviour = lambda request: Reply(" ".join(["word"] * 12), pause=LIMIT / 8)
    limits = ModelLimits(connect=LIMIT, first_token=LIMIT, between_tokens=LIMIT, total=60.0)
    model = openai_model("gpt-x", api_key=SecretStr("sk-test"), base_url=provider.url, limits=limits)
    gateway = ModelGateway({"reasoning": [model]}, PolicyRegistry(), RecordingTracer(), CountingMeter(), {"reasoning": limits})

    ended, seconds, text = await outcome(gateway)

    assert (ended, len(text.split())) == ("answered", 12)
    assert seconds > LIMIT


async def test_the_caller_may_leave_while_a_connection_is_being_made():
    """At once."""
    with unreachable() as url:
        asking = asyncio.create_task(outcome(impatient(url, "total")))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_caller_who_leaves_is_heard_whatever_the_stream_is_doing(provider: Provider):
    """Also while a token is there that nobody has read yet: in that moment `asyncio.wait_for` of Python 3.11 loses a cancellation."""
    held = threading.Event()
    provider.behaviour = lambda request: Reply(" ".join(["word"] * 200), waits_after=(199, held))
    gateway = impatient(provider.url, "total", 9 * LIMIT)

    try:
        for turns in range(40):
            assert await seconds_to_leave(gateway, turns) < 3 * LIMIT
    finally:
        held.set()


async def seconds_to_leave(gateway: ModelGateway, turns: int) -> float:
    """Read an answer, be cancelled so many turns of the event loop after its first token, and tell how long it took from there."""
    request = ModelRequest("reasoning", (HumanMessage("Is it so?"),), is_visible=True)
    loop, cancelled, left = asyncio.get_running_loop(), -math.inf, 0.0

    async def ask() -> None:
        nonlocal left
        task, output = asyncio.current_task(), Output()
        assert task is not None

        def leave_in(turns: int) -> None:
            nonlocal cancelled
            if turns:
                loop.call_soon(leave_in, turns - 1)
            else:
                cancelled = loop.time()
                task.cancel()

        output.on_start(partial(leave_in, turns))
        try:
            await gateway.complete(request, Deadline.after(3600.0), output=output)
        finally:
            left = loop.time()

    with suppress(NodeCancelledError):  # the node's task is cancelled, and not the graph's
        await Reader().watch(ask)
    return left - cancelled
