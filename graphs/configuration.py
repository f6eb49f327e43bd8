"""What an assistant of the supervisor may change about it: what callers know as its `context`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from graphs.routing import ANSWER_AT, ESCALATE_BELOW, Thresholds

Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]


class SupervisorConfiguration(BaseModel):
    """How one run of the supervisor goes; without any of it, as usual."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="SupervisorContext")

    specialists: tuple[str, ...] | None = Field(
        None, description="Who may be asked, besides a human; null: every specialist. With nobody left a human answers."
    )
    answer_at: Share = Field(ANSWER_AT, description="From this confidence on a specialist's answer is given.")
    escalate_below: Share = Field(
        ESCALATE_BELOW, description="Below this confidence, of an answer or of the routing, a human takes over at once."
    )
    locale: str | None = Field(
        None,
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$",
        description="The language to answer in when neither the message, nor the customer's locale, nor the conversation tells.",
    )

    @model_validator(mode="after")
    def _is_ordered(self) -> SupervisorConfiguration:
        if self.escalate_below > self.answer_at:
            raise ValueError(f"escalate_below ({self.escalate_below}) must not be above answer_at ({self.answer_at})")
        return self

    @property
    def thresholds(self) -> Thresholds:
        """The confidence policy."""
        return Thresholds(self.answer_at, self.escalate_below)

    def allows(self, specialist: str) -> bool:
        """Whether the specialist may be asked."""
        return self.specialists is None or specialist in self.specialists


AS_USUAL = SupervisorConfiguration()


def configuration_over(specialists: Iterable[str]) -> type[SupervisorConfiguration]:
    """The same, but only these specialists can be named."""
    names = sorted(specialists)

    def known(name: str) -> str:
        if name not in names:
            raise ValueError(f"there is no specialist {name!r}; there are: {', '.join(names)}")
        return name

    one = Annotated[str, AfterValidator(known), WithJsonSchema({"type": "string", "enum": names})]
    field = SupervisorConfiguration.model_fields["specialists"]
    return create_model(
        "SupervisorContext",
        __base__=SupervisorConfiguration,
        __doc__=SupervisorConfiguration.__doc__,
        specialists=(tuple[one, ...] | None, Field(None, description=field.description)),
    )
