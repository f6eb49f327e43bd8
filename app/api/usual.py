"""What fields of usual names mean, for the OpenAPI document: said once, and only where a route says nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

USUAL: Mapping[str, str] = MappingProxyType(
    {
        "thread_id": "The thread's id.",
        "thread_ids": "The threads' ids.",
        "updates": "What is written, one after the other.",
        "run_id": "The run's id.",
        "run_ids": "The runs' ids.",
        "assistant_id": "The assistant's id.",
        "description": "What it is for.",
        "version": "The version's number, from 1.",
        "namespace": "The path to a subgraph.",
        "graph_id": "The graph's name.",
        "name": "What people call it; where something is looked for, a part of it in any case.",
        "cron_id": "The cron's id.",
        "enabled": "Whether it is on; where something is looked for, only those that are, or are not.",
        "model_id": "The assistant's name.",
        "checkpoint_id": "Names a state of the thread.",
        "checkpoint_ns": "The path to a subgraph; empty: the graph itself.",
        "metadata": "Free data; where something is looked for, what it must hold.",
        "limit": "At most so many.",
        "offset": "Leave out so many at the beginning.",
        "subgraphs": "With the states of subgraphs.",
        "select": "Only these fields of each.",
        "sort_by": "The field that decides the order.",
        "sort_order": "Ascending or descending.",
    }
)
"""Field name → description."""
