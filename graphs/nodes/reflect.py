"""A second look at a draft that is neither good enough nor bad enough: once, with what is wrong in words."""

from __future__ import annotations

import json

from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.runtime import Runtime

from agents.models.port import ModelRequest
from agents.spec import load_prompt
from graphs.context import RunContext
from graphs.handoff import question
from graphs.state import Degraded, SupervisorState, add_usage, degraded_by
from resilience.errors import DependencyError, ResilienceError

REFLECTION_TIMEOUT = 10.0
"""Longest wait for the critique, with all retries and the second model, seconds."""
FOUND_CHARACTERS = 4_000
"""How much of what the tools found the critic is shown."""


async def reflect(state: SupervisorState, runtime: Runtime[RunContext]) -> SupervisorState:
    """Ask the reasoning model what the draft lacks; without an answer the draft is judged as it stands."""
    context, draft, asked = runtime.context, state.get("draft"), question(state)
    assert draft is not None
    assert asked is not None
    found = json.dumps([f for f in state["findings"] if f["result"] is not None], ensure_ascii=False)[:FOUND_CHARACTERS]
    prompt = (
        SystemMessage(load_prompt("reflect")),
        HumanMessage(
            f"Question:\n{asked.text}\n\nDraft:\n{draft['text']}\n\nSources: {', '.join(draft['sources']) or 'none'}\n\nFound:\n{found}"
        ),
    )
    with context.tracer.span("chain", "reflect", input=draft["text"]) as span:
        try:
            reply = await context.gateway.complete(
                ModelRequest("reasoning", prompt, standing=context.scope.standing()), context.scope.deadline.within(REFLECTION_TIMEOUT)
            )
        except (ResilienceError, DependencyError) as exc:
            span.update(error=exc.code)
            return {"critique": "", "degraded": [*state["degraded"], Degraded(what="reflection", why=exc.code)]}
        span.update(output=reply.message.text)
    return {
        "critique": reply.message.text,
        "usage": add_usage(state["usage"], reply.usage),
        "degraded": degraded_by(state["degraded"], reply.degraded),
    }
