"""Routes of feedback: what people said of a run's answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.storage.redis.feedback import FeedbackRecord

router = APIRouter(tags=["feedback"], responses=problem_responses(401, 503))
FeedbackKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FeedbackCreate(BaseModel):
    """What somebody says of a run."""

    key: FeedbackKey = Field(description="What is judged; the name of the score in Langfuse.", examples=["user_score"])
    score: float = Field(ge=0.0, le=1.0, description="From 0, bad, to 1, good; a thumb is one of the two.")
    comment: str = Field("", max_length=2_000, description="In their own words.")


class Feedback(BaseModel):
    """What somebody said of a run."""

    run_id: UUID
    key: str
    score: float
    comment: str
    created_at: datetime = Field(description="When it was said first.")
    updated_at: datetime = Field(description="When it was said last.")


@router.post("/threads/{thread_id}/runs/{run_id}/feedback", name="put_feedback", responses=problem_responses(404, 409, 413, 422))
async def put_feedback(thread_id: UUID, run_id: UUID, body: FeedbackCreate, services: ServicesDep, tenant: TenantDep) -> Feedback:
    """Say what a run's answer is worth; under the same key it replaces what was said before."""
    kept = await services.feedback.put(tenant, str(thread_id), str(run_id), key=body.key, score=body.score, comment=body.comment.strip())
    return _shown(run_id, kept)


@router.get("/threads/{thread_id}/runs/{run_id}/feedback", name="list_feedback", responses=problem_responses(404, 422))
async def list_feedback(thread_id: UUID, run_id: UUID, services: ServicesDep, tenant: TenantDep) -> list[Feedback]:
    """What was said of a run, by key."""
    return [_shown(run_id, said) for said in await services.feedback.of_run(tenant, str(thread_id), str(run_id))]


def _shown(run_id: UUID, said: FeedbackRecord) -> Feedback:
    return Feedback(
        run_id=run_id, key=said.key, score=said.score, comment=said.comment, created_at=said.created_at, updated_at=said.updated_at
    )
