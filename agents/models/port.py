"""What we ask of a chat model, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage

from agents.usage import Usage
from resilience.context import CallContext, Standing


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question to a model.

    Args:
        role: Who asks: `routing`, `reasoning` or a specialist's name.
        messages: The prompt, system message first.
        tools: Functions it may call, as OpenAI-compatible descriptions.
        response_schema: JSON Schema that the text of the answer must follow; None: free text.
        schema_name: Name of that schema, `[a-zA-Z_]+`.
        is_visible: Whether the customer may see the tokens as they come.
        standing: Where the question belongs in a queue.
        fault: Says what is wrong with an answer, in words that a model can be told; "" if nothing is. None: any answer will do.
    """

    role: str
    messages: tuple[BaseMessage, ...]
    tools: tuple[dict[str, Any], ...] = ()
    response_schema: dict[str, Any] | None = None
    schema_name: str = "answer"
    is_visible: bool = False
    standing: Standing = field(default_factory=Standing)
    fault: Callable[[AIMessage], str] | None = None


@dataclass(frozen=True, slots=True)
class Degradation:
    """Something was done in a lesser way, and why; both are shown to the caller (docs/resilience/fallback.md has the words)."""

    what: str
    why: str


@dataclass(slots=True)
class Account:
    """What questions have cost and what was done in a lesser way for them, whether an answer came of it or not."""

    usage: Usage = field(default_factory=Usage)
    degraded: list[Degradation] = field(default_factory=list)

    def add(self, usage: Usage, degraded: Sequence[Degradation] = ()) -> None:
        """One more question, or a part of one."""
        self.usage += usage
        self.degraded += degraded


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A whole, usable answer.

    Args:
        message: The message, with tool calls if it made any; its id is the one that was streamed.
        usage: What it cost, unusable answers before it included.
        model: The model that answered.
        degraded: What was tried before in vain.
    """

    message: AIMessage
    usage: Usage
    model: str
    degraded: tuple[Degradation, ...] = field(default=())


class ChatModel(Protocol):
    """One model of one provider. Adapters translate the provider's errors into those of `agents.errors`."""

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        ...

    @property
    def provider(self) -> str:
        """Which endpoint serves it, for breakers and metrics: `openai`, `offline`, or a host."""
        ...

    async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
        """Answer once, without retrying.

        Calls `ctx.output.start()` before the first token that a customer can see.

        Raises:
            TransientError: It may work later (5xx, connection, timeout); `Throttled` for 429.
            PermanentError: It will not (our 4xx, exhausted quota), or what came is no answer (`OutputInvalid`).
        """
        ...
