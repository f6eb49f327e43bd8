"""Runs one specialist: prompt → model ⇄ tools → result."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolCall, ToolMessage
from pydantic import BaseModel

from agents import controls
from agents.controls import CALL_HUMAN, CONCLUDE, CONTROLS, HAND_BACK, Conclude
from agents.errors import AgentError, RepeatedToolCall, StepLimitReached
from agents.history import recent
from agents.models.gateway import ModelGateway
from agents.models.port import Account, ModelRequest
from agents.task import AgentResult, AgentTask, HandBack, HumanNeeded, Proposal, ToolUse
from agents.tools.base import Effect, Tool, ToolArgumentsInvalid, ToolContext, ToolError
from agents.tracing import Tracer
from resilience.context import CallContext, Standing
from resilience.deadline import Deadline
from resilience.errors import DependencyError, ResilienceError
from resilience.pipeline import Pipeline

GROUNDED = 0.8
"""Confidence of an answer whose specialist did not state one, when at least one tool found something, or a human decided."""
UNGROUNDED = 0.5
"""The same when none did: worth a second look (ADR-0013)."""
MODEL_SHARE = 0.9
"""Share of a specialist's time in which its models must have answered or begun to: they must give up first, or their hanging counts as
the specialist's."""
MAX_SAME_CALL = 3
"""Most calls of one tool with the same arguments for one message."""
_LANGUAGES = {"es": "Spanish", "en": "English"}


class SpecialistPipelines(Protocol):
    """Where the runner gets the pipelines around its work; their breakers are shared by all runs of this process."""

    def specialist_pipeline(self, name: str, timeout: float) -> Pipeline:
        """Around one specialist's whole work: deadline › breaker › bulkhead › timeout, no retry."""
        ...

    def tool_pipeline(self, name: str, timeout: float, *, is_idempotent: bool) -> Pipeline:
        """Around one tool call."""
        ...


@dataclass(slots=True)
class _Work:
    """What has been done so far for one message."""

    trail: list[BaseMessage] = field(default_factory=list)
    tool_uses: list[ToolUse] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    conclusion: Conclude | None = None

    def result(self, **outcome: Any) -> AgentResult:
        return AgentResult(
            **outcome,
            trail=tuple(self.trail),
            tool_uses=tuple(self.tool_uses),
            usage=self.account.usage,
            degraded=tuple(dict.fromkeys(self.account.degraded)),
        )


class AgentRunner:
    """Runs specialists. Stateless: one serves all runs of a process.

    Args:
        gateway: Asks the models.
        pipelines: Guards the specialists and their tools.
        tracer: Records a span per specialist and per tool call.
    """

    def __init__(self, gateway: ModelGateway, pipelines: SpecialistPipelines, tracer: Tracer) -> None:
        self._gateway = gateway
        self._pipelines = pipelines
        self._tracer = tracer

    async def run(self, task: AgentTask) -> AgentResult:
        """Work on the task until there is an answer, a hand-back, a call for a human or a failure.

        What was found and spent before a failure is part of the result. A failure is the code of a `ResilienceError` (the
        specialist's breaker is open, its bulkhead full, its time up), of a `DependencyError` (no model answered, or none
        usably) or of an `AgentError` (the specialist went round in circles).
        """
        work = _Work()
        pipeline = self._pipelines.specialist_pipeline(task.spec.name, task.spec.timeout)
        with self._tracer.span("agent", task.spec.name, input=task.history[-1].text) as span:
            try:
                result = await pipeline.execute(
                    lambda ctx: self._work(task, ctx, work),
                    CallContext(f"specialist:{task.spec.name}", task.deadline, standing=_among_equals(task)),
                )
            except (ResilienceError, DependencyError, AgentError) as exc:
                span.update(error=exc.code)
                return work.result(failure=exc.code)
            span.update(output=_summary(result))
        return result

    async def use_approved(self, task: AgentTask, call: ToolCall, arguments: dict[str, Any]) -> ToolUse:
        """Make the proposed `call`, with the `arguments` that a human has approved.

        The key is that of the call as it was proposed in the run `task.run_id`: made again after a crash, by whichever run and
        with whatever arguments, it is the same effect.
        """
        return await self._use(task, {**call, "args": arguments}, task.deadline, _idempotency_key(task, call))

    async def _work(self, task: AgentTask, ctx: CallContext, work: _Work) -> AgentResult:
        prompt = [SystemMessage(_instructions(task)), *recent(task.history)]
        deadline = ctx.deadline.within(task.spec.timeout * MODEL_SHARE)
        offered = (*(tool.schema() for tool in task.spec.tools), *controls.schemas())
        for _ in range(task.spec.max_steps):
            request = ModelRequest(
                task.spec.name, (*prompt, *work.trail), tools=offered, is_visible=task.is_streamed, standing=task.standing
            )
            # The specialist's time bounds the wait for the first word; an answer that flows has the run's, and its role's `total`.
            reply = await self._gateway.complete(request, deadline, ending=ctx.deadline, output=ctx.output, account=work.account)
            waiting = _waiting(task, reply.message)
            outcome = None if waiting else _outcome(task, reply.message, work)
            if outcome is not None:
                return outcome
            calls = [call for call in reply.message.tool_calls if call not in waiting]
            async with asyncio.TaskGroup() as group:  # a fault in one tool must not leave the others running
                running = [group.create_task(self._settle(task, call, ctx)) for call in calls]
            uses = [call.result() for call in running]
            work.tool_uses += [use for use in uses if use.tool not in CONTROLS]
            _refuse_repetition(task, work.tool_uses)
            results = [tool_message(str(reply.message.id), call, use) for call, use in zip(calls, uses, strict=True)]
            if waiting:
                summary = f"{', '.join(call['name'] for call in waiting)} needs a human's approval."
                return work.result(human=HumanNeeded("approval_required", summary, Proposal(reply.message, tuple(results))))
            # Providers refuse a tool call that no result follows, so a message goes in together with its results.
            work.trail += [reply.message, *results]
        raise StepLimitReached(f"{task.spec.name}: no answer after {task.spec.max_steps} model calls")

    async def _settle(self, task: AgentTask, call: ToolCall, ctx: CallContext) -> ToolUse:
        return _decided(task, call) or await self._use(task, call, ctx.deadline, _idempotency_key(task, call))

    async def _use(self, task: AgentTask, call: ToolCall, deadline: Deadline, key: str) -> ToolUse:
        """One call; what goes wrong is told to the model, which can ask differently or give up."""
        name, given = call["name"], call["args"]
        tool = CONTROLS.get(name) or next((tool for tool in task.spec.tools if tool.name == name), None)
        if tool is None:
            return ToolUse(name, given, error="tool_unknown")
        with self._tracer.span("tool", name, input=given) as span:
            try:
                arguments = tool.parse(given)
                if name in CONTROLS:
                    return ToolUse(name, given, result={"status": "noted; now write the answer to the customer"})
                context = ToolContext(task.customer.id, task.language, task.standing.tenant, deadline, key)
                pipeline = self._pipelines.tool_pipeline(name, tool.timeout, is_idempotent=tool.effect in (Effect.READ, Effect.IDEMPOTENT))
                result = await pipeline.execute(
                    lambda _: tool.run(arguments, context),
                    CallContext(f"tool:{name}", deadline, is_read_only=tool.effect is Effect.READ, standing=_among_equals(task)),
                )
            except (ToolError, ResilienceError, DependencyError) as exc:
                span.update(error=exc.code)
                return ToolUse(name, given, error=exc.code, result={"message": str(exc)} if isinstance(exc, ToolError) else None)
            span.update(output=result)
        return ToolUse(name, given, result=result)


def _among_equals(task: AgentTask) -> Standing:
    """The standing of a call where all calls belong to requests under way, so that none may pass the bound of the queue."""
    return replace(task.standing, is_under_way=False)


def _summary(result: AgentResult) -> Any:
    """What a trace shows of a result."""
    if result.answer is not None:
        return result.answer.text
    if result.human is not None:
        return {"reason": result.human.reason, "summary": result.human.summary}
    return asdict(result.hand_back) if result.hand_back else None


def _waiting(task: AgentTask, message: AIMessage) -> list[ToolCall]:
    """The calls that must not be made before a human says yes."""
    irreversible = {tool.name: tool for tool in task.spec.tools if tool.effect is Effect.IRREVERSIBLE}
    return [
        call
        for call in message.tool_calls
        if (tool := irreversible.get(call["name"])) and _parsed(tool, call) is not None and _decided(task, call) is None
    ]


def _decided(task: AgentTask, call: ToolCall) -> ToolUse | None:
    return next((use for use in task.decided if (use.tool, use.arguments) == (call["name"], call["args"])), None)


def _outcome(task: AgentTask, message: AIMessage, work: _Work) -> AgentResult | None:
    """What the message ends the work with; None: it goes on."""
    ending: dict[str, Any] = {}
    for call in message.tool_calls:
        control = CONTROLS.get(call["name"])
        # Arguments that do not fit are told to the model like those of any tool.
        if control is not None and (arguments := _parsed(control, call)) is not None:
            ending[control.name] = arguments
    if HAND_BACK.name in ending:
        return work.result(hand_back=HandBack(ending[HAND_BACK.name].reason, ending[HAND_BACK.name].suggestion))
    if CALL_HUMAN.name in ending:
        return work.result(human=HumanNeeded("specialist_asked", ending[CALL_HUMAN.name].reason))
    work.conclusion = ending.get(CONCLUDE.name, work.conclusion)
    if not message.text.strip() or any(call["name"] not in ending for call in message.tool_calls):
        return None
    conclusion = work.conclusion or Conclude(confidence=GROUNDED if task.decided or any(map(_found, work.tool_uses)) else UNGROUNDED)
    answer = AIMessage(message.text, id=message.id)
    return work.result(answer=answer, confidence=conclusion.confidence, sources=tuple(conclusion.sources))


def _found(use: ToolUse) -> bool:
    """Whether the tool had something to say; an empty list is an answer too, but no ground to stand on."""
    return use.error is None and any((use.result or {}).values())


def _parsed(tool: Tool, call: ToolCall) -> BaseModel | None:
    try:
        return tool.parse(call["args"])
    except ToolArgumentsInvalid:
        return None


def _refuse_repetition(task: AgentTask, uses: Sequence[ToolUse]) -> None:
    counts = Counter((use.tool, json.dumps(use.arguments, sort_keys=True)) for use in uses)
    for (tool, _), count in counts.items():
        if count >= MAX_SAME_CALL:
            raise RepeatedToolCall(f"{task.spec.name}: {tool} with the same arguments {count} times")


def _idempotency_key(task: AgentTask, call: ToolCall) -> str:
    """The same for the same call of the same run, whoever makes it and however often."""
    return f"{task.run_id}:{call['name']}:{json.dumps(call['args'], sort_keys=True)}"


def tool_message(message_id: str, call: ToolCall, use: ToolUse) -> ToolMessage:
    """What came of a call of the message `message_id`, as models are shown it."""
    content = use.result if use.error is None else {"error": use.error, **(use.result or {})}
    return ToolMessage(
        json.dumps(content, ensure_ascii=False),
        tool_call_id=str(call["id"]),
        name=use.tool,
        status="success" if use.error is None else "error",
        id=f"{message_id}:{call['id']}",
    )


def _instructions(task: AgentTask) -> str:
    spec, customer = task.spec, task.customer
    parts = [
        spec.prompt,
        f"Yours: {', '.join(spec.categories)}.",
        f"Not yours: {', '.join(spec.out_of_scope) or 'nothing'}.",
        f"Call a human when {spec.escalate_when}.",
        f"Answer in {_LANGUAGES[task.language]}.",
        f"Customer: {'identified' if customer.id else 'not identified'}, tier {customer.tier}.",
    ]
    if task.critique:
        parts += [f"Your draft: {task.draft}", f"Critique of the draft: {task.critique}"]
    return "\n".join(parts)
