"""A model that says what it is told to: for tests, demonstrations and exercises."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr

from agents.models.adapter import LangChainModel

Line = str | AIMessage | Exception | Callable[[list[BaseMessage]], "str | AIMessage"]
"""One answer: text, a message (with tool calls), an error to raise, or a function of the prompt."""


class ScriptedChatModel(BaseChatModel):
    """Plays its lines in order, the last one for ever; keeps the prompts it was given in `prompts`.

    Args:
        lines: What it says; see `Line`.
    """

    lines: list[Any]
    _next: int = PrivateAttr(default=0)
    _prompts: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def prompts(self) -> list[list[BaseMessage]]:
        """Every prompt so far, oldest first."""
        return self._prompts

    def _say(self, messages: list[BaseMessage]) -> AIMessage:
        self._prompts.append(messages)
        line: Line = self.lines[min(self._next, len(self.lines) - 1)]
        self._next += 1
        if isinstance(line, Exception):
            raise line
        said = line(messages) if callable(line) else line
        message = said if isinstance(said, AIMessage) else AIMessage(said)
        read, written = sum(len(m.text.split()) for m in messages), max(1, len(message.text.split()))
        return message.model_copy(
            update={
                "usage_metadata": {"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
                "response_metadata": {"model_name": "scripted", "finish_reason": "stop"},
            }
        )

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._say(messages))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        message = self._say(messages)
        for i, word in enumerate(message.text.split(" ") if message.text else []):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word if i == 0 else f" {word}"))
            yield chunk
        calls = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": i, "type": "tool_call_chunk"}
            for i, call in enumerate(message.tool_calls)
        ]
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                tool_call_chunks=calls,
                chunk_position="last",
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
            )
        )


def scripted_model(*lines: Line, name: str = "scripted") -> LangChainModel:
    """A `ChatModel` that plays `lines`."""
    return LangChainModel(ScriptedChatModel(lines=list(lines)), name=name, provider="scripted")


def calls(*wanted: tuple[str, dict[str, Any]], text: str = "") -> AIMessage:
    """A message that calls tools: `calls(("find_order", {"order_id": "…"}))`."""
    return AIMessage(
        text,
        tool_calls=[{"name": name, "args": args, "id": f"call-{i}-{name}", "type": "tool_call"} for i, (name, args) in enumerate(wanted)],
    )


def says(routing: dict[str, Any] | Sequence[Any]) -> str:
    """The JSON text of a structured answer."""
    return json.dumps(routing, ensure_ascii=False)
