"""Somebody who reads a graph's tokens as they come."""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph

from agents.models.port import ModelReply


class Reader:
    """One visible question asked inside a node, and the tokens that a reader of the graph sees."""

    def __init__(self) -> None:
        self.tokens: list[tuple[str, str | None]] = []
        self.outcome: ModelReply | Exception | None = None

    async def watch(self, ask: Any) -> Reader:
        graph = StateGraph(MessagesState)

        async def node(state: MessagesState) -> dict[str, Any]:
            try:
                self.outcome = await ask()
            except Exception as exc:
                self.outcome = exc
            return {}

        graph.add_node("node", node)
        graph.add_edge(START, "node")
        graph.add_edge("node", END)
        async for part in graph.compile().astream({"messages": []}, stream_mode=["messages"], version="v2"):
            chunk, _ = part["data"]
            self.tokens.append((chunk.text, chunk.id))
        return self

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.tokens)
