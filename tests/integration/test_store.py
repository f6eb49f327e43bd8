"""The store of graphs in a real Redis: LangGraph's meaning, times to live, search by words, and its bounds."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from redis.crc import key_slot

from app.storage.errors import StorageUnavailable
from app.storage.redis import store as module
from app.storage.redis.connection import connect
from app.storage.redis.keys import StoreKeys
from app.storage.redis.store import RedisStore
from app.storage.redis.store_rules import MAX_LABELS, MAX_NAME_BYTES, MAX_VALUE_BYTES, StoreRefused

MINUTE = 60.0


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(redis_client, clock: Clock) -> RedisStore:
    return RedisStore(redis_client, tenant="acme", now=clock)


async def found(store: RedisStore, *prefix: str, **how: Any) -> list[str]:
    """Keys of the items that a search finds."""
    return [item.key for item in await store.asearch(prefix, **how)]


# --- LangGraph's meaning


async def test_an_item_keeps_its_time_of_creation_over_changes(store: RedisStore, clock: Clock) -> None:
    await store.aput(("a", "b"), "k", {"n": 1})
    first = await store.aget(("a", "b"), "k")
    clock.now += 5
    await store.aput(("a", "b"), "k", {"n": 2})
    second = await store.aget(("a", "b"), "k")

    assert first is not None
    assert second is not None
    assert (second.namespace, second.key, second.value) == (("a", "b"), "k", {"n": 2})
    assert second.created_at == first.created_at == first.updated_at
    assert (second.updated_at - first.updated_at).total_seconds() == 5
    await store.adelete(("a", "b"), "k")
    await store.adelete(("a", "b"), "k")
    assert await store.aget(("a", "b"), "k") is None


async def test_it_does_what_langgraphs_own_store_does(store: RedisStore) -> None:
    """Hundreds of operations, alone and in batches, answered as `InMemoryStore` does; searches in the order of names."""
    rng, model = random.Random(7), InMemoryStore()
    labels, keys = ["a", "b", "aa", "ä", "*x"], ["k", "l", "k\0", "a.b", "ключ"]

    def namespace(least: int) -> tuple[str, ...]:
        return tuple(rng.choice(labels) for _ in range(rng.randint(least, 3)))

    def op() -> Any:
        match rng.randrange(6):
            case 0 | 1:
                return PutOp(namespace(1), rng.choice(keys), {"n": rng.randrange(3), "t": rng.choice("xy")})
            case 2:
                return PutOp(namespace(1), rng.choice(keys), None)
            case 3:
                return GetOp(namespace(1), rng.choice(keys))
            case 4:
                wanted = rng.choice([None, {"n": 1}, {"n": {"$gte": 1}, "t": "x"}, {"t": {"$ne": "x"}}])
                return SearchOp(namespace(0), wanted, limit=1000)
            case _:
                ends = [("prefix", namespace(1)), ("suffix", namespace(1)), ("prefix", ("*", rng.choice(labels)))]
                chosen = rng.sample(ends, rng.randrange(3))
                conditions = tuple(module.MatchCondition(kind, path) for kind, path in chosen)  # type: ignore[arg-type]
                return ListNamespacesOp(conditions, rng.choice([None, 1, 2]), limit=rng.choice([2, 100]), offset=rng.randrange(2))

    def plain(result: Any, is_search: bool) -> Any:
        if isinstance(result, list) and is_search:
            return sorted((item.namespace, item.key, str(item.value)) for item in result)
        return (result.namespace, result.key, result.value) if hasattr(result, "key") else result

    for _ in range(300):
        ops = [op() for _ in range(rng.randint(1, 5))]
        expected = [plain(result, isinstance(one, SearchOp)) for one, result in zip(ops, _of_model(model, ops), strict=True)]
        answered = await store.abatch(ops)
        names = [[(item.namespace, item.key) for item in result] for one, result in zip(ops, answered, strict=True) if _is_search(one)]
        assert [plain(result, _is_search(one)) for one, result in zip(ops, answered, strict=True)] == expected, ops
        assert all(order == sorted(order) for order in names)


def _is_search(op: Any) -> bool:
    return isinstance(op, SearchOp)


def _of_model(model: InMemoryStore, ops: list[Any]) -> list[Any]:
    """What LangGraph's store answers; it lists namespaces that have become empty, which is no meaning but a leftover."""
    results = []
    for op in ops:
        for namespace in [namespace for namespace, items in model._data.items() if not items]:
            del model._data[namespace]
        if not isinstance(op, PutOp):
            results += model.batch([op])
        else:
            results.append(None)
    model.batch([op for op in ops if isinstance(op, PutOp)])
    return results


async def test_pages_of_a_search_are_the_whole_in_order(store: RedisStore) -> None:
    """Over more items than one look takes, filtered or not; a page costs no item outside of it."""
    await store.abatch([PutOp(("n", f"{i % 3}"), f"{i:04}", {"even": i % 2 == 0}) for i in range(1300)])

    for wanted in (None, {"even": True}):
        whole = [item.key for item in await store.asearch(("n",), filter=wanted, limit=2000)]
        assert len(whole) == (650 if wanted else 1300)
        pages = [await found(store, "n", filter=wanted, limit=211, offset=start) for start in range(0, len(whole), 211)]
        assert [key for page in pages for key in page] == whole


async def test_a_prefix_is_made_of_whole_labels(store: RedisStore) -> None:
    for namespace in (("user",), ("user", "1"), ("user", "10"), ("users",)):
        await store.aput(namespace, ".".join(namespace), {})

    assert await found(store, "user") == ["user", "user.1", "user.10"]
    assert await found(store, "user", "1") == ["user.1"]
    assert await found(store) == ["user", "user.1", "user.10", "users"]


async def test_tenants_share_nothing(store: RedisStore) -> None:
    other = store.bind(tenant="globex")
    await store.aput(("n",), "k", {"secret": "word"})

    assert await other.aget(("n",), "k") is None
    assert await other.asearch((), query="word") == []
    assert await other.alist_namespaces() == []
    await other.adelete(("n",), "k")
    assert await store.aget(("n",), "k") is not None


# --- times to live


async def test_an_item_is_gone_after_its_minutes(store: RedisStore, clock: Clock) -> None:
    """From reads, searches and listings; an item of the same name is a new one."""
    await store.aput(("n",), "k", {"a": "word"}, ttl=2)
    await store.aput(("stays",), "k", {"a": "word"})
    clock.now += 2 * MINUTE

    assert await store.asearch(("n",)) == await store.asearch(("n",), query="word") == []
    assert await store.aget(("n",), "k") is None
    assert await store.alist_namespaces() == [("stays",)]
    await store.aput(("n",), "k", {})
    item = await store.aget(("n",), "k")
    assert item is not None
    assert item.created_at.timestamp() == clock.now


@pytest.mark.parametrize("reads", ["get", "search", "filter", "query"])
@pytest.mark.parametrize(("refresh", "stays"), [(None, True), (True, True), (False, False)])
async def test_reading_begins_the_time_anew_unless_told_otherwise(
    store: RedisStore, clock: Clock, reads: str, refresh: bool | None, stays: bool
) -> None:
    await store.aput(("n",), "k", {"a": "word"}, ttl=2)
    clock.now += 1.5 * MINUTE
    if reads == "get":
        await store.aget(("n",), "k", refresh_ttl=refresh)
    else:
        how: dict[str, Any] = {"search": {}, "filter": {"filter": {"a": "word"}}, "query": {"query": "word"}}[reads]
        assert len(await store.asearch(("n",), refresh_ttl=refresh, **how)) == 1
    clock.now += 1.5 * MINUTE

    assert (await store.aget(("n",), "k") is not None) is stays


async def test_only_what_a_search_returns_is_refreshed(store: RedisStore, clock: Clock) -> None:
    for key in "ab":
        await store.aput(("n",), key, {}, ttl=2)
    clock.now += 1.5 * MINUTE
    assert await found(store, "n", limit=1) == ["a"]
    clock.now += 1.5 * MINUTE

    assert await found(store, "n") == ["a"]


async def test_a_change_without_a_time_to_live_stays(store: RedisStore, clock: Clock) -> None:
    await store.aput(("n",), "k", {}, ttl=1)
    await store.aput(("n",), "k", {})
    clock.now += 60 * MINUTE

    assert await store.aget(("n",), "k") is not None


async def test_redis_frees_an_item_whose_store_nobody_opens_again(store: RedisStore, redis_client, clock: Clock) -> None:
    """The hash has a lifetime of its own, and the index is swept by what is written later."""
    keys = StoreKeys("acme")
    await store.aput(("n",), "k", {}, ttl=0.5)
    assert 0 < await redis_client.pttl(keys.item() + "n\0\0k") <= 30_000
    clock.now += MINUTE
    await store.aput(("m",), "k", {})

    assert await redis_client.zrange(keys.index(), 0, -1) == [b"m\0\0k"]
    assert await redis_client.zcard(keys.expiry()) == 0


# --- search by words


async def test_a_query_ranks_by_matching_words(store: RedisStore) -> None:
    """What has more and rarer of them comes first; what has none is not found; case and accents do not matter."""
    await store.aput(("n",), "both", {"text": "El envío llegó TARDE"})
    await store.aput(("n",), "rare", {"text": "envio"})
    for i in range(5):
        await store.aput(("n",), f"common{i}", {"text": "tarde"})
    await store.aput(("n",), "none", {"text": "otra cosa"})

    items = await store.asearch(("n",), query="¿Envío tarde?")

    assert [item.key for item in items][:2] == ["both", "rare"]
    assert {item.key for item in items[2:]} == {f"common{i}" for i in range(5)}
    ranks = [item.score for item in items]
    assert ranks[0] == 1.0
    assert ranks == sorted(ranks, reverse=True)  # type: ignore[type-var]
    assert all(ranks)
    assert {item.score for item in await store.asearch(("n",))} == {None}
    assert await found(store, "n", query="¡!") == []
    assert len(await found(store, "n", query="")) == 8


async def test_of_equal_items_the_latest_comes_first(store: RedisStore, clock: Clock) -> None:
    for key in "bca":
        await store.aput(("n",), key, {"text": "same"})
        clock.now += 1

    assert await found(store, "n", query="same") == ["a", "c", "b"]
    assert await found(store, "n", query="same", limit=1, offset=1) == ["c"]


async def test_index_says_which_fields_a_query_looks_at(store: RedisStore) -> None:
    """`False`: none, and nothing else changes; paths: only those; a later write says it anew."""
    value = {"title": "alpha", "body": {"text": "beta"}}
    await store.aput(("n",), "none", value, index=False)
    await store.aput(("n",), "title", value, index=["title"])
    await store.aput(("n",), "body", value, index=["body.text"])
    await store.aput(("n",), "all", value)

    assert set(await found(store, "n", query="alpha")) == {"title", "all"}
    assert set(await found(store, "n", query="beta")) == {"body", "all"}
    assert set(await found(store, "n", filter={"title": "alpha"})) == {"none", "title", "body", "all"}
    await store.aput(("n",), "none", value)
    assert "none" in await found(store, "n", query="alpha")


async def test_query_filter_and_prefix_hold_together(store: RedisStore) -> None:
    await store.aput(("n", "1"), "a", {"text": "red shoes", "size": 40})
    await store.aput(("n", "1"), "b", {"text": "red hat", "size": 50})
    await store.aput(("m",), "c", {"text": "red shoes", "size": 50})

    assert await found(store, "n", query="red", filter={"size": {"$gt": 45}}) == ["b"]


# --- bounds


@pytest.mark.parametrize(
    "namespace",
    [(), ("",), ("a", ""), ("a.b",), ("a\0b",), ("langgraph", "x"), ("a",) * (MAX_LABELS + 1), ("x" * (MAX_NAME_BYTES + 1),), ("\ud800",)],
)
async def test_a_namespace_that_cannot_be_is_refused(store: RedisStore, namespace: tuple[str, ...]) -> None:
    """Also when the operation did not come through the methods that check it."""
    with pytest.raises((StoreRefused, InvalidNamespaceError)):
        await store.aput(namespace, "k", {})
    with pytest.raises(StoreRefused):
        await store.abatch([PutOp(namespace, "k", {})])
    assert await store.alist_namespaces() == []


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (PutOp(("n",), "", {}), "invalid_item"),
        (PutOp(("n",), "x" * (MAX_NAME_BYTES + 1), {}), "invalid_item"),
        (PutOp(("n",), "k", {"a": "x" * MAX_VALUE_BYTES}), "item_too_large"),
        (PutOp(("n",), "k", {"a": object()}), "invalid_item"),
        (PutOp(("n",), "k", {"a": 2**70}), "invalid_item"),
        (PutOp(("n",), "k", {"a": "\ud800"}), "invalid_item"),
        (PutOp(("n",), "k", {}, ttl=0), "invalid_item"),
        (PutOp(("n",), "k", {}, index=["a"] * 65), "invalid_item"),
        (SearchOp(("n",), {"a": {"$in": [1]}}), "invalid_filter"),
        (SearchOp(("n",), limit=-1), "invalid_filter"),
        (ListNamespacesOp(offset=-1), "invalid_filter"),
    ],
)
async def test_what_the_store_does_not_take_is_refused_as_a_whole(store: RedisStore, operation: Any, code: str) -> None:
    """Nothing of the batch is written."""
    with pytest.raises(StoreRefused) as refusal:
        await store.abatch([PutOp(("n",), "good", {}), operation])
    assert refusal.value.code == code
    assert await store.asearch(()) == []


async def test_a_search_over_too_much_says_so(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of answering for a part of it; a longer prefix or no filter helps."""
    monkeypatch.setattr(module, "MAX_SEARCHED", 500)
    monkeypatch.setattr(module, "MAX_FOUND_BYTES", 1024 * 1024)
    await store.abatch([PutOp(("n", str(i // 300)), f"{i:04}", {"text": "word"}) for i in range(1200)])
    for how in ({"filter": {"text": "other"}}, {"query": "word"}):
        with pytest.raises(StoreRefused, match="namespace_prefix") as refusal:
            await store.asearch(("n",), **how)  # type: ignore[arg-type]
        assert refusal.value.code == "search_too_wide"
    assert len(await found(store, "n", "0", query="word", limit=1000)) == 300
    assert len(await found(store, "n", limit=1000)) == 1000
    await store.abatch([PutOp(("big",), str(i), {"text": "x" * 200_000}) for i in range(6)])
    with pytest.raises(StoreRefused, match="bytes"):
        await store.asearch(("big",))
    assert len(await found(store, "big", limit=5)) == 5


async def test_a_listing_jumps_over_items_and_deeper_levels(store: RedisStore, redis_client) -> None:
    """What a listing costs is the number of namespaces it shows, not of the items in them."""
    await store.abatch([PutOp(("users", str(i)), str(j), {}) for i in range(700) for j in range(2)])
    await store.aput(("zoo",), "k", {})

    assert await store.alist_namespaces(max_depth=1) == [("users",), ("zoo",)]
    before = (await redis_client.info("commandstats"))["cmdstat_zrangebylex"]["calls"]
    await store.alist_namespaces(max_depth=1)
    assert (await redis_client.info("commandstats"))["cmdstat_zrangebylex"]["calls"] - before == 3
    assert len(await store.alist_namespaces(prefix=("users",), limit=1000)) == 700
    assert await store.alist_namespaces(suffix=("699",)) == [("users", "699")]


# --- with others


async def test_synchronous_nodes_use_it_in_their_threads(store: RedisStore) -> None:
    """On the event loop it would wait for itself, so it says so instead."""

    def node() -> Any:
        store.put(("n",), "k", {"a": 1})
        return store.get(("n",), "k"), store.search(("n",)), store.list_namespaces()

    item, items, namespaces = await asyncio.to_thread(node)

    assert (item.value, [one.key for one in items], namespaces) == ({"a": 1}, ["k"], [("n",)])
    with pytest.raises(RuntimeError, match="aget"):
        store.get(("n",), "k")


async def test_writers_of_one_item_leave_one_of_theirs(store: RedisStore) -> None:
    await asyncio.gather(*(store.aput(("n",), "k", {"a": i, "b": i}, ttl=5) for i in range(40)))

    item = await store.aget(("n",), "k")
    assert item is not None
    assert item.value["a"] == item.value["b"]
    assert len(await store.asearch(())) == 1


OPERATIONS: dict[str, Any] = {
    "put": PutOp(("n",), "k", {}),
    "get": GetOp(("n",), "k"),
    "search": SearchOp(("n",)),
    "query": SearchOp(("n",), query="x"),
    "namespaces": ListNamespacesOp(),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_an_operation_is_one_round_trip(store: RedisStore, redis_client, name: str) -> None:
    await store.aput(("n",), "k", {"a": "x"}, ttl=5)
    operation = OPERATIONS[name]
    if isinstance(operation, SearchOp | GetOp):
        operation = operation._replace(refresh_ttl=isinstance(operation, GetOp))
    await store.abatch([operation])
    before = (await redis_client.info("commandstats"))["cmdstat_evalsha"]["calls"]
    await store.abatch([operation])
    assert (await redis_client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before == 1


async def test_an_outage_raises_and_never_looks_empty(own_redis) -> None:
    client = connect(own_redis.url)
    store = RedisStore(client)
    await store.aput(("n",), "k", {})
    await asyncio.to_thread(own_redis.kill)

    for operation in OPERATIONS.values():
        with pytest.raises(StorageUnavailable):
            await store.abatch([operation])
    await client.aclose()


async def test_all_keys_of_a_tenants_store_are_in_one_slot(store: RedisStore, redis_client) -> None:
    """Whatever its items are called."""
    for name in ("a}b", "{x}", ":{"):
        await store.aput((name,), name, {}, ttl=5)
    keys = [key async for key in redis_client.scan_iter()]
    assert len(keys) == 5
    assert len({key_slot(key) for key in keys}) == 1
