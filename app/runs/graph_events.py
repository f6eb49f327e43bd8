"""The stream mode `events`: LangChain's events of everything that runs in a graph, beside the parts of the other modes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from langchain_core.messages import SystemMessage


async def parts_and_events(graph: Any, begin: Any, config: Any, **options: Any) -> AsyncIterator[Mapping[str, Any]]:
    """What `graph.astream(version="v2")` streams, and before each part the event that brings it; all other events as parts `events`.

    What a model is asked is told without our instructions to it: prompts are not for callers.
    """
    root = ""
    async for event in graph.astream_events(begin, config, version="v2", **options):
        root = root or event["run_id"]
        yield {"type": "events", "ns": (), "data": {**event, "data": _without_prompts(event["data"])}}
        if event["event"] == "on_chain_stream" and event["run_id"] == root:
            yield _part(event["data"]["chunk"])


def _part(chunk: tuple[Any, ...]) -> Mapping[str, Any]:
    """A part of the older form as one of `version="v2"`."""
    namespace, mode, data = chunk if len(chunk) == 3 else ((), *chunk)
    if mode != "values":
        return {"type": mode, "ns": namespace, "data": data}
    asked = data.get("__interrupt__", ())
    return {"type": mode, "ns": namespace, "data": {key: data[key] for key in data if key != "__interrupt__"}, "interrupts": asked}


def _without_prompts(data: Mapping[str, Any]) -> dict[str, Any]:
    given = data.get("input")
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        return dict(data)
    return {**data, "input": {**given, "messages": _spoken(given["messages"])}}


def _spoken(messages: list[Any]) -> list[Any]:
    kept = [message for message in messages if not isinstance(message, SystemMessage)]
    return [_spoken(message) if isinstance(message, list) else message for message in kept]
