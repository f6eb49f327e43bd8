"""How a role reaches a model, and what happens when the model fails."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from agents.errors import ModelRejectedRequest, ModelThrottled, ModelUnavailable, StreamBroken
from agents.models.gateway import ATTEMPT_TIMEOUT, ModelGateway, prompt_tokens
from agents.models.port import Degradation, ModelReply, ModelRequest
from agents.usage import Usage
from graphs.nodes.reflect import REFLECTION_TIMEOUT
from graphs.nodes.supervise import ROUTING_TIMEOUT
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import CircuitOpen, DeadlineExceeded
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyRegistry
from tests.support.cast import CountingMeter, RecordingTracer
from tests.support.virtual_time import LoopClock


class Model:
    """Does as it is told, call by call, the last word for ever: raise, hang (None), or answer."""

    provider = "openai"

    def __init__(self, name: str, *acts: Exception | str | None, speaks_first: bool = False) -> None:
        self.name = name
        self._acts = acts
        self._speaks_first = speaks_first
        self.contexts: list[CallContext] = []

    async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
        self.contexts.append(ctx)
        act = self._acts[min(len(self.contexts), len(self._acts)) - 1]
        if self._speaks_first:
            ctx.output.start()
        if act is None:
            await asyncio.Event().wait()
        if isinstance(act, Exception):
            raise act
        return ModelReply(AIMessage(str(act)), Usage(1, 2, 0.5), self.name)


class House:
    """A gateway over these models, and all that it told anybody."""

    def __init__(self, *models: Model, **roles: Sequence[Model]) -> None:
        self.events: list[ResilienceEvent] = []
        self.policies = PolicyRegistry(clock=LoopClock(), rng=Random(1), listeners=[self.events.append])
        self.meter, self.tracer = CountingMeter(), RecordingTracer()
        self.gateway = ModelGateway({"reasoning": models, **roles}, self.policies, self.tracer, self.meter)

    async def ask(self, role: str = "reasoning", seconds: float = 60.0) -> ModelReply:
        return await self.gateway.complete(ModelRequest(role, (HumanMessage("So?"),)), Deadline.after(seconds, LoopClock()))


async def test_a_role_is_answered_by_its_own_model():
    """A role without one is answered by the model of `reasoning`."""
    house = House(Model("general", "from general"), routing=[Model("router", "from router")])

    assert (await house.ask("routing")).message.text == "from router"
    assert (await house.ask("a_fourth_specialist")).message.text == "from general"
    assert [model.name for model in house.gateway.models("routing")] == ["router"]


async def test_a_healthy_model_degrades_nothing():
    """One attempt, one count, one span with model and usage."""
    house = House(Model("a", "yes"), Model("b", "no"))

    reply = await house.ask()

    assert (reply.message.text, reply.model, reply.degraded) == ("yes", "a", ())
    assert house.meter.attempts == [("a", "ok")]
    [(kind, name, told)] = house.tracer.spans
    assert (kind, name, told["model"], told["usage"]) == ("generation", "model:reasoning", "a", Usage(1, 2, 0.5))


async def test_a_failure_that_passes_is_tried_again_and_degrades_nothing():
    """The same model, three attempts at most."""
    house = House(Model("a", ModelUnavailable("500"), ModelUnavailable("500"), "yes"))

    reply = await house.ask()

    assert (reply.message.text, reply.degraded) == ("yes", ())
    assert house.meter.attempts == [("a", "model_unavailable")] * 2 + [("a", "ok")]


async def test_the_next_model_answers_when_the_first_is_out():
    """And the reply says who was tried in vain, and why."""
    house = House(Model("a", ModelUnavailable("500")), Model("b", ModelRejectedRequest("401")), Model("c", "yes"))

    reply = await house.ask()

    assert (reply.message.text, reply.model) == ("yes", "c")
    assert reply.degraded == (Degradation("model:openai/a", "model_unavailable"), Degradation("model:openai/b", "model_rejected_request"))
    assert house.meter.attempts == [("a", "model_unavailable")] * 3 + [("b", "model_rejected_request"), ("c", "ok")]
    assert [event.fields["to"] for event in house.events if event.kind is EventKind.FALLBACK_TAKEN] == ["model:openai/b", "model:openai/c"]


async def test_when_all_models_fail_the_last_ones_error_is_raised():
    """The earlier ones stay reachable as its context."""
    house = House(Model("a", ModelRejectedRequest("401")), Model("b", ModelThrottled("429")))

    with pytest.raises(ModelThrottled) as caught:
        await house.ask()

    assert isinstance(caught.value.__context__, ModelRejectedRequest)


async def test_a_model_that_began_to_speak_is_not_replaced():
    """Neither tried again nor followed by another: the reader has seen the beginning."""
    second = Model("b", "no")
    house = House(Model("a", StreamBroken("gone"), speaks_first=True), second)

    with pytest.raises(StreamBroken):
        await house.ask()

    assert house.meter.attempts == [("a", "model_stream_broken")]
    assert second.contexts == []


async def test_a_hanging_attempt_is_counted_and_leaves_time_for_the_next_model():
    """A routing decision's time is enough for a hanging first model and a good second one."""
    house = House(Model("a", None), Model("b", "yes"))

    reply = await house.ask(seconds=ROUTING_TIMEOUT)

    assert reply.message.text == "yes"
    assert house.meter.attempts == [("a", "cancelled")] * 2 + [("b", "ok")]
    assert asyncio.get_running_loop().time() <= ROUTING_TIMEOUT * 0.8
    assert 0.8 * min(ROUTING_TIMEOUT, REFLECTION_TIMEOUT) > ATTEMPT_TIMEOUT


async def test_a_model_that_hangs_again_and_again_is_left_alone():
    """Its breaker opens by its own timeouts, and later questions go to the next model at once."""
    house = House(Model("a", None), Model("b", "yes"))
    for _ in range(5):
        await house.ask(seconds=ROUTING_TIMEOUT)
    before = asyncio.get_running_loop().time()

    reply = await house.ask(seconds=ROUTING_TIMEOUT)

    assert reply.degraded == (Degradation("model:openai/a", "circuit_open"),)
    assert asyncio.get_running_loop().time() == before


async def test_no_model_waits_past_the_deadline():
    """The caller gets an error of ours in time."""
    house = House(Model("a", None), Model("b", None))

    with pytest.raises(DeadlineExceeded):
        await house.ask(seconds=3.0)

    assert asyncio.get_running_loop().time() == pytest.approx(3.0)


async def test_roles_with_the_same_model_share_its_breaker():
    """Who learns that it is out, learns it for all."""
    broken = Model("a", ModelUnavailable("500"))
    house = House(broken, routing=[broken])
    for _ in range(2):
        with pytest.raises((ModelUnavailable, CircuitOpen)):
            await house.ask("reasoning")

    with pytest.raises(CircuitOpen):
        await house.ask("routing")


async def test_a_caller_who_leaves_is_counted_and_gets_the_cancellation():
    """Cancelling reaches the model at once."""
    house = House(Model("a", None))
    asking = asyncio.create_task(house.ask())
    await asyncio.sleep(1.0)

    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
    assert house.meter.attempts == [("a", "cancelled")]
    assert house.policies.breaker("model:openai/a").is_admitting


async def test_faults_of_the_program_are_neither_retried_nor_hidden():
    """A bug is not an outage."""

    class Faulty(Model):
        async def complete(self, request: Any, ctx: CallContext) -> ModelReply:
            raise AssertionError("a bug")

    second = Model("b", "no")

    with pytest.raises(AssertionError):
        await House(Faulty("a", "x"), second).ask()
    assert second.contexts == []


def test_a_token_is_about_four_characters_of_text():
    """All messages count."""
    request = ModelRequest(
        "reasoning", (SystemMessage("s" * 400), HumanMessage("h" * 200), HumanMessage([{"type": "text", "text": "p" * 200}]))
    )

    assert prompt_tokens(request) == 200


def test_functions_and_schema_are_part_of_the_prompt():
    """The model reads them too."""
    messages = (HumanMessage("h" * 400),)
    tools = ({"type": "function", "function": {"name": "find_order", "description": "d" * 400}},)

    assert prompt_tokens(ModelRequest("reasoning", messages, tools=tools)) > 200
    assert prompt_tokens(ModelRequest("routing", messages, response_schema={"title": "t" * 400})) > 200


async def test_the_gateway_lets_limits_ask_for_it():
    """Lazily: it is worked out only where a limit asks."""
    model = Model("m", "answer")
    await House(model).ask()

    assert model.contexts[0].weigh() == prompt_tokens(ModelRequest("reasoning", (HumanMessage("So?"),)))
