"""Threads found by what they are: the index says where to look, the threads themselves what is true (ADR-0026)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from app.errors import InvalidInput
from app.storage.redis.thread_index import ALL, MAX_SORTED, ORDERS_OF_A_WORD, Order, ThreadIndex, words_of
from app.storage.redis.threads import ThreadRecord, ThreadRepository, ThreadStatus
from app.threads.indexer import ThreadIndexer
from app.threads.matching import contains

MOST_LOOKED_AT = 10_000
"""Most threads that one search reads for what the index does not know (values, lists and objects in metadata)."""
AT_ONCE = 16
"""Most threads that one search reads at the same moment."""
GROUP = 100
"""Threads that are read between two looks at the index."""


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Which threads are wanted; None: that does not matter.

    Args:
        ids: Only these.
        metadata: Their metadata hold all of this.
        values: Their values hold all of this.
        status: Their status.
        order: What they are sorted by; equal ones by their id.
        is_descending: Whether the greatest comes first.
    """

    ids: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    status: ThreadStatus | None = None
    order: Order = "created_at"
    is_descending: bool = True

    @property
    def is_indexed(self) -> bool:
        """Whether the index knows all of it, so that nothing else need be looked at to tell whether a thread fits."""
        return self.ids is None and not self.values and not any(isinstance(value, list | dict) for value in self.metadata.values())


@dataclass(frozen=True, slots=True)
class Found:
    """A thread that fits; `values` is what callers see of its state, if that had to be read."""

    thread: ThreadRecord
    values: dict[str, Any] | None = None


class ThreadSearch:
    """Finds threads; every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        index: Where to look.
        indexer: Told of what the index has wrong.
        threads: Thread records.
        values: What callers see of a tenant's thread.
    """

    def __init__(
        self,
        index: ThreadIndex,
        indexer: ThreadIndexer,
        threads: ThreadRepository,
        values: Callable[[str, ThreadRecord], Awaitable[dict[str, Any] | None]],
    ) -> None:
        self._index = index
        self._indexer = indexer
        self._threads = threads
        self._values = values

    async def page(self, tenant: str, query: ThreadQuery, *, limit: int, offset: int) -> tuple[list[Found], bool]:
        """At most `limit` threads that fit, after the first `offset`, and whether there are more.

        Raises:
            InvalidInput: Too many threads would have to be read for it.
        """
        skipped, page, wrong = 0, list[Found](), list[str]()
        # What the index knows well enough to be skipped unread need not be read; the rest is skipped one by one.
        skip = 0 if query.ids is not None or not query.is_indexed else offset
        async with aclosing(self._fitting(tenant, query, wrong, skip=skip, about=limit + 1)) as fitting:
            async for found in fitting:
                if skip == 0 and skipped < offset:
                    skipped += 1
                    continue
                page.append(found)
                if len(page) > limit:
                    break
        # Not before: what goes from the index while it is walked through would make the walk miss others.
        if wrong:
            await self._indexer.note(tenant, wrong)
        return page[:limit], len(page) > limit

    async def count(self, tenant: str, query: ThreadQuery) -> int:
        """How many threads fit; where the index knows all that is asked for, as far as it knows.

        Raises:
            InvalidInput: Too many threads would have to be read for it.
        """
        if not query.is_indexed:
            return sum([1 async for _ in self._fitting(tenant, query, [], skip=0, about=GROUP)])
        await self._indexer.catch_up()
        words = words_of(query.status, query.metadata) or [ALL]
        sizes = await self._index.sizes(tenant, words)
        if len(words) == 1:
            return sizes[0]
        way = words[sizes.index(min(sizes))]
        count, rank, is_over = 0, 0, False
        while not is_over:
            others = [word for word in words if word != way]
            part = await self._index.walk(tenant, way, "created_at", others, rank=rank, wanted=max(1, min(sizes)), is_descending=False)
            count, rank, is_over = count + len(part.ids), part.rank, part.is_over
        return count

    async def _fitting(self, tenant: str, query: ThreadQuery, wrong: list[str], *, skip: int, about: int) -> AsyncGenerator[Found, None]:
        """The threads that fit, in order, from the one after the first `skip`, read `about` so many at a time.

        To `wrong` are added those of which the index says what is not so.
        """
        if query.ids is not None:
            found = [entry for entry in await self._read(tenant, query, query.ids) if entry is not None]
            found.sort(key=lambda entry: _sort_key(entry.thread, query.order), reverse=query.is_descending)
            for entry in found:
                yield entry
            return
        await self._indexer.catch_up()
        seen, looked_at = set[str](), 0
        about = min(about, GROUP) if query.is_indexed else GROUP  # else nobody knows how many of them fit
        async for group in self._candidates(tenant, query, skip=skip, about=about):
            fresh = [thread_id for thread_id in group if thread_id not in seen]
            seen.update(fresh)
            looked_at += len(fresh)
            if not query.is_indexed and looked_at > MOST_LOOKED_AT:
                raise InvalidInput(
                    f"more than {MOST_LOOKED_AT} threads would have to be read; narrow it by status or by a plain value of metadata",
                    "search_too_broad",
                )
            entries = await self._read(tenant, query, fresh)
            if query.is_indexed:
                wrong += [thread_id for thread_id, entry in zip(fresh, entries, strict=True) if entry is None]
            for fitting in entries:
                if fitting is not None:
                    yield fitting

    async def _candidates(self, tenant: str, query: ThreadQuery, *, skip: int, about: int) -> AsyncIterator[list[str]]:
        """Ids of the threads that the index takes for fitting, in order and in groups, from the one after the first `skip`."""
        words = words_of(query.status, query.metadata)
        sizes = await self._index.sizes(tenant, words)
        by_size = [word for _, word in sorted(zip(sizes, words, strict=True))]
        if words and query.order not in ORDERS_OF_A_WORD and min(sizes) <= MAX_SORTED:
            ids = await self._index.sorted(tenant, by_size, query.order, is_descending=query.is_descending)
            for start in range(skip, len(ids), about):
                yield ids[start : start + about]
            return
        # The fewer threads the way passes the better; of one word, its own way passes no others and can be entered anywhere.
        way = by_size[0] if words and query.order in ORDERS_OF_A_WORD else ALL
        others = [word for word in by_size if word != way]
        rank = 0 if others else skip
        skip -= rank
        is_over = False
        while not is_over:
            part = await self._index.walk(
                tenant, way, query.order, others, rank=rank, wanted=skip + about, is_descending=query.is_descending
            )
            rank, is_over = part.rank, part.is_over
            if part.ids[skip:]:
                yield part.ids[skip:]
            skip = max(0, skip - len(part.ids))

    async def _read(self, tenant: str, query: ThreadQuery, thread_ids: Sequence[str]) -> list[Found | None]:
        """These threads; None in place of one that is gone or does not fit."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def read(thread_id: str) -> Found | None:
            async with turns:
                thread = await self._threads.get(tenant, thread_id)
                if thread is None or thread.is_passing or query.status not in (None, thread.status):
                    return None
                if not contains(thread.metadata, query.metadata):
                    return None
                if not query.values:
                    return Found(thread)
                values = await self._values(tenant, thread)
                return Found(thread, values) if contains(values, query.values) else None

        return list(await asyncio.gather(*map(read, thread_ids)))


def _sort_key(thread: ThreadRecord, order: Order) -> tuple[Any, str]:
    return getattr(thread, order), thread.thread_id
