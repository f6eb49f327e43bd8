"""The naive form: a supervisor graph as tutorials show it. `python -m benchmarks.case_study.naive PORT` serves `POST /chat`.

The same graph shape, prompts, tool and models as the service, written with what the libraries offer by default: `ChatOpenAI` with
two retries and no time limit of ours, `create_react_agent` per specialist, conversations in memory, `await graph.ainvoke(…)` in
the route. What fails is left to fail. `docs/case-study.md` says why this is what people do.
"""

from __future__ import annotations

import sys
from typing import Any, Literal
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from agents.demo.company import help_centre
from agents.spec import load_prompt
from benchmarks.case_study.plan import Plan

SPECIALISTS = ("billing_support", "general_support", "technical_support")


class Chat(BaseModel):
    """What a customer writes."""

    message: str


class Route(BaseModel):
    """Who should answer."""

    specialist: Literal["billing_support", "general_support", "technical_support", "human"]
    reason: str


class State(MessagesState):
    """The conversation, and who was chosen last."""

    specialist: str


@tool
def search_help_centre(query: str) -> str:
    """Find help-centre articles that answer a question."""
    return "\n\n".join(f"{hit.title}\n{hit.text}" for hit in help_centre().search(query, "en")) or "Nothing found."


def build(models: dict[str, str]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Supervisor → specialist with tools → answer. Key and address of the provider come from the environment."""
    router = ChatOpenAI(model=models["routing"]).with_structured_output(Route)

    async def supervisor(state: State) -> dict[str, Any]:
        route = await router.ainvoke([("system", load_prompt("supervise")), *state["messages"]])
        return {"specialist": route.specialist}  # type: ignore[union-attr]  # a Route: that is what was asked for

    def human(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage("A colleague of ours will get back to you.")]}

    graph = StateGraph(State)
    graph.add_node("supervisor", supervisor)
    graph.add_node("human", human)
    for name in SPECIALISTS:
        graph.add_node(name, create_react_agent(ChatOpenAI(model=models[name]), [search_help_centre], prompt=load_prompt(name)))
        graph.add_edge(name, END)
    graph.add_edge(START, "supervisor")
    graph.add_conditional_edges("supervisor", lambda state: state["specialist"], [*SPECIALISTS, "human"])
    graph.add_edge("human", END)
    return graph.compile(checkpointer=InMemorySaver())


def create_app() -> FastAPI:
    """The application."""
    app, graph = FastAPI(), build(Plan("none").models)
    help_centre()  # read now, as the service does

    @app.post("/chat")
    async def chat(body: Chat) -> dict[str, Any]:
        state = await graph.ainvoke({"messages": [("user", body.message)]}, {"configurable": {"thread_id": str(uuid4())}})
        return {"answer": state["messages"][-1].content, "specialist": state["specialist"]}

    return app


def main() -> None:
    """Serve on the loopback interface until told to stop."""
    # Whoever still waits at the end of the benchmark is not waited for.
    uvicorn.run(create_app(), port=int(sys.argv[1]), access_log=False, log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
