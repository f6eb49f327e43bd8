"""The conformance graph does what its messages ask for."""

import asyncio

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from graphs.conformance import RECURSION_LIMIT, SLOW_STEPS, build_conformance
from tests.support.virtual_time import VirtualTimeLoop

CONFIG = {"configurable": {"thread_id": "t"}, "recursion_limit": RECURSION_LIMIT}


@pytest.fixture
def graph():
    return build_conformance(step=0.0).compile(checkpointer=InMemorySaver())


def says(text):
    return {"messages": [{"role": "user", "content": text}]}


async def run(graph, given):
    return await graph.ainvoke(given, CONFIG, version="v2")


async def parts(graph, given, *modes):
    return [part async for part in graph.astream(given, CONFIG, stream_mode=list(modes), subgraphs=True, version="v2")]


async def test_anything_is_echoed_token_by_token_at_the_root(graph):
    """Every word is a token event of the node `echo`, outside all subgraphs, and the message is their sum."""
    came = await parts(graph, says("uno dos  tres"), "messages", "values")

    tokens = [part["data"] for part in came if part["type"] == "messages" and part["data"][1]["langgraph_node"] == "echo"]
    assert [chunk.content for chunk, _ in tokens if chunk.content] == ["uno", " dos", " ", " tres"]
    assert {part["ns"] for part in came if part["type"] == "messages" and part["data"][1]["langgraph_node"] == "echo"} == {()}
    answer = came[-1]["data"]["messages"][-1]
    assert (answer.content, answer.id) == ("uno dos  tres", tokens[0][0].id)


def test_slow_takes_six_seconds_in_short_supersteps():
    """A client has 6 s to leave and come back, a cancel or a drain at most a quarter of a second to wait."""
    graph = build_conformance().compile(checkpointer=InMemorySaver())
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        values = runner.run(run(graph, says("slow please"))).value

        assert loop.time() == pytest.approx(6.0)
    assert values["steps"] == SLOW_STEPS
    assert values["messages"][-1].content == "slow please"


async def test_slow_tells_each_step(graph):
    """Custom events come between the first and the last, the look-up's own from inside the subgraph."""
    came = await parts(graph, says("Slow please"), "custom")

    assert [part["data"].get("step") for part in came if part["ns"] == ()] == list(range(1, SLOW_STEPS + 1))
    assert [part["data"] for part in came if part["ns"]] == [{"looked_up": "Slow please"}]


async def test_boom_raises(graph):
    """An error of no kind that the service knows leaves the graph."""
    with pytest.raises(ValueError, match="boom"):
        await run(graph, says("boom"))


@pytest.mark.parametrize("answer", [True, False, "maybe", {"approved": True}])
async def test_a_refund_waits_and_answers_after_the_resume(graph, answer):
    """The run stops at `refund` with one interrupt, and says the answer back, whatever it is."""
    waiting = await run(graph, says("refund order 7"))
    assert [interrupt.value["action"] for interrupt in waiting.interrupts] == ["refund"]
    assert (await graph.aget_state(CONFIG)).next == ("refund",)

    done = await run(graph, Command(resume=answer))

    assert done.interrupts == ()
    assert done.value["messages"][-1].content == f"order 7: {answer}"


async def test_a_refund_can_be_answered_by_the_interrupts_id(graph):
    """`{id: answer}` is taken like the answer alone."""
    (asked,) = (await run(graph, says("refund order 7"))).interrupts

    done = await run(graph, Command(resume={asked.id: "yes"}))

    assert done.value["messages"][-1].content == "order 7: yes"


async def test_the_subgraph_is_visible_to_those_who_ask(graph):
    """With `subgraphs=True` its updates come under a namespace of their own."""
    came = await parts(graph, says("hi"), "updates")

    inside = [part for part in came if part["ns"]]
    assert {part["ns"][0].partition(":")[0] for part in inside} == {"look_up"}
    assert [part["data"] for part in inside] == [{"note": {"notes": ["hi"], "steps": 0, "approval": []}}]


async def test_a_thread_goes_on_after_every_kind_of_turn(graph):
    """Each turn begins anew: an old answer or an old count is not said again, and messages add up without doubles."""
    await run(graph, says("slow please"))
    await run(graph, says("refund order 7"))
    await run(graph, Command(resume=True))
    with pytest.raises(ValueError, match="boom"):
        await run(graph, says("boom"))
    await run(graph, says("slow please"))

    values = (await run(graph, says("hello"))).value

    said = ["slow please", "slow please", "refund order 7", "order 7: True", "boom", "slow please", "slow please", "hello", "hello"]
    assert [message.content for message in values["messages"]] == said
    assert len({message.id for message in values["messages"]}) == len(said)
    assert (values["steps"], values["approval"], values["notes"]) == (0, [], ["hello"])


async def test_a_context_and_keys_of_other_graphs_do_no_harm(graph):
    """The service hands every graph a context, and clients of the supervisor send a customer."""
    given = {**says("hi"), "customer": {"id": "C-1001"}}

    values = await graph.ainvoke(given, CONFIG, context=object())

    assert values["messages"][-1].content == "hi"
