"""Any LangChain chat model behind our port; its errors become our kinds here and nowhere else."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import openai
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelError, ModelRateLimitError
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, merge_configs

from agents.errors import ModelRejectedRequest, ModelThrottled, ModelTimedOut, ModelUnavailable, OutputInvalid, QuotaExhausted, StreamBroken
from agents.models.port import ModelReply, ModelRequest
from agents.models.prices import cost_usd
from agents.usage import Usage
from resilience.context import CallContext, Output
from resilience.errors import DependencyError

NO_STREAM = "nostream"
"""LangGraph's tag for calls whose tokens stay inside."""
CUT = "it reached the token limit before its end, so it must be shorter"
"""What a model is told whose answer was too long."""


class LangChainModel:
    """One LangChain chat model as a `ChatModel`.

    Args:
        model: The model; its own retries must be off.
        name: Its name at the provider.
        provider: Which endpoint serves it.
        arguments: Go along with every call.
        longest_gap: Longest wait between two pieces of a stream, seconds.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        name: str,
        provider: str,
        arguments: Mapping[str, Any] | None = None,
        longest_gap: float | None = None,
    ) -> None:
        self._model = model
        self._name = name
        self._provider = provider
        self._arguments = dict(arguments or {})
        self._longest_gap = longest_gap

    @property
    def name(self) -> str:
        """The model's name at its provider."""
        return self._name

    @property
    def provider(self) -> str:
        """Which endpoint serves it."""
        return self._provider

    async def complete(self, request: ModelRequest, ctx: CallContext) -> ModelReply:
        """See `ChatModel.complete`."""
        try:
            async with asyncio.timeout(None) as gap:
                config = _config(request, _Pieces(ctx.output, gap, self._longest_gap))
                message = await self._model.ainvoke(list(request.messages), config, **self._arguments, **_arguments(request))
        except DependencyError:
            raise
        except Exception as exc:
            ours = _translate(exc, ctx.output)
            if ours is None:
                raise
            raise ours from exc
        usage = self._usage(message)
        _check(message, usage)
        return ModelReply(message, usage, self._name)

    def _usage(self, message: AIMessage) -> Usage:
        used = message.usage_metadata
        if used is None:
            return Usage()
        tokens = used["input_tokens"], used["output_tokens"]
        return Usage(*tokens, cost_usd(self._provider, self._name, *tokens))


class _Pieces(BaseCallbackHandler):
    """Follows a stream: starts the output with the first token that has text (tool calls are not shown before they are whole), and gives
    each piece so many seconds after the one before.

    LangChain's own limit wraps each piece in `asyncio.wait_for`, which makes a task of it and on Python 3.11 can lose a cancellation: the
    stream would then go on past its limits and without its reader.
    """

    run_inline = True

    def __init__(self, output: Output, gap: asyncio.Timeout, longest: float | None) -> None:
        self._output = output
        self._gap = gap
        self._longest = longest

    def on_llm_new_token(self, token: str | list[Any], *, run_id: UUID, **kwargs: Any) -> None:
        if token:
            self._output.start()
        if self._longest is not None and not self._gap.expired():
            self._gap.reschedule(asyncio.get_running_loop().time() + self._longest)


def _config(request: ModelRequest, pieces: _Pieces) -> RunnableConfig:
    own: RunnableConfig = {"callbacks": [pieces]} if request.is_visible else {"tags": [NO_STREAM]}
    # `ainvoke` replaces the callbacks it inherits from the node, and with them the node's token stream: merge first.
    return merge_configs(ensure_config(), own)


def _arguments(request: ModelRequest) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if request.tools:
        arguments["tools"] = list(request.tools)
    if request.response_schema is not None:
        arguments["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": request.schema_name, "schema": request.response_schema, "strict": True},
        }
    if not request.is_visible:
        arguments["stream"] = False
    return arguments


def _check(message: AIMessage, usage: Usage) -> None:
    finish = message.response_metadata.get("finish_reason")
    if message.additional_kwargs.get("refusal") or finish == "content_filter":
        raise OutputInvalid("refused", "the model would not answer", usage)
    if finish == "length":
        raise OutputInvalid("cut", CUT, usage)
    if message.invalid_tool_calls:
        raise OutputInvalid("garbage", f"the arguments of {message.invalid_tool_calls[0].get('name')} are not JSON", usage)
    if not message.tool_calls and not message.text.strip():
        raise OutputInvalid("empty", "it had no text and no tool call", usage)
    if finish is None:
        raise OutputInvalid("cut", "it ended without a finish reason", usage)


def _translate(exc: Exception, output: Output) -> DependencyError | None:
    """The error of ours that `exc` means; None: it is not the provider's."""
    if output.has_started:
        return StreamBroken(f"the stream broke after its first token: {type(exc).__name__}")
    if isinstance(exc, openai.RateLimitError | ModelRateLimitError):
        if getattr(exc, "code", None) == "insufficient_quota":
            return QuotaExhausted("the provider account has no quota left")
        return ModelThrottled("the provider answered 429", retry_after=_retry_after(exc))
    # An API timeout is also a connection error, so it goes first; TimeoutError is the gap between two chunks.
    if isinstance(exc, openai.APITimeoutError | TimeoutError):
        return ModelTimedOut("the provider did not answer in time")
    if isinstance(exc, openai.APIResponseValidationError):
        return OutputInvalid("garbage", "the provider's answer is not a completion")
    if isinstance(exc, openai.APIStatusError):
        if exc.status_code >= 500 or exc.status_code in (408, 409):
            return ModelUnavailable(f"the provider answered {exc.status_code}", retry_after=_retry_after(exc))
        return ModelRejectedRequest(f"the provider refused the request with {exc.status_code}")
    if isinstance(exc, openai.APIConnectionError):
        return ModelUnavailable("the provider is out of reach")
    if isinstance(exc, openai.APIError):
        return ModelUnavailable("the provider reported an error inside the stream")
    if isinstance(exc, ModelError):
        return ModelUnavailable(type(exc).__name__) if exc.is_retryable else ModelRejectedRequest(type(exc).__name__)
    if isinstance(exc, OSError):
        return ModelUnavailable(type(exc).__name__)
    if isinstance(exc, ValueError | TypeError | KeyError | IndexError | AttributeError):
        # What the client library stumbles over when a 200 carries something else than a completion.
        return OutputInvalid("garbage", f"the provider's answer is not a completion ({type(exc).__name__})")
    return None


def _retry_after(exc: Exception) -> float | None:
    """Seconds that the provider asked us to wait; None: it did not, or not in a way that makes sense."""
    headers = getattr(getattr(exc, "response", None), "headers", {})
    # The first is the more exact of the two that OpenAI-compatible providers send.
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit
            if math.isfinite(seconds) and seconds >= 0.0:
                return seconds
    until = _date(headers.get("retry-after"))
    if until is None:
        return None
    # Against the provider's own clock, since ours may differ from it by more than the wait.
    return max(0.0, (until - (_date(headers.get("date")) or datetime.now(UTC))).total_seconds())


def _date(text: str | None) -> datetime | None:
    """An HTTP date (RFC 9110, section 5.6.7)."""
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
