"""How a role reaches a model, and what happens when the model fails."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from agents.errors import ModelRejectedRequest, ModelThrottled, ModelUnavailable, OutputInvalid, StreamBroken
from agents.models.gateway import ModelGateway, prompt_tokens
from agents.models.limits import QUICK, ModelLimits
from agents.models.port import Account, Degradation, ModelReply, ModelRequest
from agents.usage import Usage
from resilience.context import CallContext, Output
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, CircuitOpen, DeadlineExceeded
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
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
        self.prompts: list[list[str]] = []

    async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
        self.contexts.append(ctx)
        self.prompts.append([message.text for message in request.messages])
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

    def __init__(self, *models: Model, off: Sequence[PolicyName] = (), **roles: Sequence[Model]) -> None:
        self.events: list[ResilienceEvent] = []
        settings = ResilienceSettings(off=frozenset(off))
        self.policies = PolicyRegistry(settings, clock=LoopClock(), rng=Random(1), listeners=[self.events.append])
        self.meter, self.tracer = CountingMeter(), RecordingTracer()
        self.gateway = ModelGateway({"reasoning": models, **roles}, self.policies, self.tracer, self.meter, {"reasoning": QUICK})

    async def ask(self, role: str = "reasoning", seconds: float = 60.0, account: Account | None = None, **changes: Any) -> ModelReply:
        request = ModelRequest(role, (HumanMessage("So?"),), **changes)
        return await self.gateway.complete(request, Deadline.after(seconds, LoopClock()), account=account)

    def heard(self, kind: EventKind) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.events if event.kind is kind]


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
    """A decision's time is enough for a hanging first model and a good second one."""
    house = House(Model("a", None), Model("b", "yes"))

    reply = await house.ask()

    assert reply.message.text == "yes"
    assert house.meter.attempts == [("a", "cancelled"), ("b", "ok")]
    assert asyncio.get_running_loop().time() <= QUICK.total * 0.8
    assert 0.8 * QUICK.total > QUICK.first_token


@pytest.mark.parametrize(("second", "asked"), [("openai", 1), ("offline", 2)])
async def test_a_model_is_waited_for_if_only_rules_stand_behind_it(second: str, asked: int):
    """A second of `Retry-After` is more than a second model takes; where only rules would follow, the model is worth it."""
    other = Model("b", "instead")
    other.provider = second
    first = Model("a", ModelThrottled("429", retry_after=1.0), "yes")
    house = House(first, other)

    reply = await house.ask()

    assert len(first.contexts) == asked
    assert reply.message.text == ("instead" if second == "openai" else "yes")


async def test_a_model_that_hangs_again_and_again_is_left_alone():
    """Its breaker opens by its own timeouts, and later questions go to the next model at once."""
    house = House(Model("a", None), Model("b", "yes"))
    for _ in range(5):
        await house.ask()
    before = asyncio.get_running_loop().time()

    reply = await house.ask()

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


PAID = Usage(10, 1, 0.1)


def unusable(reason: str = "garbage") -> OutputInvalid:
    return OutputInvalid(reason, "the arguments of f are not JSON", PAID)


@pytest.mark.parametrize("reason", ["garbage", "empty", "cut"])
async def test_an_unusable_answer_is_asked_for_again_with_its_fault(reason):
    """From the same model, and it is no degradation; both answers are paid for, and the trace says what was repaired."""
    model, second = Model("a", unusable(reason), "yes"), Model("b", "no")
    house = House(model, second)

    reply = await house.ask()

    assert (reply.message.text, reply.degraded, second.contexts) == ("yes", (), [])
    assert model.prompts == [["So?"], ["So?", "Your answer was not usable: the arguments of f are not JSON. Answer again, in full."]]
    assert reply.usage == PAID + Usage(1, 2, 0.5)
    assert house.meter.attempts == [("a", "model_output_invalid"), ("a", "ok")]
    assert house.heard(EventKind.OUTPUT_REPAIRED) == [{"why": reason}]
    assert house.tracer.spans[0][2]["metadata"] == {"repaired": reason}


async def test_one_repair_is_all_that_a_request_gets():
    """Then the next model is asked, with the question as it was, and its own unusable answer is the end."""
    first, second = Model("a", unusable()), Model("b", unusable("empty"))
    house, account = House(first, second), Account()

    with pytest.raises(OutputInvalid) as caught:
        await house.ask(account=account)

    assert (caught.value.reason, caught.value.code) == ("empty", "model_output_invalid")
    assert house.meter.attempts == [("a", "model_output_invalid")] * 2 + [("b", "model_output_invalid")]
    assert second.prompts == [["So?"]]
    assert account == Account(PAID + PAID + PAID, [Degradation("model:openai/a", "model_output_invalid")])


async def test_a_model_that_refused_is_not_asked_again():
    """It has made up its mind; the next one may think otherwise."""
    house = House(Model("a", unusable("refused")), Model("b", "yes"))

    assert (await house.ask()).message.text == "yes"
    assert house.meter.attempts == [("a", "model_output_invalid"), ("b", "ok")]


async def test_an_answer_that_does_not_fit_its_request_is_unusable():
    """Whatever is asked can say what is wrong with an answer; the provider's breaker does not hear of it."""
    house = House(Model("a", *["maybe"] * 9, "yes"))
    for _ in range(4):
        with pytest.raises(OutputInvalid) as caught:
            await house.ask(fault=lambda message: "" if message.text == "yes" else "it must be yes")
    assert caught.value.detail == "it must be yes"

    reply = await house.ask(fault=lambda message: "" if message.text == "yes" else "it must be yes", response_schema={})

    assert reply.message.text == "yes"
    assert house.gateway.models("reasoning")[0].prompts[-1][-1].endswith("Answer again, with the JSON only.")
    assert house.policies.breaker("model:openai/a").is_admitting


async def test_what_somebody_has_read_is_not_repaired():
    """The beginning would come twice."""
    house = House(Model("a", unusable(), speaks_first=True), Model("b", "no"))

    with pytest.raises(OutputInvalid):
        await house.ask()
    assert house.meter.attempts == [("a", "model_output_invalid")]


async def test_there_is_no_repair_without_time_for_it():
    """The failure is what it is."""

    class Slow(Model):
        async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
            try:
                await asyncio.sleep(3600)
            finally:
                raise unusable()

    house = House(Slow("a", "no"))

    with pytest.raises(OutputInvalid):
        await house.ask(seconds=1.0)
    assert house.meter.attempts == [("a", "model_output_invalid")]


async def test_repair_and_fallback_can_be_switched_off():
    """Each alone."""
    without_repair = House(Model("a", unusable()), Model("b", "yes"), off=[PolicyName.REPAIR])
    without_others = House(Model("a", unusable(), ModelRejectedRequest("401")), Model("b", "yes"), off=[PolicyName.FALLBACK])

    assert (await without_repair.ask()).message.text == "yes"
    assert without_repair.meter.attempts == [("a", "model_output_invalid"), ("b", "ok")]
    with pytest.raises(ModelRejectedRequest):
        await without_others.ask()
    assert without_others.meter.attempts == [("a", "model_output_invalid"), ("a", "model_rejected_request")]


async def test_an_account_is_charged_with_what_led_to_nothing():
    """Several questions on one account add up."""
    house, account = House(Model("a", "yes", ModelRejectedRequest("401")), Model("b", ModelRejectedRequest("401"))), Account()

    await house.ask(account=account)
    with pytest.raises(ModelRejectedRequest):
        await house.ask(account=account)

    assert account == Account(Usage(1, 2, 0.5), [Degradation("model:openai/a", "model_rejected_request")])


async def test_a_role_waits_as_long_as_its_limits_say():
    """The same model with two roles: the hurried one gives up an attempt sooner, and all of a question ends at its total."""
    model = Model("a", None)
    house = House(model, hurried=[model], off=[PolicyName.RETRY, PolicyName.BREAKER])
    house.gateway._limits["hurried"] = ModelLimits(first_token=0.5, total=3.0)
    waited = []
    for role in ("reasoning", "hurried"):
        begun = asyncio.get_running_loop().time()
        with pytest.raises(AttemptTimedOut):
            await house.ask(role)
        waited.append(asyncio.get_running_loop().time() - begun)
    assert waited == [pytest.approx(QUICK.first_token), pytest.approx(0.5)]

    patient = House(Model("a", None), off=[PolicyName.TIMEOUT])
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await patient.ask()
    assert asyncio.get_running_loop().time() - begun == pytest.approx(QUICK.total)


async def test_an_answer_that_flows_may_outlast_the_wait_for_it():
    """Up to its ending, and the caller's own output has begun too; its share of the deadline does not cut it."""

    class Talker(Model):
        async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
            ctx.output.start()
            await asyncio.sleep(self.seconds)
            return ModelReply(AIMessage("a long answer"), Usage(), self.name)

        seconds = 9.0

    talker, outer = Talker("a", "x"), Output()
    house = House(talker, Model("b", "no"))
    now = Deadline.after(2.0, LoopClock())

    reply = await house.gateway.complete(
        ModelRequest("reasoning", (HumanMessage("So?"),)), now, ending=Deadline.after(60.0, LoopClock()), output=outer
    )
    assert (reply.message.text, outer.has_started) == ("a long answer", True)

    talker.seconds = QUICK.total + 1
    with pytest.raises(DeadlineExceeded):
        await house.ask(seconds=60.0)
