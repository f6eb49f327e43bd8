"""The one way to a model: role → model, through the provider's pipeline, with the next model when that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage

from agents.models.port import ChatModel, Degradation, ModelReply, ModelRequest
from agents.tracing import Tracer
from agents.usage import Usage
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import DependencyError, ResilienceError
from resilience.events import EventKind, Listener, ResilienceEvent
from resilience.fallback import Alternative, Fallback
from resilience.pipeline import Pipeline

DEFAULT_ROLE = "reasoning"
"""Who answers for a role that has no model of its own."""
ATTEMPT_TIMEOUT = 7.0
"""Longest wait of one attempt for its first token, seconds. Less than what any caller leaves to its first model (8 s for a routing
decision): a hanging model must fail by its own timeout, or its breaker never hears of it."""


TRACED_MESSAGES = 3
"""How many messages of a prompt a trace shows; the whole conversation is in its run."""


class ModelPipelines(Protocol):
    """Where the gateway gets the pipeline around one model; shared by all runs of this process."""

    def provider_pipeline(self, dependency: str, *, timeout: float) -> Pipeline:
        """Deadline › retry › breaker › bulkhead › attempt timeout around the calls of one model."""
        ...

    @property
    def listener(self) -> Listener:
        """Hears of every fallback."""
        ...


class ModelMeter(Protocol):
    """Counts model calls."""

    def model_called(self, *, provider: str, model: str, role: str, seconds: float, usage: Usage | None = None, error: str = "") -> None:
        """A model call ended: with `usage`, or with `error`, the error's stable code."""
        ...


class ModelGateway:
    """Asks models on behalf of roles. Stateless apart from the shared pipelines.

    Args:
        chains: For each role the models to ask, in the order of preference; must have `reasoning`.
        pipelines: Guards each model.
        tracer: Records a span per request.
        meter: Counts every attempt.
    """

    def __init__(self, chains: Mapping[str, Sequence[ChatModel]], pipelines: ModelPipelines, tracer: Tracer, meter: ModelMeter) -> None:
        self._chains = {role: tuple(models) for role, models in chains.items()}
        self._listener = pipelines.listener
        self._tracer = tracer
        self._meter = meter
        dependencies = {dependency(model) for models in self._chains.values() for model in models}
        self._pipelines = {name: pipelines.provider_pipeline(name, timeout=ATTEMPT_TIMEOUT) for name in sorted(dependencies)}

    def models(self, role: str) -> tuple[ChatModel, ...]:
        """Who answers for `role`, in the order of preference."""
        return self._chains.get(role) or self._chains[DEFAULT_ROLE]

    def dependencies(self, role: str) -> tuple[str, ...]:
        """The dependencies that can answer for `role`, in the order of preference."""
        return tuple(dependency(model) for model in self.models(role))

    async def complete(self, request: ModelRequest, deadline: Deadline) -> ModelReply:
        """The answer of the first model that gives a usable one; `degraded` says what was tried before in vain.

        Raises:
            ResilienceError: Nobody could be asked, or nobody answered in time.
            DependencyError: The last model that was asked failed.
        """
        first, *others = self.models(request.role)
        degraded: list[Degradation] = []
        fallback = Fallback(
            *(Alternative(dependency(model), partial(self._ask, model, request)) for model in others),
            dependency=dependency(first),
            listener=self._note(degraded),
        )
        with self._tracer.span(
            "generation", f"model:{request.role}", input=[_traced(message) for message in request.messages[-TRACED_MESSAGES:]]
        ) as span:
            ctx = CallContext(dependency(first), deadline, idempotent=True, is_read_only=not request.is_visible, standing=request.standing)
            reply = await fallback.execute(partial(self._ask, first, request), ctx)
            span.update(output=_traced(reply.message), model=reply.model, usage=reply.usage)
        return replace(reply, degraded=tuple(degraded))

    async def _ask(self, model: ChatModel, request: ModelRequest, ctx: CallContext) -> ModelReply:
        return await self._pipelines[dependency(model)].execute(partial(self._attempt, model, request), ctx)

    async def _attempt(self, model: ChatModel, request: ModelRequest, ctx: CallContext) -> ModelReply:
        begun = time.perf_counter()
        count = partial(self._meter.model_called, provider=model.provider, model=model.name, role=request.role)
        try:
            reply = await model.complete(request, ctx)
        except (ResilienceError, DependencyError) as exc:
            count(seconds=time.perf_counter() - begun, error=exc.code)
            raise
        except asyncio.CancelledError:
            # By the attempt's timeout, or by the caller who left.
            count(seconds=time.perf_counter() - begun, error="cancelled")
            raise
        count(seconds=time.perf_counter() - begun, usage=reply.usage)
        return reply

    def _note(self, degraded: list[Degradation]) -> Callable[[ResilienceEvent], None]:
        def note(event: ResilienceEvent) -> None:
            if event.kind is EventKind.FALLBACK_TAKEN:
                degraded.append(Degradation(what=str(event.fields["from"]), why=str(event.fields["why"])))
            self._listener(event)

        return note


def _traced(message: BaseMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": message.type, "content": message.text}
    if isinstance(message, AIMessage) and message.tool_calls:
        shown["tool_calls"] = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
    return shown


def dependency(model: ChatModel) -> str:
    """The name under which a model's breaker and bulkhead are kept."""
    return f"model:{model.provider}/{model.name}"
