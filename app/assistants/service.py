"""Assistants: each graph's own, which every tenant has, and those that a tenant has made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from app.assistants.configuration import SYSTEM, checked_context, said, trusted
from app.errors import AlreadyExists, InvalidInput, NotChangeable, NotFound
from app.storage.redis.assistants import (
    AssistantChanged,
    AssistantExists,
    AssistantMissing,
    AssistantRecord,
    AssistantRepository,
    TooManyAssistants,
    pack,
)
from graphs.registry import GraphEntry

UNTITLED = "Untitled"
MAX_BYTES = 32 * 1024
"""Largest assistant, as JSON."""
ALWAYS = datetime(2026, 1, 1, tzinfo=UTC)
"""When the graphs' own assistants were made: the same in every process, so that pages of a search agree."""

SortBy = Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"]


@dataclass(frozen=True, slots=True)
class AssistantFilter:
    """Which assistants are wanted: of this graph, with this in their name in whatever case, whose metadata hold all of this."""

    graph_id: str | None = None
    name: str | None = None
    metadata: Mapping[str, Any] | None = None

    def fits(self, record: AssistantRecord) -> bool:
        """Whether the assistant is wanted."""
        return (
            self.graph_id in (None, record.graph_id)
            and (self.name or "").casefold() in record.name.casefold()
            and holds(record.metadata, self.metadata or {})
        )


@dataclass(frozen=True, slots=True)
class AssistantPatch:
    """What is to be another in the next version; None: as it was. `metadata` are merged key by key, the rest is replaced."""

    graph_id: str | None = None
    name: str | None = None
    description: str | None = None
    config: dict[str, Any] | None = None
    context: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class AssistantService:
    """The assistants of all tenants; a foreign one is never told from a missing one.

    Every method that is awaited raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        graphs: What can be run, by graph id.
        stored: Where assistants that tenants made are kept.
        delete_threads: Removes the threads of one assistant of a tenant, with their runs.
    """

    def __init__(
        self, graphs: Mapping[str, GraphEntry], stored: AssistantRepository, delete_threads: Callable[[str, str], Awaitable[None]]
    ) -> None:
        self._graphs = graphs
        self._stored = stored
        self._delete_threads = delete_threads
        own = [_own(entry) for _, entry in sorted(graphs.items())]
        self._own = {record.assistant_id: record for record in own}
        self._by_name = {record.graph_id: record for record in own}

    @property
    def graph_ids(self) -> list[str]:
        """The graphs that can be run, sorted."""
        return list(self._by_name)

    async def find(self, tenant: str, name: str) -> tuple[AssistantRecord, GraphEntry]:
        """The assistant of this id, or the own one of the graph of this name, with its graph; an own one is found without a read.

        Raises:
            InvalidInput: It is no id, and no graph has this name.
            NotFound: There is no assistant of this id, or its graph is not offered any more.
        """
        record = self._by_name.get(name)
        if record is None:
            # The protocol tells a name that was mistyped (422) from an id that is gone (404).
            if not _is_uuid(name):
                raise InvalidInput(self._unknown(name), "assistant_not_found")
            record = await self.get(tenant, str(UUID(name)))
        return record, self._entry(record)

    async def get(self, tenant: str, assistant_id: str) -> AssistantRecord:
        """The assistant.

        Raises:
            NotFound: There is none.
        """
        record = self._own.get(assistant_id) or await self._stored.get(tenant, assistant_id)
        if record is None:
            raise NotFound(self._unknown(assistant_id), "assistant_not_found")
        return record

    async def create(self, tenant: str, assistant_id: str | None, wanted: AssistantPatch, *, reuse: bool) -> AssistantRecord:
        """A new assistant of the graph that `wanted` names; with `reuse` the one that has this id already, unchanged.

        Raises:
            AlreadyExists: There is one of this id.
            InvalidInput: There is no such graph, it does not take the context, or the assistant is too large.
            ConflictingRequest: Both context and configurable say something.
            NotChangeable: The tenant may have no more.
        """
        now = datetime.now(UTC)
        blank = AssistantRecord(assistant_id or str(uuid4()), wanted.graph_id or "", UNTITLED, created_at=now, updated_at=now)
        record = self._changed(blank, wanted)
        own = self._own.get(record.assistant_id)
        try:
            if own is not None:
                raise AssistantExists(own)
            await self._stored.create(tenant, record)
        except AssistantExists as exc:
            if reuse:
                known: AssistantRecord = exc.args[0]
                return known
            raise AlreadyExists(f"assistant {assistant_id} exists; if_exists=do_nothing returns it", "assistant_exists") from None
        except TooManyAssistants:
            raise NotChangeable("there are as many assistants as there may be; delete one first", "too_many_assistants") from None
        return record

    async def update(self, tenant: str, assistant_id: str, patch: AssistantPatch) -> AssistantRecord:
        """The assistant's next version, which it is from now on.

        Raises:
            NotFound: There is none.
            NotChangeable: It is a graph's own.
            InvalidInput: See `create`.
            ConflictingRequest: See `create`.
        """
        self._check_is_made(assistant_id)
        while True:
            try:
                seen = await self._stored.see(tenant, assistant_id)
                changed = self._changed(replace(seen.record, updated_at=datetime.now(UTC), version=seen.last + 1), patch)
                await self._stored.add_version(tenant, seen, changed)
            except AssistantMissing:
                raise NotFound(self._unknown(assistant_id), "assistant_not_found") from None
            except AssistantChanged:
                continue
            return changed

    async def set_latest(self, tenant: str, assistant_id: str, version: int) -> AssistantRecord:
        """Make a version what the assistant is from now on; the newer ones stay.

        Raises:
            NotFound: There is no such assistant, or no such version of it.
            NotChangeable: It is a graph's own.
        """
        self._check_is_made(assistant_id)
        while True:
            try:
                seen = await self._stored.see(tenant, assistant_id)
                found = await self._stored.version(tenant, assistant_id, version)
                if found is None:
                    raise NotFound(f"assistant {assistant_id} has no version {version}", "version_not_found")
                chosen = replace(found, created_at=seen.record.created_at, updated_at=datetime.now(UTC))
                await self._stored.go_back(tenant, seen, chosen)
            except AssistantMissing:
                raise NotFound(self._unknown(assistant_id), "assistant_not_found") from None
            except AssistantChanged:
                continue
            return chosen

    async def versions(
        self, tenant: str, assistant_id: str, *, metadata: Mapping[str, Any] | None, limit: int, offset: int
    ) -> list[AssistantRecord]:
        """A page of the assistant's versions whose metadata hold all of this, newest first.

        Raises:
            NotFound: There is no such assistant.
        """
        own = self._own.get(assistant_id)
        found = [own] if own is not None else await self._stored.versions(tenant, assistant_id)
        if not found:
            raise NotFound(self._unknown(assistant_id), "assistant_not_found")
        return [record for record in found if holds(record.metadata, metadata or {})][offset : offset + limit]

    async def delete(self, tenant: str, assistant_id: str, *, with_threads: bool) -> None:
        """Remove the assistant with its versions; its runs are not touched, unless the threads that it began are to go too.

        Raises:
            NotFound: There is none.
            NotChangeable: It is a graph's own.
        """
        self._check_is_made(assistant_id)
        await self.get(tenant, assistant_id)
        if with_threads:  # first, so that whoever is cut off in between can ask again
            await self._delete_threads(tenant, assistant_id)
        if not await self._stored.delete(tenant, assistant_id):
            raise NotFound(self._unknown(assistant_id), "assistant_not_found")

    async def search(
        self, tenant: str, wanted: AssistantFilter, *, sort_by: SortBy, is_ascending: bool, limit: int, offset: int
    ) -> tuple[list[AssistantRecord], bool]:
        """A page of the assistants that fit, and whether there are more behind it."""
        found = await self._fitting(tenant, wanted)
        found.sort(key=lambda record: (getattr(record, sort_by), record.assistant_id), reverse=not is_ascending)
        return found[offset : offset + limit], offset + limit < len(found)

    async def count(self, tenant: str, wanted: AssistantFilter) -> int:
        """How many assistants fit."""
        return len(await self._fitting(tenant, wanted))

    async def _fitting(self, tenant: str, wanted: AssistantFilter) -> list[AssistantRecord]:
        return [record for record in (*self._own.values(), *await self._stored.all(tenant)) if wanted.fits(record)]

    def _changed(self, record: AssistantRecord, patch: AssistantPatch) -> AssistantRecord:
        """The record with the patch, checked as a whole: another graph may not take what the earlier one took."""
        graph_id = patch.graph_id or record.graph_id
        if graph_id not in self._graphs:
            raise InvalidInput(f"there is no graph {graph_id!r}; there are: {', '.join(self.graph_ids)}", "graph_not_found")
        config, context = self._configuration(record, patch)
        changed = replace(
            record,
            graph_id=graph_id,
            name=record.name if patch.name is None else patch.name,
            description=record.description if patch.description is None else patch.description,
            config=config,
            context=context,
            metadata={**record.metadata, **(patch.metadata or {})},
        )
        entry = self._graphs[graph_id]
        checked_context(entry, said(entry, context, config.get("configurable", {})), is_whole=False)
        try:
            size = len(pack(changed))
        except TypeError as exc:
            raise InvalidInput(f"an assistant cannot hold this: {exc}") from None
        if size > MAX_BYTES:
            raise InvalidInput(f"an assistant may have {MAX_BYTES} bytes as JSON, this one has {size}", "assistant_too_large")
        return changed

    def _configuration(self, record: AssistantRecord, patch: AssistantPatch) -> tuple[dict[str, Any], dict[str, Any]]:
        """The new config and context. Both have a name for the same thing, so whichever is given takes the place of both."""
        config = record.config if patch.config is None else dict(patch.config)
        if "configurable" in config:
            config = {**config, "configurable": trusted(config["configurable"])}
        context = record.context if patch.context is None else patch.context
        if patch.context and patch.config is None:
            config = {key: value for key, value in config.items() if key != "configurable"}
        if patch.context is None and config.get("configurable") and patch.config is not None:
            context = {}
        return config, context

    def _check_is_made(self, assistant_id: str) -> None:
        if assistant_id in self._own:
            text = f"assistant {assistant_id} is graph {self._own[assistant_id].graph_id}'s own; make one of your own to have another"
            raise NotChangeable(text, "system_assistant")

    def _entry(self, record: AssistantRecord) -> GraphEntry:
        entry = self._graphs.get(record.graph_id)
        if entry is None:
            raise NotFound(f"graph {record.graph_id!r} of assistant {record.assistant_id} is not offered here", "graph_not_found")
        return entry

    def _unknown(self, name: str) -> str:
        return f"there is no assistant {name!r}; there are: {', '.join(self.graph_ids)}"


def holds(found: Any, wanted: Any) -> bool:
    """Whether JSON object `found` has every key of `wanted` with an equal value, objects in it likewise."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(key in found and holds(found[key], value) for key, value in wanted.items())
    return bool(found == wanted)


def _own(entry: GraphEntry) -> AssistantRecord:
    return AssistantRecord(entry.assistant_id, entry.graph_id, entry.graph_id, created_at=ALWAYS, updated_at=ALWAYS, metadata=dict(SYSTEM))


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
