"""The three functions with which a specialist ends its work; the runner offers and understands them, nobody runs them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from agents.tools.base import Effect, Tool, ToolContext, ToolResult


class Conclude(BaseModel):
    """Arguments of `conclude`."""

    confidence: float = Field(ge=0.0, le=1.0, description="How sure you are that the answer is right and complete, 0 to 1.")
    sources: list[str] = Field(default_factory=list, description="Ids of the articles and records that the answer rests on.")


class GiveBack(BaseModel):
    """Arguments of `hand_back`."""

    reason: str = Field(min_length=1, description="Why the question is not yours.")
    suggestion: str | None = Field(None, description="The specialist whose question it is, if you know.")


class CallHuman(BaseModel):
    """Arguments of `call_human`."""

    reason: str = Field(min_length=1, description="Why a human must act.")


async def _never(args: BaseModel, ctx: ToolContext) -> ToolResult:
    raise AssertionError("control functions are not run")


def _control(name: str, description: str, arguments: type[BaseModel]) -> Tool:
    return Tool(name, description, arguments, Effect.READ, 0.0, _never)


CONCLUDE = _control("conclude", "Say how sure you are. Call it in the same message as your answer to the customer.", Conclude)
HAND_BACK = _control("hand_back", "Return the question to the supervisor because it is not yours.", GiveBack)
CALL_HUMAN = _control("call_human", "Call a human because you must not or cannot settle this.", CallHuman)
CONTROLS = {control.name: control for control in (CONCLUDE, HAND_BACK, CALL_HUMAN)}


def schemas() -> tuple[dict[str, Any], ...]:
    """The three as function descriptions."""
    return tuple(control.schema() for control in CONTROLS.values())
