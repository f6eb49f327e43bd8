"""The index of threads: what is in it, how it is read, and how it comes right again."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.errors import InvalidInput
from app.storage.errors import StorageUnavailable
from app.storage.redis.connection import connect
from app.storage.redis.keys import LAPSING, TenantKeys, ThreadKeys
from app.storage.redis.runs import RunRecord, RunRepository
from app.storage.redis.thread_index import ALL, MAX_SORTED, Indexed, ThreadIndex, words_of
from app.storage.redis.threads import THREAD_TTL, Lifetime, ThreadRepository, new_thread
from app.storage.redis.work import ThreadRef
from app.threads import search as searching
from app.threads.indexer import ThreadIndexer
from app.threads.search import ThreadQuery, ThreadSearch
from tests.support.waiting import until

TENANT = "acme"
ORDERS = ["thread_id", "status", "created_at", "updated_at", "state_updated_at"]


@pytest.fixture
def threads(redis_client):
    return ThreadRepository(redis_client)


@pytest.fixture
def index(redis_client):
    return ThreadIndex(redis_client)


@pytest.fixture
def indexer(index):
    return ThreadIndexer(index)


@pytest.fixture
def search(index, indexer, threads):
    async def values(tenant, thread):
        return {"n": thread.metadata.get("n")}

    return ThreadSearch(index, indexer, threads, values)


async def made(threads, indexer, count, **metadata):
    """So many threads, each older than the one before by a second, its number in `n`."""
    now = datetime.now(UTC)
    ids = []
    for n in range(count):
        at = now - timedelta(seconds=n)
        thread = new_thread(f"t{n:04}", {"n": n, **{key: value(n) if callable(value) else value for key, value in metadata.items()}})
        thread = replace(thread, created_at=at, updated_at=at, state_updated_at=at)
        assert await threads.create(TENANT, thread)
        ids.append(thread.thread_id)
    await indexer.write([ThreadRef(TENANT, thread_id) for thread_id in ids])
    return ids


async def found(search, *, limit=1000, offset=0, **query):
    page, has_more = await search.page(TENANT, ThreadQuery(**query), limit=limit, offset=offset)
    return [entry.thread.thread_id for entry in page], has_more


async def entries(client):
    """Everything that the index holds: members by set, and what is known of each thread."""
    keys = sorted(await client.keys(f"{TenantKeys(TENANT).thread_index().replace('{', '[{]').replace('}', '[}]')}*"))
    return {key: (await client.zrange(key, 0, -1, withscores=True) if b":threads:" in key else await client.hgetall(key)) for key in keys}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("is_descending", [True, False])
async def test_any_page_of_any_search_is_that_of_a_list_that_is_filtered_and_sorted(search, threads, indexer, order, is_descending):
    """Whichever way through the index is taken, for one word, several, and what the index does not know."""
    rng = random.Random(7)
    await made(threads, indexer, 60, colour=lambda n: rng.choice("rgb"), size=lambda n: rng.choice([1, 2]), deep=lambda n: {"odd": n % 2})
    everything = [await threads.get(TENANT, f"t{n:04}") for n in range(60)]
    everything.sort(key=lambda thread: (getattr(thread, order), thread.thread_id), reverse=is_descending)
    queries: list[dict[str, Any]] = [
        {}, {"metadata": {"colour": "r"}}, {"metadata": {"colour": "g", "size": 1}}, {"status": "idle", "metadata": {"size": 2}},
        {"metadata": {"deep": {"odd": 1}}}, {"metadata": {"colour": "b", "deep": {"odd": 0}}}, {"values": {"n": 33}}, {"status": "busy"},
    ]  # fmt: skip
    for query in queries:
        wanted = [
            thread.thread_id
            for thread in everything
            if query.get("status", "idle") == thread.status
            and all(thread.metadata.get(key) == value for key, value in query.get("metadata", {}).items())
            and query.get("values", {}).get("n", thread.metadata["n"]) == thread.metadata["n"]
        ]
        for offset, limit in ((0, 5), (3, 7), (len(wanted), 3), (0, 1000)):
            page = await found(search, order=order, is_descending=is_descending, offset=offset, limit=limit, **query)
            assert page == (wanted[offset : offset + limit], len(wanted) > offset + limit), query
        assert await search.count(TENANT, ThreadQuery(**query)) == len(wanted)


@pytest.mark.parametrize("order", ["status", "state_updated_at"])
async def test_a_word_that_fits_very_many_is_followed_in_the_order_of_all(search, threads, indexer, monkeypatch, order):
    """More threads than are sorted when they are asked for."""
    monkeypatch.setattr(searching, "MAX_SORTED", 5)
    ids = await made(threads, indexer, 30, colour=lambda n: "rg"[n % 2])
    wanted = ids[::2] if order == "state_updated_at" else ids[::2][::-1]

    assert await found(search, order=order, metadata={"colour": "r"}, offset=4, limit=3) == (wanted[4:7], True)
    assert MAX_SORTED > 5


async def test_a_page_reads_as_few_entries_of_a_long_index_as_of_a_short_one(search, threads, index, redis_client):
    """Also at its far end, and for a word whose threads are all at the far end."""
    ids = [f"x{n:05}" for n in range(20_000)]
    now = datetime.now(UTC)
    for start in range(0, len(ids), 1000):
        batch = [
            Indexed(replace(new_thread(thread_id, {"old": True}), created_at=now - timedelta(days=2)), 1, 1e6, 0, is_held=False)
            if n < 10_000
            else Indexed(new_thread(thread_id, {"old": False}), 1, 1e6, 0, is_held=False)
            for n, thread_id in enumerate(ids[start : start + 1000], start)
        ]
        await index.write(TENANT, batch, time.time())
    (old,) = words_of(None, {"old": True})
    for way, order, rank in ((ALL, "created_at", 0), (ALL, "state_updated_at", 19_000), (old, "created_at", 0), (old, "updated_at", 9_000)):
        part = await index.walk(TENANT, way, order, [], rank=rank, wanted=11, is_descending=True)
        assert (len(part.ids), part.rank - rank) == (11, 11)


async def test_older_news_never_replaces_newer(index, threads, indexer, redis_client):
    """Whoever is late with what it read before says nothing."""
    await threads.create(TENANT, new_thread("t", {"colour": "red"}))
    old = await index.read(TENANT, "t")
    await threads.merge(TENANT, "t", {"colour": "blue"})
    await indexer.write([ThreadRef(TENANT, "t")])
    before = await entries(redis_client)

    await index.write(TENANT, [old], time.time())

    assert await entries(redis_client) == before


async def test_writing_twice_is_as_once_and_forgetting_leaves_nothing(index, threads, indexer, redis_client):
    await made(threads, indexer, 3, colour="red")
    before = await entries(redis_client)
    await indexer.write([ThreadRef(TENANT, f"t{n:04}") for n in range(3)])
    assert await entries(redis_client) == before

    for n in range(3):
        await threads.delete(TENANT, f"t{n:04}")
    await indexer.write([ThreadRef(TENANT, f"t{n:04}") for n in range(3)])
    assert await entries(redis_client) == {}


async def test_a_thread_that_was_made_anew_is_not_forgotten_by_who_saw_it_gone(index, threads, indexer, redis_client):
    """Its index entry is not the one that was seen before."""
    await made(threads, indexer, 1)
    known = (await index.known(TENANT, ["t0000"]))[0]
    await threads.delete(TENANT, "t0000")
    await threads.create(TENANT, new_thread("t0000", {"new": True}))
    await indexer.write([ThreadRef(TENANT, "t0000")])

    await index.drop(TENANT, {"t0000": known})

    assert await index.sizes(TENANT, words_of(None, {"new": True})) == [1]


async def test_hits_that_are_not_so_are_left_out_and_corrected(search, threads, index, redis_client):
    """The page is full all the same, the count is right afterwards, and the next page begins where it should."""
    indexer = ThreadIndexer(index)
    ids = await made(threads, indexer, 12, colour="red")
    await redis_client.delete(ThreadKeys(TENANT, ids[0]).thread())
    await threads.merge(TENANT, ids[2], {"colour": "blue"})

    assert await found(search, metadata={"colour": "red"}, limit=4) == ([ids[1], *ids[3:6]], True)
    assert await found(search, metadata={"colour": "red"}, limit=4, offset=4) == (ids[6:10], True)
    assert await search.count(TENANT, ThreadQuery(metadata={"colour": "red"})) == 10
    assert await found(search, metadata={"colour": "blue"}) == ([ids[2]], False)


async def test_a_search_that_would_read_too_many_threads_is_refused(search, threads, indexer, monkeypatch):
    """It does not pretend that there are no more."""
    monkeypatch.setattr(searching, "MOST_LOOKED_AT", 20)
    monkeypatch.setattr(searching, "GROUP", 5)
    await made(threads, indexer, 30, deep=lambda n: {"n": n})

    assert await found(search, metadata={"deep": {}}, limit=5) == ([f"t{n:04}" for n in range(5)], True)
    with pytest.raises(InvalidInput) as refusal:
        await found(search, metadata={"deep": {"n": 29}})
    assert refusal.value.code == "search_too_broad"


async def test_a_run_is_told_of_without_waiting_and_indexed_in_groups(redis_client, index):
    """Acceptance and end of a run return before the index is written; a moment later it says what the thread is."""
    indexer = ThreadIndexer(index)
    runs = RunRepository(redis_client, lease=10.0, on_change=indexer.touch)
    now = datetime.now(UTC)
    run = RunRecord("r", "t", "assistant", "agent", "pending", now, now, deadline_at=now + timedelta(hours=1))
    accepted = await runs.accept(TENANT, run, create=new_thread("t", {}), claims="now")
    assert await entries(redis_client) == {}

    writer = asyncio.create_task(indexer.run())
    graph = words_of("busy", {"graph_id": "agent"})

    async def is_indexed() -> bool:
        return await index.sizes(TENANT, graph) == [1, 1]

    await until(is_indexed, 5)
    await runs.finish(TENANT, run, accepted.fence, status="success", thread_status="idle", event=("end", b"{}"))
    writer.cancel()  # what has not been written is written now
    await asyncio.gather(writer, return_exceptions=True)
    assert await index.sizes(TENANT, [*graph, "status.idle"]) == [0, 1, 1]


async def test_during_an_outage_changes_are_kept_and_searches_fail(own_redis):
    """Nothing looks empty, and what was done before is found afterwards."""
    client = connect(own_redis.url)
    threads, index = ThreadRepository(client), ThreadIndex(client)
    indexer = ThreadIndexer(index)
    await threads.create(TENANT, new_thread("t", {}))
    own_redis.kill()
    await indexer.note(TENANT, ["t"])
    search = ThreadSearch(index, indexer, threads, None)
    with pytest.raises(StorageUnavailable):
        await found(search)
    with pytest.raises(StorageUnavailable):
        await search.count(TENANT, ThreadQuery())
    own_redis.start()
    await threads.create(TENANT, new_thread("t", {}))
    assert await found(search) == (["t"], False)
    await client.aclose()


async def test_the_sweep_finds_what_the_index_lacks_and_what_it_has_wrong(index, threads, indexer, redis_client):
    """Of all tenants; what is right is not touched, and only one process sweeps at a time."""
    await made(threads, indexer, 5)
    await threads.create("a:b", new_thread("{odd}", {}))
    await threads.merge(TENANT, "t0002", {"colour": "red"})

    differing = [thread async for group in index.differing() for thread in group]

    assert sorted(differing, key=str) == sorted([ThreadRef("a:b", "{odd}"), ThreadRef(TENANT, "t0002")], key=str)
    assert [await index.begin_sweep(60.0) for _ in range(3)] == [True, False, False]


async def test_a_look_is_planned_for_the_earliest_time_and_taken_once(index, threads, indexer, redis_client):
    """By one of many; what is planned earlier meanwhile is not put off."""
    await threads.create(TENANT, new_thread("t", {}))
    await indexer.write([ThreadRef(TENANT, "t")])
    ((_, first),) = await redis_client.zrange(LAPSING, 0, -1, withscores=True)
    await threads.merge(TENANT, "t", {}, Lifetime(60.0))
    await indexer.write([ThreadRef(TENANT, "t")])
    ((_, second),) = await redis_client.zrange(LAPSING, 0, -1, withscores=True)
    now = time.time()
    assert (round((first - now) / THREAD_TTL, 3), 50 < second - now < 70) == (1, True)

    taken = await asyncio.gather(*(index.take_lapsed(now + 100, now + 200) for _ in range(5)))
    assert sorted(map(len, taken)) == [0, 0, 0, 0, 1]
    await indexer.write([ThreadRef(TENANT, "t")])
    await index.settle_lapsed(ThreadRef(TENANT, "t"), now + 200, now + 9999)
    ((_, third),) = await redis_client.zrange(LAPSING, 0, -1, withscores=True)
    assert third < now + 100
