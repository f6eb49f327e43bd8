"""What arrives at Langfuse, over its real SDK and a local receiver of its export protocol."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict
from uuid import uuid4

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

from agents.tracing import NullTracer, RunTrace, Tracer
from agents.usage import Usage
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import LangfuseTracer
from tests.support.langfuse_receiver import LangfuseReceiver, ReceivedSpan

CLOSING = 3.0
# The SDK's time limit of one export; a span that waited for the backend would take about as long.
AN_EXPORT = 5.0


class State(TypedDict, total=False):
    question: str
    answer: str


def a_tracer(url: str, metrics: Metrics | None = None, flush_interval: float = 0.05) -> LangfuseTracer:
    """A tracer of its own: the SDK keeps one client per public key."""
    return LangfuseTracer(
        public_key=f"pk-{uuid4()}", secret_key="sk", base_url=url, metrics=metrics or Metrics(), flush_interval=flush_interval
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[LangfuseTracer]:
    tracer = a_tracer(url)
    try:
        yield tracer
    finally:
        await tracer.close()


def a_graph(tracer: Tracer, ask: Callable[[], Any] = lambda: None) -> Any:
    """A supervisor, a specialist that calls a tool and a model, and `ask`, which may interrupt."""

    async def supervise(state: State) -> Command[Any]:
        with tracer.span("chain", "supervise", input=state["question"]) as span:
            with tracer.span("generation", "route") as call:
                await asyncio.sleep(0)
                call.update(output="billing_support", model="small-model", usage=Usage(7, 2, 0.0))
            span.update(output="billing_support")
        return Command(goto="billing_support")

    async def billing_support(state: State) -> State:
        with tracer.span("agent", "billing_support", input=state["question"]) as span:
            with tracer.span("tool", "find_order", input={"order": "A-1"}) as tool:
                await asyncio.sleep(0)
                tool.update(output={"status": "sent"})
            ask()
            with tracer.span("generation", "answer", input=[{"role": "user", "content": state["question"]}]) as call:
                call.update(output="It is on its way.", model="big-model", usage=Usage(30, 5, 0.02))
            span.update(output="It is on its way.")
        return {"answer": f"about: {state['question']}"}

    builder = StateGraph(State)
    builder.add_node("supervise", supervise)
    builder.add_node("billing_support", billing_support)
    builder.add_edge(START, "supervise")
    builder.add_edge("billing_support", END)
    return builder.compile(checkpointer=InMemorySaver())


async def run(tracer: Tracer, graph: Any, given: Any, *, seed: str, thread: str = "t-1", user: str = "customer-1") -> None:
    trace = RunTrace(seed=seed, name="support", thread_id=thread, tenant="acme", user_id=user, tags=("beta",), input=given)
    with tracer.run(trace) as root:
        async for part in graph.astream(given, {"configurable": {"thread_id": thread}}, stream_mode=["updates"], version="v2"):
            root.update(output=part["type"])


def has(*names: str) -> Callable[[list[ReceivedSpan]], bool]:
    return lambda spans: sorted(s.name for s in spans) == sorted(names)


RUN = ("support", "supervise", "route", "billing_support", "find_order", "answer")


async def test_a_run_is_one_trace_with_nested_spans() -> None:
    """Supervisor, specialist, tool and model calls hang below the run's root, though LangGraph runs nodes in contexts of their own."""
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            await run(tracer, a_graph(tracer), {"question": "Where is it?"}, seed="run-1")
            spans = {s.name: s for s in await asyncio.to_thread(receiver.wait, has(*RUN))}

    names = {s.span_id: s.name for s in spans.values()}
    parents = {s.name: names.get(s.parent_id) for s in spans.values()}
    assert parents == {
        "support": None,
        "supervise": "support",
        "route": "supervise",
        "billing_support": "support",
        "find_order": "billing_support",
        "answer": "billing_support",
    }
    assert {s.name: s.kind for s in spans.values()} == {
        "support": "agent",
        "supervise": "chain",
        "route": "generation",
        "billing_support": "agent",
        "find_order": "tool",
        "answer": "generation",
    }
    assert len({s.trace_id for s in spans.values()}) == 1
    assert spans["answer"].field("model.name") == "big-model"
    assert spans["answer"].field("usage_details") == {"input": 30, "output": 5}
    assert spans["answer"].field("cost_details") == {"total": 0.02}
    assert spans["route"].field("cost_details") is None, "an unknown price is not a price of nothing"


async def test_every_span_names_customer_thread_and_tenant() -> None:
    """Traces can be found by customer, thread, tenant and tag from any of their spans."""
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            await run(tracer, a_graph(tracer), {"question": "Where is it?"}, seed="run-1", thread="t-7")
            spans = await asyncio.to_thread(receiver.wait, has(*RUN))

    for span in spans:
        assert span.attributes["user.id"] == "customer-1"
        assert span.attributes["session.id"] == "t-7"
        assert span.attributes["langfuse.trace.name"] == "support"
        assert span.attributes["langfuse.trace.tags"] == ["beta"]
        assert json.loads(span.attributes["langfuse.trace.metadata.tenant"]) == "acme"


async def test_concurrent_runs_do_not_mix() -> None:
    """Twenty runs at once are twenty traces, each with its own spans, customer and question."""
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            graph = a_graph(tracer)
            await asyncio.gather(
                *(run(tracer, graph, {"question": f"q-{n}"}, seed=f"run-{n}", thread=f"t-{n}", user=f"customer-{n}") for n in range(20))
            )
            spans = await asyncio.to_thread(receiver.wait, lambda spans: len(spans) >= 20 * len(RUN))

    by_trace: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        by_trace.setdefault(span.trace_id, []).append(span)
    assert len(by_trace) == 20
    for trace in by_trace.values():
        assert has(*RUN)(trace)
        number = next(s for s in trace if s.name == "supervise").field("input").removeprefix("q-")
        assert {s.attributes["user.id"] for s in trace} == {f"customer-{number}"}
        ids = {s.span_id for s in trace}
        assert [s.name for s in trace if s.parent_id not in ids] == ["support"]


async def test_a_resumed_run_joins_the_trace_of_the_interrupted_one() -> None:
    """Same seed, same trace; the interrupt closes its spans and is not an error."""
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            graph = a_graph(tracer, ask=lambda: interrupt("may I?"))
            await run(tracer, graph, {"question": "Refund?"}, seed="run-1")
            before = ("support", "supervise", "route", "billing_support", "find_order")
            await asyncio.to_thread(receiver.wait, has(*before))
            await run(tracer, graph, Command(resume="yes"), seed="run-1")
            spans = await asyncio.to_thread(receiver.wait, has(*before, "support", "billing_support", "find_order", "answer"))

    assert len({s.trace_id for s in spans}) == 1
    assert {s.field("level") for s in spans} == {None}


async def test_personal_data_stays_at_home() -> None:
    """E-mail, card and telephone number are gone from everything that arrives: inputs, outputs, errors, ids, tags, keys, events."""
    mail, card, phone = "ana@example.org", "4111 1111 1111 1111", "+34 600 123 456"
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            trace = RunTrace(
                seed="r",
                name="support",
                thread_id="t",
                tenant="acme",
                user_id=mail,
                tags=(mail,),
                metadata={"from": mail},
                input={"messages": [{"content": f"I am {mail}, card {card}"}]},
            )
            with tracer.run(trace) as root:
                with pytest.raises(ValueError, match="bad number"), tracer.span("tool", "pay", input={mail: int(card.replace(" ", ""))}):
                    raise ValueError(f"bad number {phone}")
                root.update(output=f"We will call {phone}", metadata={"mail": mail})
            spans = await asyncio.to_thread(receiver.wait, has("support", "pay"))

    sent = "".join(s.text for s in spans)
    assert not [found for found in (mail, card, card.replace(" ", ""), phone) if found in sent]
    assert {"[EMAIL]", "[CARD]", "[PHONE]"} <= {kind for kind in ("[EMAIL]", "[CARD]", "[PHONE]") if kind in sent}
    pay = next(s for s in spans if s.name == "pay")
    assert pay.field("level") == "ERROR"
    assert pay.field("status_message") == "ValueError: bad number [PHONE]"


async def test_cancelling_a_run_closes_its_spans_without_an_error() -> None:
    """A customer who leaves is not a failure of the specialist."""
    started = asyncio.Event()

    async def work(tracer: Tracer) -> None:
        with tracer.run(RunTrace(seed="r", name="support", thread_id="t", tenant="acme")), tracer.span("agent", "billing_support"):
            started.set()
            await asyncio.Event().wait()

    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            task = asyncio.create_task(work(tracer))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            spans = await asyncio.to_thread(receiver.wait, has("support", "billing_support"))

    assert {s.field("level") for s in spans} == {None}


async def test_a_span_outside_a_run_is_not_sent() -> None:
    """Work without a run, such as a health check's, makes no traces of its own."""
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:
            with tracer.span("tool", "stray"):
                pass
            with tracer.run(RunTrace(seed="r", name="support", thread_id="t", tenant="acme")):
                pass
        assert [s.name for s in receiver.spans()] == ["support"]


async def test_the_web_framework_does_not_join_the_traces() -> None:
    """The tracer provider is not the process's global one, so FastAPI's own spans neither arrive nor become parents."""
    app = FastAPI()
    with LangfuseReceiver() as receiver:
        async with opened(receiver.url) as tracer:

            @app.get("/")
            async def serve() -> str:
                with tracer.run(RunTrace(seed="r", name="support", thread_id="t", tenant="acme")):
                    return "done"

            async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
                assert (await client.get("/")).json() == "done"
            await asyncio.to_thread(receiver.wait, has("support"))
        assert [s.name for s in receiver.spans()] == ["support"]

    assert isinstance(get_tracer_provider(), ProxyTracerProvider)


async def test_closing_sends_what_is_waiting() -> None:
    """Spans of the last moments arrive, though their turn had not come."""
    with LangfuseReceiver() as receiver:
        tracer = a_tracer(receiver.url, flush_interval=3600)
        with tracer.run(RunTrace(seed="r", name="support", thread_id="t", tenant="acme")):
            pass
        await tracer.close()
        assert [s.name for s in receiver.spans()] == ["support"]


def measure(tracer: Tracer, runs: int) -> float:
    """Mean seconds of a run with five spans below its root."""
    begin = time.perf_counter()
    for n in range(runs):
        with tracer.run(RunTrace(seed=f"r{n}", name="support", thread_id="t", tenant="acme", input="Where is my order?")):
            for name in ("supervise", "route", "billing_support", "find_order", "answer"):
                with tracer.span("chain", name, input="Where is my order?") as span:
                    span.update(output="It is on its way.")
    return (time.perf_counter() - begin) / runs


async def test_a_hanging_backend_costs_the_runs_nothing_and_the_end_three_seconds() -> None:
    """Spans take as long as with a healthy backend, and `close` gives up after 3 s."""
    with LangfuseReceiver(answers=False) as receiver:
        metrics = Metrics()
        tracer = a_tracer(receiver.url, metrics)
        measure(tracer, 5)
        await asyncio.to_thread(receiver.wait_for_request)
        each = measure(tracer, 300)
        begin = time.perf_counter()
        await tracer.close()
        closing = time.perf_counter() - begin

    assert each < AN_EXPORT / 10, f"{each * 1e3:.2f} ms a run"
    assert closing < 3 * CLOSING, f"closed in {closing:.2f} s"
    assert "capataz_traces_dropped_total 0.0" not in metrics.render().decode(), "300 runs are more than the queue takes"


async def test_a_dead_backend_costs_the_runs_nothing_and_the_end_three_seconds() -> None:
    """Nobody listens: spans are as quick, the loss is counted, `close` ends in time."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    metrics = Metrics()
    tracer = a_tracer(url, metrics)
    each = measure(tracer, 100)
    begin = time.perf_counter()
    await tracer.close()
    closing = time.perf_counter() - begin

    assert each < AN_EXPORT / 10, f"{each * 1e3:.2f} ms a run"
    assert closing < 3 * CLOSING, f"closed in {closing:.2f} s"


ENDING = """
import asyncio, sys
from agents.tracing import RunTrace
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import LangfuseTracer

async def main():
    tracer = LangfuseTracer(public_key="pk", secret_key="sk", base_url=sys.argv[1], metrics=Metrics())
    with tracer.run(RunTrace(seed="r", name="support", thread_id="t", tenant="acme")):
        for _ in range(1500):
            with tracer.span("tool", "find_order"):
                pass
    print("closing", flush=True)
    await tracer.close()

asyncio.run(main())
"""


def test_a_hanging_backend_does_not_hold_the_process() -> None:
    """After `close` gave up, neither the event loop's end nor the interpreter's waits for the three batches that are left."""
    with LangfuseReceiver(answers=False) as receiver:
        with subprocess.Popen([sys.executable, "-c", ENDING, receiver.url], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "closing\n"
            begin = time.perf_counter()
            said = process.stdout.read()
            returncode = process.wait(timeout=60)
            ending = time.perf_counter() - begin

    assert returncode == 0
    assert "tracing_not_flushed" in said
    assert ending < 3 * CLOSING, f"ended in {ending:.2f} s"


async def test_without_keys_nothing_is_sent_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tracer of a service without keys is silent in every way."""
    with LangfuseReceiver() as receiver, caplog.at_level(logging.DEBUG, logger="langfuse"):
        tracer = NullTracer()
        await run(tracer, a_graph(tracer), {"question": "Where is it?"}, seed="run-1")
        assert receiver.requests == 0

    assert [record for record in caplog.records if record.name.startswith(("langfuse", "opentelemetry"))] == []
    assert "".join(capfd.readouterr()) == ""
