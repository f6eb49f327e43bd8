"""The chat model that needs no provider."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from agents.models.offline.conversation import Turn
from agents.models.offline.critic import critique
from agents.models.offline.router import Router
from agents.models.offline.specialist import work

_PIECE = re.compile(r"\S+\s*|\s+")


class OfflineChatModel(BaseChatModel):
    """Answers without a provider: routes by rules and weights, answers from what the tools return, and says so.

    The same prompt always gives the same answer, in one piece or word by word; nothing is kept between calls.

    Args:
        role: Who asks: `routing`, `reasoning`, or a specialist's name.
        model_name: What traces and usage call it.
        delay: Pause before each streamed word, seconds; 0: none. Only a demonstration wants one.
    """

    role: str
    model_name: str = "offline"
    delay: float = Field(default=0.0, ge=0.0)

    @property
    def _llm_type(self) -> str:
        return "offline"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_model_name"] = self.model_name
        params["ls_provider"] = "offline"
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with `tools` offered; it calls no others."""
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, **kwargs))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, **kwargs))])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = self._reply(messages, **kwargs)
        for piece in _PIECE.findall(reply.text):
            # Zero still yields to the event loop, so that one long answer does not hold up the other streams.
            await asyncio.sleep(self.delay)
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"], ensure_ascii=False), id=call["id"], index=i)
            for i, call in enumerate(reply.tool_calls)
        ]
        last = AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            chunk_position="last",
            usage_metadata=reply.usage_metadata,
            response_metadata=reply.response_metadata,
        )
        yield ChatGenerationChunk(message=last)

    def _reply(
        self, messages: list[BaseMessage], *, tools: Sequence[dict[str, Any]] = (), response_format: dict[str, Any] | None = None, **_: Any
    ) -> AIMessage:
        turn = Turn.read(messages)
        if self.role == "routing":
            reply = AIMessage(Router.bundled().decide(turn, _offered_specialists(response_format)).as_json())
        elif self.role == "reasoning":
            reply = AIMessage(critique(messages))
        else:
            reply = work(turn, self.role, frozenset(tool["function"]["name"] for tool in tools))
        read = sum(len(m.text.split()) for m in messages)
        written = len(reply.text.split()) + sum(len(str(call["args"]).split()) for call in reply.tool_calls)
        reply.usage_metadata = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        finish = "tool_calls" if reply.tool_calls else "stop"
        reply.response_metadata = {"model_name": self.model_name, "finish_reason": finish, "model_provider": "offline"}
        return reply


def _offered_specialists(response_format: dict[str, Any] | None) -> list[str]:
    """The specialists that the answer's schema allows, in its order; none if there is no such schema."""
    schema = ((response_format or {}).get("json_schema") or {}).get("schema") or {}
    return list((schema.get("properties") or {}).get("specialist", {}).get("enum") or [])
