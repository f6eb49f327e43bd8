"""Routes for those who run the service: is it there, may it be sent work, what does it count."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app.api.deps import ServicesDep
from app.api.problems import problem_responses
from app.errors import NotReady
from app.telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["health"])


class Ok(BaseModel):
    """The service is there."""

    ok: Literal[True] = True


class Info(BaseModel):
    """What the service is and can do."""

    version: str
    langgraph_py_version: str
    flags: dict[str, bool] = Field(description="Features that clients ask for.")
    host: dict[str, Any] = Field(default_factory=dict)


@router.get("/ok", name="ok")
async def ok() -> Ok:
    """The service is there."""
    return Ok()


@router.get("/info", name="info")
async def info(services: ServicesDep) -> Info:
    """What the service is and can do."""
    return Info(
        version=services.version,
        langgraph_py_version=version("langgraph"),
        flags={"assistants": True, "crons": True, "langsmith": False},
    )


@router.get("/health/live", name="live")
async def live() -> Ok:
    """The process works; it says nothing of what the process depends on."""
    return Ok()


@router.get("/health/ready", name="ready", responses=problem_responses(503))
async def ready(services: ServicesDep) -> Ok:
    """Work may be sent here: the storage answers and the service is not going down."""
    if not services.runs.is_open:
        raise NotReady("the service is going down", "draining")
    await services.check_storage()
    return Ok()


@router.get("/metrics", name="metrics", response_class=Response, include_in_schema=False)
async def metrics(services: ServicesDep) -> Response:
    """What the service counts, for Prometheus."""
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)
