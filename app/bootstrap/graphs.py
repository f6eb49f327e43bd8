"""The graphs that the service offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agents.registry import SpecialistRegistry
from graphs.configuration import configuration_over
from graphs.conformance import RECURSION_LIMIT as CONFORMANCE_STEPS
from graphs.conformance import build_conformance
from graphs.context import RunContext, RunScope
from graphs.input import SupervisorRequest, SupervisorUpdate
from graphs.registry import GraphEntry
from graphs.routing import RECURSION_LIMIT
from graphs.supervisor import build_supervisor

SUPERVISOR, CONFORMANCE = "supervisor", "conformance"


def build_graphs(
    specialists: SpecialistRegistry, make_context: Callable[[RunScope], RunContext], *, has_conformance: bool
) -> Mapping[str, GraphEntry]:
    """The graphs that the service offers, compiled, by id."""
    graphs = {
        SUPERVISOR: GraphEntry(
            graph_id=SUPERVISOR,
            graph=build_supervisor(specialists).compile(name=SUPERVISOR),
            accepts=SupervisorRequest,
            accepts_update=SupervisorUpdate,
            as_input=SupervisorUpdate.as_input,
            shown=("messages", "answer", "specialist", "confidence", "sources", "escalation", "degraded", "usage"),
            recursion_limit=RECURSION_LIMIT,
            make_context=make_context,
            context_schema=configuration_over(specialists),
        )
    }
    if has_conformance:
        graphs[CONFORMANCE] = GraphEntry(
            graph_id=CONFORMANCE,
            graph=build_conformance().compile(name=CONFORMANCE),
            accepts=SupervisorRequest,
            accepts_update=SupervisorUpdate,
            as_input=SupervisorUpdate.as_input,
            shown=None,
            recursion_limit=CONFORMANCE_STEPS,
            make_context=lambda scope: None,
        )
    return graphs
