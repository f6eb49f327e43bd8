"""A model that is slower than usual is asked a second time, if nobody reads along."""

import asyncio
from random import Random
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables.config import RunnableConfig, ensure_config
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import PrivateAttr

from agents.models.adapter import LangChainModel
from agents.models.gateway import ModelGateway
from agents.models.port import ModelReply, ModelRequest
from resilience.deadline import Deadline
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from tests.support.cast import CountingMeter, RecordingTracer
from tests.support.virtual_time import LoopClock

USUAL = 1.0
"""How long the model usually takes, seconds."""
LIMIT = 5.0
"""Longer than a hedged answer takes, and shorter than one attempt may."""


class Slow(BaseChatModel):
    """Takes the usual time 20 times, then hangs once, then takes the usual time again. Keeps the configuration of every call."""

    _configs: list[RunnableConfig] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise AssertionError("asked in a thread")

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self._configs.append(ensure_config())
        number = len(self._configs)
        await asyncio.sleep(3600 if number == 21 else USUAL)
        message = AIMessage(
            f"answer {number}",
            usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
            response_metadata={"finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


class House:
    """A gateway over the slow model that has answered twenty questions."""

    def __init__(self, *off: PolicyName) -> None:
        self.events: list[ResilienceEvent] = []
        self.model, self.meter, self.tracer = Slow(), CountingMeter(), RecordingTracer()
        policies = PolicyRegistry(ResilienceSettings(off=frozenset(off)), clock=LoopClock(), rng=Random(1), listeners=[self.events.append])
        chain = (LangChainModel(self.model, name="slow", provider="here"),)
        self.gateway = ModelGateway({"reasoning": chain}, policies, self.tracer, self.meter)

    async def ask(self, *, is_visible: bool = False, seconds: float = 60.0) -> ModelReply:
        request = ModelRequest("reasoning", (HumanMessage("So?"),), is_visible=is_visible)
        return await self.gateway.complete(request, Deadline.after(seconds, LoopClock()))

    async def warmed_up(self) -> "House":
        for _ in range(20):
            await self.ask()
        return self


async def test_a_hidden_question_is_asked_a_second_time():
    """One answer, one span, nothing degraded; both calls are counted, the lost one as cancelled."""
    house = await House().warmed_up()

    reply = await house.ask()

    assert (reply.message.text, reply.degraded) == ("answer 22", ())
    assert house.meter.attempts[20:] == [("slow", "ok"), ("slow", "cancelled")]
    assert len(house.tracer.spans) == 21
    assert [event.kind for event in house.events] == [EventKind.HEDGE_STARTED, EventKind.HEDGE_WON]


async def test_a_visible_question_is_asked_once():
    """Its reader would see two beginnings; it waits for the attempt's timeout and the retry."""
    house = await House().warmed_up()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LIMIT):
            await house.ask(is_visible=True)

    assert house.meter.attempts[20:] == [("slow", "cancelled")]


async def test_switched_off_the_question_is_asked_once():
    """`RESILIENCE_OFF=hedge` does what it says."""
    house = await House(PolicyName.HEDGE).warmed_up()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LIMIT):
            await house.ask()

    assert house.meter.attempts[20:] == [("slow", "cancelled")]


async def test_both_calls_know_the_node_and_neither_is_read():
    """Inside a graph: the configuration of the node reaches the second call too, and no token of either is streamed."""
    house = await House().warmed_up()
    answers: list[str] = []

    async def speaker(state: MessagesState) -> dict[str, Any]:
        answers.append((await house.ask()).message.text)
        return {}

    graph = StateGraph(MessagesState).add_node("speaker", speaker).add_edge(START, "speaker").add_edge("speaker", END).compile()
    config: RunnableConfig = {"tags": ["mine"], "metadata": {"run": "run-1"}}
    parts = [part async for part in graph.astream({"messages": []}, config, stream_mode=["messages"], version="v2")]

    first, second = house.model._configs[20:]
    assert answers == ["answer 22"]
    assert parts == []
    for seen in (first, second):
        assert (seen["metadata"]["langgraph_node"], seen["metadata"]["run"]) == ("speaker", "run-1")
        assert seen["tags"] == ["mine"]
    assert first["metadata"] == second["metadata"]
