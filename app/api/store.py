"""Routes of the store: what graphs and clients remember over threads, in namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.api.deps import ServicesDep, TenantDep
from app.api.problems import problem_responses
from app.errors import InvalidInput
from app.storage.redis.store_rules import MAX_TTL, StoreRefused, check_namespace

router = APIRouter(prefix="/store", tags=["store"], responses=problem_responses(401, 413, 422, 503))

Labels = Annotated[list[str], Field(description="Labels from the root down; each non-empty and without a dot.", examples=[["users", "7"]])]
Key = Annotated[str, Field(min_length=1, description="The item's name in its namespace.", examples=["preferences"])]
RefreshTtl = Annotated[bool | None, Field(description="Whether reading an item begins its time to live anew. Default: yes.")]


class ItemPut(BaseModel):
    """An item to be written; one of this name is replaced as a whole."""

    namespace: Labels
    key: Key
    value: dict[str, JsonValue] = Field(description="Any JSON object, up to 256 KiB.", examples=[{"language": "es"}])
    index: Literal[False] | list[str] | None = Field(
        None, description="Which fields a query looks at: paths like `title` or `parts[*].text`; false: none; null: all."
    )
    ttl: float | None = Field(None, gt=0, le=MAX_TTL, description="Minutes after which the item is gone unless it is read; null: it stays.")


class ItemName(BaseModel):
    """Which item."""

    namespace: Labels
    key: Key


class ItemSearch(BaseModel):
    """Which items are wanted."""

    namespace_prefix: Labels
    filter: dict[str, JsonValue] | None = Field(
        None,
        description="What fields of the value must be; also `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`.",
        examples=[{"language": "es", "visits": {"$gte": 3}}],
    )
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)
    query: str | None = Field(None, max_length=4096, description="Ranks by its words; items that have none of them are left out.")
    refresh_ttl: RefreshTtl = None


class NamespaceSearch(BaseModel):
    """Which namespaces are wanted."""

    prefix: Labels | None = Field(None, description="How they begin; `*` is any label.")
    suffix: Labels | None = Field(None, description="How they end; `*` is any label.")
    max_depth: int | None = Field(None, ge=1, description="Only that many labels of each.")
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=1_000_000)


class _Output(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class Item(_Output):
    """What is remembered under a name."""

    namespace: list[str]
    key: str
    value: dict[str, Any]
    created_at: datetime = Field(description="When it was first written; a change does not move it.")
    updated_at: datetime


class FoundItem(Item):
    """An item that a search has found."""

    score: float | None = Field(None, description="How well it fits the query, 0 to 1; null without one.")


class FoundItems(_Output):
    """What a search has found, the best first."""

    items: list[FoundItem]


class FoundNamespaces(_Output):
    """Namespaces, in order."""

    namespaces: list[list[str]]


@router.put("/items", name="put_item", status_code=204)
async def put_item(body: ItemPut, services: ServicesDep, tenant: TenantDep) -> None:
    """Remember something, or replace what is remembered under this name."""
    with _refusals():
        check_namespace(body.namespace, holds_items=True)
        await services.store.bind(tenant=tenant).aput(tuple(body.namespace), body.key, body.value, body.index, ttl=body.ttl)


@router.get("/items", name="get_item")
async def get_item(
    services: ServicesDep,
    tenant: TenantDep,
    key: Annotated[str, Query(min_length=1, description="The item's name in its namespace.")],
    namespace: Annotated[str, Query(description="The labels of the namespace, with dots between them.", examples=["users.7"])],
    refresh_ttl: Annotated[bool | None, Query(description="Whether reading it begins its time to live anew. Default: yes.")] = None,
) -> Item | None:
    """What is remembered under this name; null: nothing."""
    labels = namespace.split(".")
    with _refusals():
        check_namespace(labels, holds_items=True)
        item = await services.store.bind(tenant=tenant).aget(tuple(labels), key, refresh_ttl=refresh_ttl)
    return Item.model_validate(item.dict()) if item is not None else None


@router.delete("/items", name="delete_item", status_code=204)
async def delete_item(body: ItemName, services: ServicesDep, tenant: TenantDep) -> None:
    """Forget what is remembered under this name, if anything is."""
    with _refusals():
        check_namespace(body.namespace, holds_items=True)
        await services.store.bind(tenant=tenant).adelete(tuple(body.namespace), body.key)


@router.post("/items/search", name="search_items")
async def search_items(body: ItemSearch, services: ServicesDep, tenant: TenantDep) -> FoundItems:
    """Items in and below a namespace: by their fields, by words, or all."""
    with _refusals():
        check_namespace(body.namespace_prefix)
        found = await services.store.bind(tenant=tenant).asearch(
            tuple(body.namespace_prefix),
            query=body.query,
            filter=body.filter,
            limit=body.limit,
            offset=body.offset,
            refresh_ttl=body.refresh_ttl,
        )
    return FoundItems(items=[FoundItem.model_validate(item.dict()) for item in found])


@router.post("/namespaces", name="list_namespaces")
async def list_namespaces(body: NamespaceSearch, services: ServicesDep, tenant: TenantDep) -> FoundNamespaces:
    """The namespaces that hold items."""
    prefix, suffix = body.prefix or [], body.suffix or []
    with _refusals():
        check_namespace(prefix)
        check_namespace(suffix)
        found = await services.store.bind(tenant=tenant).alist_namespaces(
            prefix=tuple(prefix), suffix=tuple(suffix), max_depth=body.max_depth, limit=body.limit, offset=body.offset
        )
    return FoundNamespaces(namespaces=[list(namespace) for namespace in found])


@contextmanager
def _refusals() -> Iterator[None]:
    """What the store refuses is the caller's mistake."""
    try:
        yield
    except StoreRefused as exc:
        raise InvalidInput(exc.detail, exc.code) from None
