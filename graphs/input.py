"""What the supervisor accepts from outside, checked before anything is written."""

from __future__ import annotations

from typing import Any, Literal
from uuid import uuid4

from langchain_core.messages import convert_to_messages
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

MAX_TEXT = 32_000
"""Longest text of one message, characters: about 8,000 tokens, far more than any ticket in the public collections."""
MAX_MESSAGES = 100
"""Most messages in one input."""

Role = Literal["user", "human", "assistant", "ai", "system", "developer", "tool"]


class InputMessage(BaseModel):
    """One message, as `{"role", "content"}` or `{"type", "content"}`; further keys of LangChain's form are kept."""

    model_config = ConfigDict(extra="allow")

    role: Role | None = None
    type: Role | None = None
    content: str | list[dict[str, JsonValue]]
    id: str | None = Field(None, min_length=1, max_length=200)

    @model_validator(mode="after")
    def _is_a_message(self) -> InputMessage:
        if self.role is None and self.type is None:
            raise ValueError("a message needs a role")
        try:
            # Whatever the graph would stumble over later is refused here: a tool message without its call, a name that is a number.
            text = convert_to_messages([self.model_dump(exclude_none=True)])[0].text
            text.encode()
        except (ValueError, TypeError, LookupError) as exc:
            raise ValueError("this is no message: a key of it does not fit its role") from exc
        if not text.strip():
            raise ValueError("the message has no text")
        if len(text) > MAX_TEXT:
            raise ValueError(f"the text has {len(text)} characters, at most {MAX_TEXT} are taken")
        return self


class InputCustomer(BaseModel):
    """Who asks, as far as the caller knows."""

    id: str | None = Field(None, min_length=1, max_length=128)
    tier: Literal["standard", "vip"] = "standard"
    locale: str | None = Field(None, pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$")


class SupervisorUpdate(BaseModel):
    """What may be written into a state of the supervisor from outside."""

    messages: list[InputMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    customer: InputCustomer | None = None

    def as_input(self) -> dict[str, Any]:
        """The graph's input; every message has an id, so that a run that is started again does not add it twice."""
        given: dict[str, Any] = {}
        if self.messages is not None:
            given["messages"] = [{**message.model_dump(exclude_none=True), "id": message.id or str(uuid4())} for message in self.messages]
        if self.customer is not None:
            given["customer"] = self.customer.model_dump(exclude_none=True, exclude_unset=True)
        return given


class SupervisorRequest(SupervisorUpdate):
    """Input of a run of the supervisor."""

    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)

    @model_validator(mode="after")
    def _asks(self) -> SupervisorRequest:
        if not any((message.role or message.type) in ("user", "human") for message in self.messages):
            raise ValueError("messages must hold one of the user")
        return self
