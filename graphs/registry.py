"""The graphs that this service offers, and what each needs of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from graphs.context import RunScope

_NAMESPACE = UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One graph.

    Args:
        graph_id: Its name.
        graph: Compiled, without a checkpointer: every run brings its own.
        accepts: Checks the input of a run.
        accepts_update: Checks a change of the state from outside.
        as_input: Makes the graph's input of either, once checked: plain data, the same however often it is used.
        shown: Keys of the state that callers see in `values`; None: all.
        recursion_limit: Most supersteps of a run.
        make_context: The run-scoped context.
        context_schema: What callers may say of a run or an assistant as `context`; None: nothing.
    """

    graph_id: str
    graph: CompiledStateGraph[Any, Any, Any, Any]
    accepts: type[BaseModel]
    accepts_update: type[BaseModel]
    as_input: Callable[[Any], dict[str, Any]]
    shown: tuple[str, ...] | None
    recursion_limit: int
    make_context: Callable[[RunScope], object]
    context_schema: type[BaseModel] | None = None

    @property
    def assistant_id(self) -> str:
        """Id of the graph's default assistant; the same rule as the reference server's, so that bookmarks stay valid."""
        return str(uuid5(_NAMESPACE, self.graph_id))
