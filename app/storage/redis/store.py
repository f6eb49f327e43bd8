"""LangGraph's long-term memory in Redis with core commands only: one round trip per operation, a page of a search being one (ADR-0030)."""

from __future__ import annotations

import asyncio
import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from app.storage.redis import store_scripts as lua
from app.storage.redis.connection import guarded
from app.storage.redis.keys import StoreKeys
from app.storage.redis.store_rules import MAX_QUERY_WORDS, MAX_VALUE_BYTES, StoreRefused, check_op
from app.storage.redis.store_words import fits, scores, words, words_of

MAX_SEARCHED = 10_000
"""Most items that one search with a query or a filter looks at."""
MAX_FOUND_BYTES = 16 * 1024 * 1024
"""Most bytes of items that one search holds."""
MAX_NAMESPACES = 100_000
"""Most namespaces that one listing looks at."""
_PAGE, _PAGE_BYTES = 500, 1024 * 1024


@dataclass(slots=True)
class _Search:
    """What a search has seen so far."""

    skip: int
    cursor: bytes = b""
    seen: int = 0
    held: int = 0
    found: list[tuple[SearchItem, bool, list[str]]] = field(default_factory=list)  # item, whether it expires, its words of the query


class RedisStore(BaseStore):
    """The items of one tenant; asynchronous, safe to share between tasks, and usable by synchronous nodes in threads of their own.

    Items of a namespace come in the order of their keys, those of a search without a query in that of their namespaces and
    keys. A query ranks by its words; what has none of them is left out. An item that has expired is not there.

    Args:
        client: From `connection.connect`.
        tenant: Whose items these are.
        now: Seconds since 1970, about the same in all processes.

    Raises:
        StorageUnavailable: From every method; an outage never looks like a missing item.
        StoreRefused: From every method; nothing was written.
    """

    supports_ttl = True

    def __init__(self, client: Redis, *, tenant: str = "default", now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._tenant = tenant
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._get = client.register_script(lua.GET)
        self._put = client.register_script(lua.PUT)
        self._look = client.register_script(lua.SEARCH)
        self._refresh = client.register_script(lua.REFRESH)
        self._list = client.register_script(lua.NAMESPACES)

    def bind(self, *, tenant: str) -> RedisStore:
        """The same store for this tenant."""
        bound = copy.copy(self)
        bound._tenant = tenant
        return bound

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """See `abatch`; for synchronous nodes, which LangGraph runs in threads of their own.

        Raises:
            RuntimeError: It was called on the event loop, which would wait for itself.
        """
        try:
            is_on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_on_loop = False
        if is_on_loop:
            raise RuntimeError("the store is asynchronous here: use await store.aget, aput, asearch, adelete, alist_namespaces")
        return asyncio.run_coroutine_threadsafe(self.abatch(list(ops)), self._loop).result()

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute the operations: what is read is as it was before what is written, and all writes are one atomic change."""
        listed = list(ops)
        for op in listed:
            check_op(op)
        results: list[Result] = [None] * len(listed)
        gets = [(place, op) for place, op in enumerate(listed) if isinstance(op, GetOp)]
        if gets:
            for (place, _), item in zip(gets, await self._items([op for _, op in gets]), strict=True):
                results[place] = item
        for place, op in enumerate(listed):
            if isinstance(op, SearchOp):
                results[place] = await self._search(op)
            elif isinstance(op, ListNamespacesOp):
                results[place] = await self._namespaces(op)
        puts = {(op.namespace, op.key): op for op in listed if isinstance(op, PutOp)}  # the last one counts
        if puts:
            now = datetime.fromtimestamp(self._now(), UTC).isoformat()
            await self._run(self._put, [now, *(part for op in puts.values() for part in _packed(op))])
        return results

    async def _items(self, ops: Sequence[GetOp]) -> list[Item | None]:
        found = await self._run(self._get, [part for op in ops for part in (int(op.refresh_ttl), _name(op.namespace, op.key))])
        return [_plain(_item(op.namespace, op.key, fields)) if fields else None for op, fields in zip(ops, found, strict=True)]

    async def _search(self, op: SearchOp) -> list[SearchItem]:
        wanted = list(dict.fromkeys(words(op.query)))[:MAX_QUERY_WORDS] if op.query else []
        if op.limit == 0 or (op.query and not wanted):
            return []
        search = await (self._page(op) if not wanted and not op.filter else self._searched(op, wanted))
        if wanted:
            ranks = scores(wanted, [had for _, _, had in search.found], search.seen)
            for (item, _, _), rank in zip(search.found, ranks, strict=True):
                item.score = rank
            # Equal ones: the latest first, then by name, which is the order that they came in.
            search.found.sort(key=lambda entry: (entry[0].score or 0.0, entry[0].updated_at), reverse=True)
        start = op.offset if wanted or op.filter else 0
        chosen = search.found[start : start + op.limit]
        passing = [_name(item.namespace, item.key) for item, expires, _ in chosen if expires]
        if op.refresh_ttl and passing:
            await self._run(self._refresh, passing)
        return [item for item, _, _ in chosen]

    async def _page(self, op: SearchOp) -> _Search:
        """`limit` items after `offset` others."""
        search = _Search(skip=op.offset)
        while len(search.found) < op.limit and await self._step(search, op, [], op.limit - len(search.found)):
            pass
        return search

    async def _searched(self, op: SearchOp, wanted: Sequence[str]) -> _Search:
        """All items that fit; with nothing to rank by, only as many as are needed."""
        search = _Search(skip=0)
        most = math.inf if wanted else op.offset + op.limit
        while len(search.found) < most and await self._step(search, op, wanted, _PAGE):
            if search.seen >= MAX_SEARCHED:
                text = f"more than {MAX_SEARCHED} items would have to be looked at; search below a longer namespace_prefix"
                raise StoreRefused(text, "search_too_wide")
        return search

    async def _step(self, search: _Search, op: SearchOp, wanted: Sequence[str], items: int) -> bool:
        """One look at a page of names; False: there is nothing behind it."""
        first, last = _range(op.namespace_prefix)
        args = [b"(" + search.cursor if search.cursor else first, last, 2 * _PAGE, min(items, _PAGE), _PAGE_BYTES, search.skip, *wanted]
        cursor, seen, search.skip, found = await self._run(self._look, args)
        search.seen += seen
        for name, value, created, updated, expires, had in found:
            namespace, key = _unname(name)
            item = _item(namespace, key, (value, created, updated))
            if not op.filter or fits(item.value, op.filter):
                search.held += len(value)
                search.found.append((item, bool(expires), [word.decode() for word in had]))
        if search.held > MAX_FOUND_BYTES:
            raise StoreRefused(f"what was found has more than {MAX_FOUND_BYTES} bytes; ask for less of it", "search_too_wide")
        search.cursor = cursor
        return bool(cursor)

    async def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        prefix: tuple[str, ...] = ()
        for condition in conditions:
            if condition.match_type == "prefix":
                literal = condition.path.index("*") if "*" in condition.path else len(condition.path)
                prefix = max(prefix, condition.path[:literal], key=len)
        # What decides on a namespace is in its first labels, so there is no need to look at more of it.
        is_decided = all(condition.match_type == "prefix" and len(condition.path) <= (op.max_depth or 0) for condition in conditions)
        depth = op.max_depth if op.max_depth and is_decided else ""
        first, last = _range(prefix)
        found: dict[tuple[str, ...], None] = {}
        looked = 0
        while first and len(found) < op.offset + op.limit:
            first, names = await self._run(self._list, [first, last, depth, _PAGE])
            looked += len(names)
            for name in names:
                namespace = tuple(name.decode().split("\0"))
                if all(_matches(condition, namespace) for condition in conditions):
                    found[namespace[: op.max_depth]] = None
            if looked > MAX_NAMESPACES:
                raise StoreRefused(f"there are more than {MAX_NAMESPACES} namespaces; give a longer prefix", "search_too_wide")
        return list(found)[op.offset : op.offset + op.limit]

    async def _run(self, script: AsyncScript, args: Sequence[Any]) -> Any:
        keys = StoreKeys(self._tenant)
        with guarded():
            return await script(keys=[keys.index(), keys.expiry(), keys.item()], args=[int(self._now() * 1000), *args])


def _packed(op: PutOp) -> tuple[bytes, bytes, str, str]:
    """What the script takes of a write."""
    name = _name(op.namespace, op.key)
    if op.value is None:
        return name, b"", "", ""
    value = dict(op.value)
    try:
        data = orjson.dumps(value)
    except TypeError as exc:
        raise StoreRefused(f"the value cannot be written as JSON: {exc}") from None
    if len(data) > MAX_VALUE_BYTES:
        raise StoreRefused(f"the value has {len(data)} bytes as JSON; at most {MAX_VALUE_BYTES} are kept", "item_too_large")
    found = words_of(value, op.index or None) if op.index is not False and op.index != [] else set()
    ttl = str(max(1, round(op.ttl * 60_000))) if op.ttl is not None else ""
    return name, data, ttl, f" {' '.join(sorted(found))} " if found else ""


def _name(namespace: Sequence[str], key: str) -> bytes:
    """An item's name in the index; see `store_scripts`."""
    return ("\0".join(namespace) + "\0\0" + key).encode()


def _unname(name: bytes) -> tuple[tuple[str, ...], str]:
    namespace, _, key = name.decode().partition("\0\0")
    return tuple(namespace.split("\0")), key


def _range(prefix: Sequence[str]) -> tuple[bytes, bytes]:
    """All names in and below a namespace, as ZRANGEBYLEX takes it."""
    if not prefix:
        return b"-", b"+"
    head = "\0".join(prefix).encode() + b"\0"
    return b"[" + head, b"(" + head + b"\xff"


def _item(namespace: tuple[str, ...], key: str, fields: Sequence[bytes]) -> SearchItem:
    value, created, updated = fields
    created_at, updated_at = (datetime.fromisoformat(at.decode()) for at in (created, updated))
    return SearchItem(namespace, key, orjson.loads(value), created_at, updated_at)


def _plain(item: SearchItem) -> Item:
    return Item(namespace=item.namespace, key=item.key, value=item.value, created_at=item.created_at, updated_at=item.updated_at)


def _matches(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))
