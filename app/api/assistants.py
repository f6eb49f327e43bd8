"""Routes of assistants: those that tenants make, and each graph's own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.api.schemas import Metadata, RunConfig
from app.assistants.service import AssistantFilter, AssistantPatch, SortBy
from app.storage.redis.assistants import AssistantRecord

router = APIRouter(tags=["assistants"], responses=problem_responses(401, 503))

AssistantField = Literal[
    "assistant_id", "graph_id", "name", "description", "config", "context", "metadata", "version", "created_at", "updated_at"
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=2_000)]
Context = dict[str, JsonValue]
Xray = Annotated[
    str,
    Query(
        pattern=r"^([Tt]rue|[Ff]alse|[1-9][0-9]{0,3})$",
        description="Draw the nodes of subgraphs instead of the subgraphs: `true`, `false`, or down to which depth.",
    ),
]


class AssistantCreate(BaseModel):
    """An assistant to be made."""

    graph_id: str = Field(description="The graph that it configures.", examples=["supervisor"])
    assistant_id: UUID | None = Field(None, description="Its id; without one the service chooses.")
    name: Name | None = Field(None, description="What people call it; `Untitled` without one.")
    description: Description | None = None
    config: RunConfig | None = Field(None, description="How its runs execute, unless they say otherwise.")
    context: Context | None = Field(
        None,
        description="What it says to its graph, by the graph's `context_schema`; a run's own context counts more, key by key.",
        examples=[{"specialists": ["billing_support"], "answer_at": 0.8}],
    )
    metadata: Metadata | None = Field(None, description="Free data to find it by; its runs inherit them.")
    if_exists: Literal["raise", "do_nothing"] = Field(
        "raise", description="What to do if there is one of this id: 409, or return it unchanged."
    )


class AssistantUpdate(BaseModel):
    """What is to be another in the next version; what is left out, or null, stays."""

    graph_id: str | None = None
    name: Name | None = None
    description: Description | None = None
    config: RunConfig | None = Field(None, description="Takes the place of the whole config.")
    context: Context | None = Field(None, description="Takes the place of the whole context.")
    metadata: Metadata | None = Field(None, description="Merged into what is there, key by key.")


class AssistantCount(BaseModel):
    """Which assistants are wanted."""

    graph_id: str | None = None
    name: str | None = Field(None, description="A part of the name, in whatever case.")
    metadata: Metadata | None = Field(None, description="Only assistants whose metadata hold all of this.")

    def wanted(self) -> AssistantFilter:
        """The same for the service."""
        return AssistantFilter(self.graph_id, self.name, self.metadata)


class AssistantSearch(AssistantCount):
    """Which assistants are wanted, in which order."""

    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0)
    sort_by: SortBy = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"
    select: list[AssistantField] | None = Field(None, description="Only these fields.")


class VersionSearch(BaseModel):
    """Which versions of an assistant are wanted."""

    metadata: Metadata | None = Field(None, description="Only versions whose metadata hold all of this.")
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0)


class VersionChoice(BaseModel):
    """What an assistant is to be from now on."""

    version: int = Field(ge=1)


_ANSWER = ConfigDict(json_schema_serialization_defaults_required=True)


class AssistantVersion(BaseModel):
    """An assistant as it was made, or changed, at one time."""

    model_config = _ANSWER

    assistant_id: UUID
    graph_id: str
    name: str
    description: str | None = None
    config: dict[str, JsonValue] = Field(default_factory=dict)
    context: Context = Field(default_factory=dict)
    metadata: Metadata
    version: int = 1
    created_at: datetime

    @classmethod
    def of(cls, record: AssistantRecord) -> AssistantVersion:
        """The version as callers see it."""
        return cls.model_validate(record, from_attributes=True)


class Assistant(AssistantVersion):
    """A graph under a name, configured."""

    updated_at: datetime

    @classmethod
    def of(cls, record: AssistantRecord) -> Assistant:
        """The assistant as callers see it."""
        return cls.model_validate(record, from_attributes=True)


class GraphDrawing(BaseModel):
    """A graph as a drawing."""

    model_config = _ANSWER

    nodes: list[dict[str, JsonValue]]
    edges: list[dict[str, JsonValue]]


class GraphSchemas(BaseModel):
    """JSON Schemas of what a graph takes and gives; null where there is none."""

    model_config = _ANSWER

    graph_id: str
    input_schema: dict[str, JsonValue] | None = Field(description="A run's `input`.")
    output_schema: dict[str, JsonValue] | None = Field(description="A run's final values.")
    state_schema: dict[str, JsonValue] | None = Field(description="What a thread remembers.")
    config_schema: dict[str, JsonValue] | None = Field(description="The keys of `config.configurable` that mean something.")
    context_schema: dict[str, JsonValue] | None = Field(description="What `context` may hold.")


@router.post("/assistants", name="create_assistant", responses=problem_responses(400, 409, 413, 422))
async def create_assistant(body: AssistantCreate, services: ServicesDep, tenant: TenantDep) -> Assistant:
    """Make an assistant: a configuration of a graph, under a name."""
    wanted = AssistantPatch(body.graph_id, body.name, body.description, _config(body.config), body.context, body.metadata)
    assistant_id = str(body.assistant_id) if body.assistant_id is not None else None
    return Assistant.of(await services.assistants.create(tenant, assistant_id, wanted, reuse=body.if_exists == "do_nothing"))


@router.post("/assistants/search", name="search_assistants", responses=problem_responses(413, 422))
async def search_assistants(
    body: AssistantSearch, services: ServicesDep, tenant: TenantDep, response: Response
) -> list[Assistant] | list[dict[str, JsonValue]]:
    """The assistants that fit."""
    found, has_more = await services.assistants.search(
        tenant, body.wanted(), sort_by=body.sort_by, is_ascending=body.sort_order == "asc", limit=body.limit, offset=body.offset
    )
    if has_more:
        response.headers["X-Pagination-Next"] = str(body.offset + body.limit)
    shown = [Assistant.of(record) for record in found]
    select = set[str](body.select or ())
    return [assistant.model_dump(mode="json", include=select) for assistant in shown] if select else shown


@router.post("/assistants/count", name="count_assistants", responses=problem_responses(413, 422))
async def count_assistants(body: AssistantCount, services: ServicesDep, tenant: TenantDep) -> int:
    """How many assistants fit."""
    return await services.assistants.count(tenant, body.wanted())


@router.get("/assistants/{assistant_id}", name="get_assistant", responses=problem_responses(404, 422))
async def get_assistant(assistant_id: UUID, services: ServicesDep, tenant: TenantDep) -> Assistant:
    """An assistant."""
    return Assistant.of(await services.assistants.get(tenant, str(assistant_id)))


@router.patch("/assistants/{assistant_id}", name="update_assistant", responses=problem_responses(400, 404, 409, 413, 422))
async def update_assistant(assistant_id: UUID, body: AssistantUpdate, services: ServicesDep, tenant: TenantDep) -> Assistant:
    """Make a new version of an assistant, which it is from now on; runs that have been accepted keep what they had."""
    patch = AssistantPatch(body.graph_id, body.name, body.description, _config(body.config), body.context, body.metadata)
    return Assistant.of(await services.assistants.update(tenant, str(assistant_id), patch))


@router.delete("/assistants/{assistant_id}", name="delete_assistant", status_code=204, responses=problem_responses(404, 409, 422))
async def delete_assistant(
    assistant_id: UUID,
    services: ServicesDep,
    tenant: TenantDep,
    delete_threads: Annotated[bool, Query(description="Delete its threads too, with their runs and states.")] = False,
) -> None:
    """Forget an assistant with its versions; its runs go on."""
    await services.assistants.delete(tenant, str(assistant_id), with_threads=delete_threads)


@router.post("/assistants/{assistant_id}/versions", name="list_assistant_versions", responses=problem_responses(404, 413, 422))
async def list_assistant_versions(
    assistant_id: UUID, body: VersionSearch, services: ServicesDep, tenant: TenantDep
) -> list[AssistantVersion]:
    """The versions of an assistant, newest first."""
    found = await services.assistants.versions(tenant, str(assistant_id), metadata=body.metadata, limit=body.limit, offset=body.offset)
    return [AssistantVersion.of(record) for record in found]


@router.post("/assistants/{assistant_id}/latest", name="choose_assistant_version", responses=problem_responses(404, 409, 413, 422))
async def choose_assistant_version(assistant_id: UUID, body: VersionChoice, services: ServicesDep, tenant: TenantDep) -> Assistant:
    """Go back to an earlier version of an assistant, or forward again."""
    return Assistant.of(await services.assistants.set_latest(tenant, str(assistant_id), body.version))


@router.get("/assistants/{assistant_id}/graph", name="draw_assistant", responses=problem_responses(404, 422))
async def draw_assistant(assistant_id: str, services: ServicesDep, tenant: TenantDep, xray: Xray = "false") -> GraphDrawing:
    """The drawing of an assistant's graph; the assistant is named by its id, or by its graph."""
    _, entry = await services.assistants.find(tenant, assistant_id)
    depth = int(xray) if xray.isdigit() else xray.lower() == "true"
    return GraphDrawing.model_validate(services.drawings.drawing(entry.graph_id, depth))


@router.get("/assistants/{assistant_id}/schemas", name="get_assistant_schemas", responses=problem_responses(404, 422))
async def get_assistant_schemas(assistant_id: UUID, services: ServicesDep, tenant: TenantDep) -> GraphSchemas:
    """What an assistant's graph takes and gives."""
    _, entry = await services.assistants.find(tenant, str(assistant_id))
    return GraphSchemas.model_validate(services.drawings.schemas(entry.graph_id))


@router.get("/assistants/{assistant_id}/subgraphs", name="list_assistant_subgraphs", responses=problem_responses(404, 422))
async def list_assistant_subgraphs(
    assistant_id: UUID, services: ServicesDep, tenant: TenantDep, recurse: Annotated[bool, Query(description="Those inside too.")] = False
) -> dict[str, GraphSchemas]:
    """What the subgraphs of an assistant's graph take and give, by namespace."""
    return await _subgraphs(services, tenant, assistant_id, None, recurse)


@router.get("/assistants/{assistant_id}/subgraphs/{namespace}", name="get_assistant_subgraphs", responses=problem_responses(404, 422))
async def get_assistant_subgraphs(
    assistant_id: UUID,
    namespace: str,
    services: ServicesDep,
    tenant: TenantDep,
    recurse: Annotated[bool, Query(description="Those inside too.")] = False,
) -> dict[str, GraphSchemas]:
    """The same of one subgraph; of a namespace that the graph does not have: nothing."""
    return await _subgraphs(services, tenant, assistant_id, namespace, recurse)


async def _subgraphs(
    services: ServicesDep, tenant: str, assistant_id: UUID, namespace: str | None, recurse: bool
) -> dict[str, GraphSchemas]:
    _, entry = await services.assistants.find(tenant, str(assistant_id))
    found = services.drawings.subgraphs(entry.graph_id, namespace, recurse)
    return {name: GraphSchemas.model_validate(schemas) for name, schemas in found.items()}


def _config(config: RunConfig | None) -> dict[str, Any] | None:
    """What the caller gave of it, and no defaults."""
    return config.model_dump(exclude_unset=True, exclude_none=True) if config is not None else None
