"""The tool contract: typed arguments, a declared effect on the world, a time limit, typed errors."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, JsonValue, ValidationError

from resilience.deadline import Deadline

A = TypeVar("A", bound=BaseModel)


class Effect(StrEnum):
    """What a tool does to the world (design D9)."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    REVERSIBLE = "reversible"
    IRREVERSIBLE = "irreversible"


class ToolError(Exception):
    """A tool could not do its work; the text is shown to the model, so it says what to do about it."""

    code = "tool_failed"


class ToolNotFound(ToolError):
    """What was asked for does not exist, or is not this customer's: the two are not told apart."""

    code = "tool_not_found"


class ToolArgumentsInvalid(ToolError):
    """The model's arguments do not fit the schema."""

    code = "tool_arguments_invalid"


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know of the request. The customer comes from here, never from the model's arguments.

    Args:
        customer_id: Whose data may be read; None: nobody is identified.
        language: Language of the answer, `es` or `en`.
        tenant: Whose deployment this is.
        deadline: When the answer is needed.
        idempotency_key: Stable over retries of the same call; a tool with an effect sends it along.
    """

    customer_id: str | None
    language: str
    tenant: str
    deadline: Deadline
    idempotency_key: str


ToolResult = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing a specialist can do.

    Args:
        name: What the model calls it.
        description: What it does, for the model.
        arguments: Schema of the arguments.
        effect: What it does to the world.
        timeout: Longest it may take, seconds.
        run: The work.
        knowledge: Version of what it reads, if that is the same for every customer until the next version; then an answer that rests on
            it may be given again. None: what it finds is somebody's own, or changes by itself.
    """

    name: str
    description: str
    arguments: type[BaseModel]
    effect: Effect
    timeout: float
    run: Callable[[Any, ToolContext], Awaitable[ToolResult]]
    knowledge: Callable[[], str] | None = None

    def parse(self, arguments: dict[str, Any]) -> BaseModel:
        """The arguments as their schema has them.

        Raises:
            ToolArgumentsInvalid: They do not fit; the text names each field.
        """
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as exc:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in exc.errors())
            raise ToolArgumentsInvalid(f"{self.name}: {faults}") from exc

    def schema(self) -> dict[str, Any]:
        """The function description that OpenAI-compatible models take."""
        function = {"name": self.name, "description": self.description, "parameters": _parameters(self.arguments)}
        return {"type": "function", "function": function}


@cache
def _parameters(arguments: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of the arguments; made once, since every model call carries it."""
    schema = arguments.model_json_schema()
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def tool(
    *, effect: Effect, timeout: float, knowledge: Callable[[], str] | None = None
) -> Callable[[Callable[[A, ToolContext], Awaitable[ToolResult]]], Tool]:
    """Make a `Tool` of an async function `(args: SomeModel, ctx: ToolContext) -> ToolResult`; its docstring is the description."""

    def make(function: Callable[[A, ToolContext], Awaitable[ToolResult]]) -> Tool:
        first = next(iter(inspect.signature(function).parameters))
        arguments = get_type_hints(function)[first]
        return Tool(function.__name__, inspect.getdoc(function) or "", arguments, effect, timeout, function, knowledge)

    return make
