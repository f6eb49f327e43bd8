"""Routes of assistants: one for each graph."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from fastapi import APIRouter, Response

from app.api.deps import ServicesDep, TenantDep
from app.api.headers import header_refs
from app.api.problems import problem_responses
from app.api.schemas import Assistant, AssistantSearch

router = APIRouter(tags=["assistants"], responses=problem_responses(401))


@router.post(
    "/assistants/search",
    name="search_assistants",
    responses={200: {"headers": header_refs("X-Pagination-Next")}, **problem_responses(413, 422)},
)
async def search_assistants(body: AssistantSearch, services: ServicesDep, tenant: TenantDep, response: Response) -> list[Assistant]:
    """The assistants that fit."""
    found = [_assistant(assistant_id, graph_id, services.started_at) for assistant_id, graph_id in services.assistants]
    found = [assistant for assistant in found if _fits(assistant, body)]
    page = found[body.offset : body.offset + body.limit]
    if body.offset + body.limit < len(found):
        response.headers["X-Pagination-Next"] = str(body.offset + body.limit)
    return page


def _fits(assistant: Assistant, wanted: AssistantSearch) -> bool:
    return (
        wanted.graph_id in (None, assistant.graph_id)
        and (wanted.name or "").lower() in assistant.name.lower()
        and all(assistant.metadata.get(key) == value for key, value in (wanted.metadata or {}).items())
    )


def _assistant(assistant_id: str, graph_id: str, since: datetime) -> Assistant:
    return Assistant(
        assistant_id=UUID(assistant_id),
        graph_id=graph_id,
        name=graph_id,
        metadata={"created_by": "system"},
        created_at=since.astimezone(UTC),
        updated_at=since.astimezone(UTC),
    )
