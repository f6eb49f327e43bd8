"""The one way to a model: role → model, through the provider's pipeline, with a repair or the next model when that fails."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agents.errors import OutputInvalid
from agents.models.limits import ModelLimits
from agents.models.offline import OFFLINE
from agents.models.port import Account, ChatModel, Degradation, ModelReply, ModelRequest
from agents.tracing import Tracer
from agents.usage import Usage
from resilience.context import CallContext, Output, Priority
from resilience.deadline import Deadline
from resilience.errors import DependencyError, ResilienceError
from resilience.events import EventKind, Listener, ResilienceEvent
from resilience.fallback import Alternative, Fallback
from resilience.pipeline import Pipeline
from resilience.registry import PolicyName

DEFAULT_ROLE = "reasoning"
"""Who answers for a role that has no model of its own."""
CHARACTERS_PER_TOKEN = 4
"""How many characters of a prompt are about one token; OpenAI's own rule of thumb for English, and for Spanish it is a little less."""
TRACED_MESSAGES = 3
"""How many messages of a prompt a trace shows; the whole conversation is in its run."""
REPAIRABLE = frozenset({"garbage", "empty", "cut"})
"""Reasons of `OutputInvalid` for which asking the same model once more may help. One that refused has made up its mind."""


class ModelPipelines(Protocol):
    """Where the gateway gets the pipeline around one model; shared by all runs of this process."""

    def provider_pipeline(self, dependency: str, *, timeout: float) -> Pipeline:
        """Deadline › retry › hedge › (rate limit ›) breaker › bulkhead › attempt timeout around the calls of one model."""
        ...

    def is_on(self, policy: PolicyName) -> bool:
        """Whether `policy` has not been switched off."""
        ...

    @property
    def listener(self) -> Listener:
        """Hears of every fallback and of every repair."""
        ...


class ModelMeter(Protocol):
    """Counts model calls."""

    def model_called(self, *, provider: str, model: str, role: str, seconds: float, usage: Usage | None = None, error: str = "") -> None:
        """A model call ended: with `usage`, or with `error`, the error's stable code; with both if what it cost is known all the same."""
        ...


@dataclass(slots=True)
class _Question:
    """One request on its way through the models.

    Args:
        request: What is asked.
        account: What it has cost so far.
        repaired: What the first answer lacked that was asked for again; "": none was.
    """

    request: ModelRequest
    account: Account = field(default_factory=Account)
    repaired: str = ""


class ModelGateway:
    """Asks models on behalf of roles. Stateless apart from the shared pipelines.

    Args:
        chains: For each role the models to ask, in the order of preference; must have `reasoning`.
        pipelines: Guards each model.
        tracer: Records a span per request.
        meter: Counts every attempt.
        limits: How long each role waits; one that is missing waits as a specialist does.
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[ChatModel]],
        pipelines: ModelPipelines,
        tracer: Tracer,
        meter: ModelMeter,
        limits: Mapping[str, ModelLimits] | None = None,
    ) -> None:
        has_others = pipelines.is_on(PolicyName.FALLBACK)
        self._chains = {role: tuple(models) if has_others else (models[0],) for role, models in chains.items()}
        self._is_repairing = pipelines.is_on(PolicyName.REPAIR)
        self._provider_pipeline = pipelines.provider_pipeline
        self._listener = pipelines.listener
        self._tracer = tracer
        self._meter = meter
        self._limits = dict(limits or {})
        # One for each model and wait, over the breaker and the bulkhead that all of the model's pipelines share.
        self._pipelines: dict[tuple[str, float], Pipeline] = {}
        for role in self._chains:
            for model in self.models(role):
                self._pipeline(model, role)

    def models(self, role: str) -> tuple[ChatModel, ...]:
        """Who answers for `role`, in the order of preference."""
        return self._chains.get(role) or self._chains[DEFAULT_ROLE]

    def dependencies(self, role: str) -> tuple[str, ...]:
        """The dependencies that can answer for `role`, in the order of preference."""
        return tuple(dependency(model) for model in self.models(role))

    def limits(self, role: str) -> ModelLimits:
        """How long `role` waits."""
        return self._limits.get(role) or ModelLimits()

    async def complete(
        self,
        request: ModelRequest,
        deadline: Deadline,
        *,
        ending: Deadline | None = None,
        output: Output | None = None,
        account: Account | None = None,
    ) -> ModelReply:
        """The answer of the first model that gives a usable one; `degraded` says what was tried before in vain.

        An unusable answer that nobody has seen is asked for again once per request, from the same model and with its fault in the prompt.

        Args:
            request: What is asked.
            deadline: By when the answer must be there, or have begun if it is streamed.
            ending: By when a streamed answer must be whole; None: by `deadline`.
            output: Starts with the first token that somebody can read.
            account: Is charged with the cost and told what was degraded, also when nobody answers.

        Raises:
            ResilienceError: Nobody could be asked, or nobody answered in time.
            DependencyError: The last model that was asked failed.
        """
        first, *others = self.models(request.role)
        # A batch has all of its time, since it waits for its turn behind everybody else.
        total = math.inf if request.standing.priority is Priority.BATCH else self.limits(request.role).total
        question = _Question(request)
        fallback = Fallback(
            *(
                Alternative(dependency(model), partial(self._ask, model, question), is_as_good=model.provider != OFFLINE)
                for model in others
            ),
            dependency=dependency(first),
            listener=partial(self._note, question),
        )
        ctx = CallContext(
            dependency(first),
            deadline.within(total),
            idempotent=True,
            is_read_only=not request.is_visible,
            standing=request.standing,
            weigh=partial(prompt_tokens, request),
            ending=(ending or deadline).within(total),
        )
        if output is not None:
            ctx.output.on_start(output.start)
        with self._tracer.span(
            "generation", f"model:{request.role}", input=[_traced(message) for message in request.messages[-TRACED_MESSAGES:]]
        ) as span:
            try:
                reply = await fallback.execute(partial(self._ask, first, question), ctx)
                span.update(output=_traced(reply.message), model=reply.model)
            finally:
                span.update(usage=question.account.usage, metadata=_told(question) or None)
                if account is not None:
                    account.add(question.account.usage, question.account.degraded)
        return replace(reply, usage=question.account.usage, degraded=tuple(question.account.degraded))

    async def _ask(self, model: ChatModel, question: _Question, ctx: CallContext) -> ModelReply:
        """One model's answer, repaired if that is called for. Judged outside the pipeline: what does not fit is no outage."""
        execute = partial(self._pipeline(model, question.request.role).execute, ctx=ctx)
        try:
            return _fitting(await execute(partial(self._attempt, model, question, question.request)), question.request)
        except OutputInvalid as exc:
            may_repair = self._is_repairing and not question.repaired and exc.reason in REPAIRABLE
            if not may_repair or ctx.output.has_started or ctx.deadline.is_over:
                raise
            question.repaired = exc.reason
            self._listener(ResilienceEvent(EventKind.OUTPUT_REPAIRED, ctx.operation, dependency(model), {"why": exc.reason}))
            request = _asking_again(question.request, exc.detail)
        return _fitting(await execute(partial(self._attempt, model, question, request)), request)

    async def _attempt(self, model: ChatModel, question: _Question, request: ModelRequest, ctx: CallContext) -> ModelReply:
        begun = time.perf_counter()
        count = partial(self._meter.model_called, provider=model.provider, model=model.name, role=request.role)
        try:
            reply = await model.complete(request, ctx)
        except (ResilienceError, DependencyError) as exc:
            usage = exc.usage if isinstance(exc, OutputInvalid) else None
            count(seconds=time.perf_counter() - begun, error=exc.code, usage=usage)
            if usage is not None:
                question.account.add(usage)
            raise
        except asyncio.CancelledError:
            # By the attempt's timeout, or by the caller who left.
            count(seconds=time.perf_counter() - begun, error="cancelled")
            raise
        count(seconds=time.perf_counter() - begun, usage=reply.usage)
        question.account.add(reply.usage)
        return reply

    def _pipeline(self, model: ChatModel, role: str) -> Pipeline:
        key = dependency(model), self.limits(role).first_token
        if key not in self._pipelines:
            name, seconds = key
            self._pipelines[key] = self._provider_pipeline(name, timeout=seconds)
        return self._pipelines[key]

    def _note(self, question: _Question, event: ResilienceEvent) -> None:
        if event.kind is EventKind.FALLBACK_TAKEN:
            question.account.degraded.append(Degradation(what=str(event.fields["from"]), why=str(event.fields["why"])))
        self._listener(event)


def _fitting(reply: ModelReply, request: ModelRequest) -> ModelReply:
    fault = request.fault(reply.message) if request.fault is not None else ""
    if fault:
        raise OutputInvalid("garbage", fault)
    return reply


def _asking_again(request: ModelRequest, fault: str) -> ModelRequest:
    form = "with the JSON only" if request.response_schema is not None else "in full"
    return replace(request, messages=(*request.messages, HumanMessage(f"Your answer was not usable: {fault}. Answer again, {form}.")))


def _told(question: _Question) -> dict[str, Any]:
    """What a trace says about the way to the answer."""
    told: dict[str, Any] = {"repaired": question.repaired} if question.repaired else {}
    if question.account.degraded:
        told["degraded"] = [f"{entry.what}: {entry.why}" for entry in question.account.degraded]
    return told


def _traced(message: BaseMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": message.type, "content": message.text}
    if isinstance(message, AIMessage) and message.tool_calls:
        shown["tool_calls"] = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
    return shown


def dependency(model: ChatModel) -> str:
    """The name under which a model's breaker and bulkhead are kept."""
    return f"model:{model.provider}/{model.name}"


def prompt_tokens(request: ModelRequest) -> int:
    """About how many tokens the prompt has, functions and schema included."""
    texts = [*(message.text for message in request.messages), str(request.tools or ""), str(request.response_schema or "")]
    return sum(map(len, texts)) // CHARACTERS_PER_TOKEN
