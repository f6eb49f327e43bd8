"""What works for one run: handed in at the start of the run, never checkpointed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.models.gateway import ModelGateway
from agents.registry import SpecialistRegistry
from agents.runner import AgentRunner
from agents.tracing import Tracer
from agents.understudy import Understudy
from graphs.configuration import AS_USUAL, SupervisorConfiguration
from resilience.context import Priority, Standing
from resilience.deadline import Deadline


@dataclass(frozen=True, slots=True)
class RunScope:
    """What a run is to the things that work for it.

    Args:
        run_id: The run's id; stable over its attempts.
        tenant: Whose run it is.
        deadline: When the nodes must have an answer; a little before the run's own, so that the last word can be said.
        priority: How urgent it is.
        is_streamed: Whether somebody may read its tokens as they come.
        configuration: What the run's context says, checked by the graph's `context_schema`; None: the graph has none.
    """

    run_id: str
    tenant: str
    deadline: Deadline
    priority: Priority = Priority.DEFAULT
    is_streamed: bool = True
    configuration: object = None

    def standing(self, *, is_under_way: bool = True) -> Standing:
        """Where a call of this run belongs in a queue."""
        return Standing(self.tenant, self.priority, is_under_way, self.run_id)


@dataclass(frozen=True, slots=True)
class RunContext:
    """The means of one run.

    Args:
        scope: The run.
        specialists: Who there is.
        is_available: Whether a specialist's breaker lets calls through.
        runner: Runs a specialist.
        understudy: Steps in for a specialist that fails.
        gateway: Asks a model.
        tracer: Records spans.
        configuration: What the run's assistant, or its caller, wants to be otherwise.
    """

    scope: RunScope
    specialists: SpecialistRegistry
    is_available: Callable[[str], bool]
    runner: AgentRunner
    understudy: Understudy
    gateway: ModelGateway
    tracer: Tracer
    configuration: SupervisorConfiguration = AS_USUAL

    @property
    def offered(self) -> list[str]:
        """The specialists that may be asked in this run, whether they can be reached or not."""
        return [name for name in self.specialists if self.configuration.allows(name)]
