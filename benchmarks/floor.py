"""What the service is compared with: FastAPI and a graph in the handler, and nothing that survives the process.

`python -m benchmarks.floor PORT` serves, each with `/wait` and `/stream`:

    /supervisor   our supervisor graph, compiled without a checkpointer
    /conformance  our conformance graph, likewise
    /plain        a graph of two ChatOpenAI calls with nothing around them
    /sdk          two calls of the OpenAI client, without a graph

No run record, lease, checkpoint, event log, cancel, reconnect or drain. Models are configured as those of the service.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from langchain_core.messages import AnyMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from openai import AsyncOpenAI
from pydantic import BaseModel, SecretStr
from typing_extensions import TypedDict

from agents.answers import NoAnswers
from agents.demo.company import help_centre
from agents.models.gateway import ModelGateway
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.tracing import NullTracer
from agents.understudy import Understudy
from app.bootstrap.graphs import build_graphs
from app.bootstrap.models import model_chains
from app.settings import DEFAULT_MODEL, Settings
from app.telemetry.metrics import Metrics
from app.threads.plain import to_json
from graphs.context import RunContext, RunScope
from graphs.nodes.supervise import RoutingDecision
from graphs.registry import GraphEntry
from graphs.routing import ANSWER_AT
from resilience.deadline import Deadline
from resilience.registry import PolicyRegistry

LIMIT = 60.0
"""A run's deadline, seconds."""
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "routing", "schema": RoutingDecision.schema_for(["billing_support", "human"]), "strict": True},
}


class Body(BaseModel):
    """A run to be made."""

    input: dict[str, Any]


class PlainState(TypedDict, total=False):
    """State of the plain graph."""

    messages: Annotated[list[AnyMessage], add_messages]
    decision: str


def frame(name: str, data: Any) -> bytes:
    """One Server-Sent Event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(data))


def entries(settings: Settings) -> dict[str, GraphEntry]:
    """The graphs of the service with what their nodes need, and nothing of what runs them there."""
    specialists = SpecialistRegistry.discover()
    metrics, tracer = Metrics(), NullTracer()
    policies = PolicyRegistry(listeners=[metrics.on_event])
    gateway = ModelGateway(model_chains(settings.models, specialists), policies, tracer, metrics)
    runner = AgentRunner(gateway, policies, tracer)
    understudy = Understudy(NoAnswers(), tracer, sure_at=ANSWER_AT)

    def is_available(name: str) -> bool:
        return policies.breaker(f"specialist:{name}").is_admitting

    def make_context(scope: RunScope) -> RunContext:
        return RunContext(scope, specialists, is_available, runner, understudy, gateway, tracer)

    help_centre()
    return dict(build_graphs(specialists, make_context, has_conformance=True))


def plain_graph(key: SecretStr, base_url: str) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Two calls, one after the other."""
    model = ChatOpenAI(model=DEFAULT_MODEL, api_key=key, base_url=base_url, max_retries=0, stream_usage=True)

    async def route(state: PlainState) -> PlainState:
        reply = await model.ainvoke(state["messages"], {"tags": ["nostream"]}, response_format=FORMAT, stream=False)
        return {"decision": str(reply.content)}

    async def answer(state: PlainState) -> PlainState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(PlainState)
    graph.add_node("route", route)
    graph.add_node("answer", answer)
    graph.add_edge(START, "route")
    graph.add_edge("route", "answer")
    graph.add_edge("answer", END)
    return graph.compile()


def add_service_graph(app: FastAPI, entry: GraphEntry) -> None:
    """Routes that run a graph of the service."""

    def arguments(body: Body) -> dict[str, Any]:
        context = entry.make_context(RunScope(str(uuid4()), "default", Deadline.after(LIMIT)))
        return {"input": entry.as_input(entry.accepts.model_validate(body.input)), "context": context}

    @app.post(f"/{entry.graph_id}/wait")
    async def wait(body: Body) -> Response:
        state = await entry.graph.ainvoke(**arguments(body))
        shown = state if entry.shown is None else {key: value for key, value in state.items() if key in entry.shown}
        return Response(to_json(shown), media_type="application/json")

    @app.post(f"/{entry.graph_id}/stream")
    async def stream(body: Body) -> StreamingResponse:
        return StreamingResponse(tokens(entry.graph, arguments(body)), media_type="text/event-stream")


def add_plain(app: FastAPI, graph: CompiledStateGraph[Any, Any, Any, Any]) -> None:
    """Routes that run the graph of two ChatOpenAI calls."""

    @app.post("/plain/wait")
    async def wait(body: Body) -> Response:
        return Response(to_json(await graph.ainvoke(body.input)), media_type="application/json")

    @app.post("/plain/stream")
    async def stream(body: Body) -> StreamingResponse:
        return StreamingResponse(tokens(graph, {"input": body.input}), media_type="text/event-stream")


async def tokens(graph: CompiledStateGraph[Any, Any, Any, Any], arguments: dict[str, Any]) -> AsyncIterator[bytes]:
    """The run's tokens as they come."""
    async for message, metadata in graph.astream(**arguments, stream_mode="messages"):
        yield frame("messages", [message, metadata])
    yield frame("end", None)


def add_sdk(app: FastAPI, client: AsyncOpenAI) -> None:
    """Routes that make two calls of the OpenAI client."""

    def call(body: Body) -> dict[str, Any]:
        return {"model": DEFAULT_MODEL, "messages": body.input["messages"]}

    @app.post("/sdk/wait")
    async def wait(body: Body) -> Response:
        await client.chat.completions.create(**call(body), response_format=FORMAT)
        reply = await client.chat.completions.create(**call(body))
        return Response(reply.model_dump_json(), media_type="application/json")

    @app.post("/sdk/stream")
    async def stream(body: Body) -> StreamingResponse:
        return StreamingResponse(chunks(body), media_type="text/event-stream")

    async def chunks(body: Body) -> AsyncIterator[bytes]:
        await client.chat.completions.create(**call(body), response_format=FORMAT)
        is_stream: Literal[True] = True
        async for chunk in await client.chat.completions.create(**call(body), stream=is_stream):
            yield frame("messages", chunk)
        yield frame("end", None)


def create_app(settings: Settings) -> FastAPI:
    """The application; `/plain` and `/sdk` only where a provider is configured."""
    app = FastAPI()
    for entry in entries(settings).values():
        add_service_graph(app, entry)
    models = settings.models
    if models.api_key is not None and models.base_url is not None:
        add_plain(app, plain_graph(models.api_key, models.base_url))
        add_sdk(app, AsyncOpenAI(api_key=models.api_key.get_secret_value(), base_url=models.base_url, max_retries=0))
    return app


def main() -> None:
    """Serve on the loopback interface until told to stop."""
    uvicorn.run(create_app(Settings.load()), port=int(sys.argv[1]), access_log=False, log_level="error")


if __name__ == "__main__":
    main()
