"""Answers of a given form: validated, repaired once by the gateway, or a typed failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from langchain_core.messages import AIMessage
from pydantic import BaseModel, ValidationError

from agents.models.gateway import ModelGateway
from agents.models.port import Account, ModelRequest
from resilience.deadline import Deadline

M = TypeVar("M", bound=BaseModel)


async def complete_as(
    form: type[M],
    gateway: ModelGateway,
    request: ModelRequest,
    deadline: Deadline,
    *,
    account: Account,
    fault_of: Callable[[M], str] = lambda _: "",
) -> tuple[M, str]:
    """What the first model says that answers in the form, and the model's name.

    Args:
        form: What the text of the answer must be, as JSON.
        gateway: Asks the models.
        request: What is asked; its `response_schema` tells the model of the form.
        deadline: By when the answer must be there.
        account: Is charged, also when nobody answers.
        fault_of: What is wrong with an answer that has the form, "" if nothing is.

    Raises:
        OutputInvalid: No model gave a usable answer.
        ResilienceError: Nobody could be asked, or nobody answered in time.
        DependencyError: The last model that was asked failed.
    """

    def fault(message: AIMessage) -> str:
        try:
            return fault_of(form.model_validate_json(message.text))
        except ValidationError as exc:
            return faults(exc)

    reply = await gateway.complete(replace(request, fault=fault), deadline, account=account)
    return form.model_validate_json(reply.message.text), reply.model


def faults(error: ValidationError) -> str:
    """What is wrong, field by field, in one line."""
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in error.errors())
