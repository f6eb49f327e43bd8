"""The history that a new thread may begin with, update by update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph.graph import END, START
from langgraph.types import Command, StateUpdate

from app.errors import InvalidInput
from app.threads.values import checked_update
from graphs.registry import GraphEntry


@dataclass(frozen=True, slots=True)
class SuperstepUpdate:
    """What one node is said to have returned.

    Args:
        values: Keys of a run's input; None: nothing.
        as_node: The node; None: the graph finds out which it can only have been.
        update: What a command of the node wrote, in place of `values`.
        goto: Where the command went on to; None: the node returned no command.
    """

    values: dict[str, Any] | None
    as_node: str | None
    update: dict[str, Any] | None = None
    goto: tuple[str, ...] | None = None

    def checked(self, entry: GraphEntry) -> StateUpdate:
        """The same in the graph's words.

        Raises:
            InvalidInput: It is not what callers may write into the state, or goes where there is no node.
        """
        if self.goto is None:
            values = checked_update(entry, self.values, "supersteps.values") if self.values is not None else None
            return StateUpdate(values, self.as_node)
        nodes = entry.graph.nodes.keys() - {START}
        strange = [name for name in self.goto if name != END and name not in nodes]
        if strange:
            raise InvalidInput(f"supersteps.command.goto: there is no node {strange[0]!r}; there are: {', '.join(sorted(nodes))}")
        update = checked_update(entry, self.update, "supersteps.command.update") if self.update else None
        command: Any = Command(update=update, goto=self.goto)
        return StateUpdate(command, self.as_node)
