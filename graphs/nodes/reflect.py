"""A second look at a draft that is neither good enough nor bad enough: once, with what is wrong in words."""

from __future__ import annotations

import json

from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.runtime import Runtime

from agents.models.port import Account, Degradation, ModelRequest
from agents.spec import load_prompt
from graphs.context import RunContext
from graphs.handoff import question
from graphs.state import SupervisorState, add_usage, degraded_by
from resilience.errors import DependencyError, ResilienceError

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
    request, account = ModelRequest("reasoning", prompt, standing=context.scope.standing()), Account()
    with context.tracer.span("chain", "reflect", input=draft["text"]) as span:
        try:
            reply = await context.gateway.complete(request, context.scope.deadline, account=account)
            critique = str(reply.message.text)
            span.update(output=critique)
        except (ResilienceError, DependencyError) as exc:
            critique = ""
            account.degraded.append(Degradation(what="reflection", why=exc.code))
            span.update(error=exc.code)
    return {
        "critique": critique,
        "usage": add_usage(state["usage"], account.usage),
        "degraded": degraded_by(state["degraded"], account.degraded),
    }
