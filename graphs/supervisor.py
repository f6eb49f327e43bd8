"""The supervisor graph, to be read as a drawing.

START → supervise ─┬→ <specialist> ─┬→ respond → END
          ↑        │   ↑      │     ├→ reflect ─→ <the same specialist>
          │        │   │      │     ├→ approve ⟲ ─→ <the same specialist>     (waits for a human)
          └────────┼───┼──────┘     └→ escalate
                   ├→ escalate → respond
                   └→ respond                                  (no specialist is available, and the help centre answers)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime

from agents.registry import SpecialistRegistry
from graphs.context import RunContext
from graphs.nodes.approve import approve
from graphs.nodes.delegate import delegate_to
from graphs.nodes.escalate import escalate
from graphs.nodes.reflect import reflect
from graphs.nodes.respond import respond
from graphs.nodes.supervise import supervise
from graphs.routing import USUAL, Thresholds, after_approve, after_reflect, after_specialist, after_supervise
from graphs.state import SupervisorInput, SupervisorOutput, SupervisorState

SupervisorGraph = StateGraph[SupervisorState, RunContext, SupervisorInput, SupervisorOutput]


def build_supervisor(specialists: SpecialistRegistry) -> SupervisorGraph:
    """The supervisor over `specialists`, not compiled yet."""
    names = list(specialists)
    graph = StateGraph(SupervisorState, context_schema=RunContext, input_schema=SupervisorInput, output_schema=SupervisorOutput)

    graph.add_node("supervise", supervise)
    for name in names:
        graph.add_node(name, delegate_to(name))
    graph.add_node("reflect", reflect)
    graph.add_node("approve", approve)
    graph.add_node("escalate", escalate)
    graph.add_node("respond", respond)

    graph.add_edge(START, "supervise")
    graph.add_conditional_edges("supervise", after_supervise, [*names, "escalate", "respond"])
    for name in names:
        graph.add_conditional_edges(name, _by_policy(after_specialist), ["supervise", "reflect", "approve", "escalate", "respond"])
    graph.add_conditional_edges("approve", after_approve, [*names, "approve"])
    graph.add_conditional_edges("reflect", _by_policy(after_reflect), [*names, "escalate", "respond"])
    graph.add_edge("escalate", "respond")
    graph.add_edge("respond", END)
    return graph


def _by_policy(route: Callable[[SupervisorState, Thresholds], str]) -> Callable[[SupervisorState], str]:
    """`route` by the thresholds of the run; a state that is written by hand belongs to no run, and the usual ones hold."""

    @wraps(route)
    def routed(state: SupervisorState) -> str:
        context: RunContext | None = getattr(get_runtime(RunContext), "context", None)
        return route(state, context.configuration.thresholds if context is not None else USUAL)

    return routed
