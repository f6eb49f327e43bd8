"""Many runs at once, each on a thread of its own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from app.api.new_run import NewRunDep
from app.api.problems import problem_responses
from app.api.schemas import Run, StatelessRunCreate

router = APIRouter(tags=["runs"], responses=problem_responses(401, 503))
MOST_RUNS = 100
"""Most runs of one batch."""
Bodies = Annotated[list[StatelessRunCreate], Body(min_length=1, max_length=MOST_RUNS)]


@router.post("/runs/batch", name="create_run_batch", responses=problem_responses(400, 404, 409, 413, 422, 429))
async def create_run_batch(bodies: Bodies, new: NewRunDep) -> list[Run]:
    """Run assistants in the background, each on a thread of its own: all of them, or none if one cannot be accepted."""
    return [Run.of(started.record) for started in await new.start_all(bodies)]
