"""What can be seen of a graph from outside: its drawing, its schemas, its subgraphs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from graphs.registry import GraphEntry

Schema = dict[str, Any]
_KEPT = 64
"""How many drawings and schemas are kept; making one takes up to a tenth of a second."""


class GraphDrawings:
    """Shows graphs. Stateless but for what it has shown before: a graph never changes in the life of a process.

    Args:
        graphs: The graphs, by id.
    """

    def __init__(self, graphs: Mapping[str, GraphEntry]) -> None:
        self._graphs = graphs
        self.drawing = lru_cache(_KEPT, typed=True)(self._drawing)  # a depth of 1 is not `true`
        self.schemas = lru_cache(_KEPT)(self._schemas)
        self.subgraphs = lru_cache(_KEPT)(self._subgraphs)

    def _drawing(self, graph_id: str, xray: int | bool) -> dict[str, Any]:
        """Nodes and edges of the graph; with `xray` those of its subgraphs instead of each subgraph, down to that depth."""
        drawing = self._graphs[graph_id].graph.get_graph(xray=xray).to_json()
        for node in drawing["nodes"]:
            if isinstance(node.get("data"), dict):
                node["data"].pop("id", None)  # names modules of ours
        return drawing

    def _schemas(self, graph_id: str) -> dict[str, Any]:
        """JSON Schemas of what goes into the graph, comes out, is remembered, and may be said as context; null where there is none."""
        entry = self._graphs[graph_id]
        context = _schema(entry.context_schema) if entry.context_schema is not None else None
        shown = {**_of_graph(entry.graph, graph_id), "input_schema": _schema(entry.accepts)}
        return {**shown, "config_schema": context, "context_schema": context}

    def _subgraphs(self, graph_id: str, namespace: str | None, recurse: bool) -> dict[str, dict[str, Any]]:
        """The same of the graph's subgraphs by namespace; with a namespace only that one, with `recurse` those inside too."""
        found = self._graphs[graph_id].graph.get_subgraphs(namespace=namespace, recurse=recurse)
        return {name: _of_graph(subgraph, graph_id) for name, subgraph in found}


def _of_graph(graph: Any, graph_id: str) -> dict[str, Any]:
    builder = getattr(graph, "builder", None)
    kinds = {kind: getattr(builder, kind, None) for kind in ("input_schema", "output_schema", "state_schema")}
    schemas = {kind: _schema(schema) if schema is not None else None for kind, schema in kinds.items()}
    return {"graph_id": graph_id, **schemas, "config_schema": None, "context_schema": None}


def _schema(of: Any) -> Schema | None:
    """The JSON Schema of a type; None: it has none."""
    try:
        if isinstance(of, type) and issubclass(of, BaseModel):
            return of.model_json_schema()
        return TypeAdapter(of).json_schema(mode="serialization")
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return None
