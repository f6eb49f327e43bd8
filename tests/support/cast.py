"""Scripted models in every role, and the real gateway, runner and policies around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from random import Random
from typing import Any

from agents.answers import KeptAnswer
from agents.models.adapter import LangChainModel
from agents.models.gateway import ModelGateway
from agents.models.limits import limits_of
from agents.models.port import ChatModel
from agents.models.scripted import Line, ScriptedChatModel
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.spec import AgentSpec
from agents.tracing import NullTracer, RunTrace, Span, SpanKind
from agents.understudy import Understudy
from agents.usage import Usage
from graphs.configuration import AS_USUAL, SupervisorConfiguration
from graphs.context import RunContext, RunScope
from graphs.routing import ANSWER_AT
from resilience.deadline import Deadline
from resilience.registry import PolicyRegistry
from tests.support.virtual_time import LoopClock


class CountingMeter:
    """Keeps the outcome of every attempt: (model, `ok` or the error's code)."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, str]] = []

    def model_called(self, *, provider: str, model: str, role: str, seconds: float, usage: Usage | None = None, error: str = "") -> None:
        self.attempts.append((model, error or "ok"))


class RecordingTracer(NullTracer):
    """Keeps what each span was opened with and told: (kind, name, updates)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, dict[str, Any]]] = []

    def run(self, run: RunTrace) -> AbstractContextManager[Span]:
        return self._open("run", run.name)

    def span(self, kind: SpanKind, name: str, *, input: Any = None) -> AbstractContextManager[Span]:
        return self._open(kind, name)

    def _open(self, kind: str, name: str) -> AbstractContextManager[Span]:
        told: dict[str, Any] = {}
        self.spans.append((kind, name, told))
        return _RecordedSpan(told)


class _RecordedSpan:
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def update(self, **known: Any) -> None:
        self._told.update(known)

    def __enter__(self) -> _RecordedSpan:
        return self

    def __exit__(self, *exc: object) -> None: ...


class Answers:
    """Keeps answers in a dictionary, by tenant and key."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], KeptAnswer] = {}

    async def find(self, tenant: str, key: str) -> KeptAnswer | None:
        return self.kept.get((tenant, key))

    def keep(self, tenant: str, key: str, answer: KeptAnswer) -> None:
        self.kept[tenant, key] = answer


class Cast:
    """Who plays: for each role the lines of its model, see `agents.models.scripted.Line`. Time is the running loop's.

    Args:
        lines: Role to lines. A role without lines must not be asked.
        chains: Role to models, instead of lines.
        specialists: Who there is; None: the product's own.
    """

    def __init__(
        self,
        lines: Mapping[str, Sequence[Line]],
        *,
        chains: Mapping[str, Sequence[ChatModel]] | None = None,
        specialists: Sequence[AgentSpec] | None = None,
    ) -> None:
        self.specialists = SpecialistRegistry.discover() if specialists is None else SpecialistRegistry(tuple(specialists))
        self.policies = PolicyRegistry(clock=LoopClock(), rng=Random(1))
        self.meter, self.tracer = CountingMeter(), RecordingTracer()
        self._models = {role: self._model(role, lines.get(role)) for role in {"routing", "reasoning", *self.specialists}}
        scripted = {role: (LangChainModel(model, name=f"m-{role}", provider="scripted"),) for role, model in self._models.items()}
        limits = limits_of({"routing": None, "reasoning": None, **self.specialists}, {})
        self.gateway = ModelGateway({**scripted, **(chains or {})}, self.policies, self.tracer, self.meter, limits)
        self.runner = AgentRunner(self.gateway, self.policies, self.tracer)
        self.answers = Answers()
        self.understudy = Understudy(self.answers, self.tracer, sure_at=ANSWER_AT)

    def prompts(self, role: str) -> list[list[Any]]:
        """Every prompt that the role's model was given."""
        return self._models[role].prompts

    def instructions(self, role: str, call: int = -1) -> str:
        """The system message of one of them."""
        return str(self.prompts(role)[call][0].text)

    def is_available(self, specialist: str) -> bool:
        """Whether the specialist's breaker lets calls through."""
        return self.policies.breaker(f"specialist:{specialist}").is_admitting

    def context(self, run_id: str = "run-1", seconds: float = 60.0, configuration: SupervisorConfiguration = AS_USUAL) -> RunContext:
        """The means of a run that has this long."""
        deadline = Deadline.after(seconds, LoopClock())
        return RunContext(
            RunScope(run_id, "default", deadline),
            self.specialists,
            self.is_available,
            self.runner,
            self.understudy,
            self.gateway,
            self.tracer,
            configuration,
        )

    def _model(self, role: str, lines: Sequence[Line] | None) -> ScriptedChatModel:
        return ScriptedChatModel(lines=[AssertionError(f"nobody was to ask {role}")] if lines is None else list(lines))
