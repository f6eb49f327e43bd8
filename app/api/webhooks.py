"""Route of what could not be told: webhooks that were given up."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses

router = APIRouter(tags=["webhooks"], responses=problem_responses(401, 503))


class DeadLetter(BaseModel):
    """A webhook that was given up; what it said can still be read from its run and thread."""

    run_id: UUID
    thread_id: UUID
    url: str = Field(description="Where it should have gone.")
    attempts: int
    why: str = Field(description="The last failure, a stable word.", examples=["status_500"])
    at: datetime = Field(description="When it was given up.")


@router.get("/webhooks/dead-letters", name="list_dead_letters", responses=problem_responses(422))
async def list_dead_letters(
    services: ServicesDep, tenant: TenantDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[DeadLetter]:
    """The webhooks that were given up, the latest first."""
    return [DeadLetter.model_validate(letter, from_attributes=True) for letter in await services.outbox.dead_letters(tenant, limit)]
