"""Assistants in a real Redis: versions, races, limits, and that tenants do not meet."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.assistants.service import AssistantPatch, AssistantService
from app.errors import NotChangeable, NotFound
from app.storage.errors import StorageUnavailable
from app.storage.redis.assistants import (
    AssistantChanged,
    AssistantExists,
    AssistantMissing,
    AssistantRecord,
    AssistantRepository,
    TooManyAssistants,
)
from app.storage.redis.connection import connect
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.runs import RunRecord, RunRepository
from app.storage.redis.thread_index import ThreadIndex
from app.storage.redis.threads import ThreadRepository, new_thread
from app.threads.indexer import ThreadIndexer
from tests.support.nested_graphs import GRAPHS

TENANT = "acme"
NOW = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)


@pytest.fixture
def stored(redis_client):
    return AssistantRepository(redis_client)


def record(assistant_id="x", **fields):
    return AssistantRecord(assistant_id, "a", "X", created_at=NOW, updated_at=NOW, **fields)


async def test_an_assistant_comes_back_as_it_was_written(stored):
    written = record(description="for nights", config={"tags": ["ü"]}, context={"answer_at": 0.8}, metadata={"a": [None, {"b": 1.5}]})

    await stored.create(TENANT, written)

    assert await stored.get(TENANT, "x") == written
    assert await stored.all(TENANT) == [written]
    assert await stored.versions(TENANT, "x") == [written]


async def test_tenants_do_not_meet(stored):
    await stored.create(TENANT, record())
    await stored.create("other", record(metadata={"theirs": True}))
    await stored.delete("other", "x")

    assert await stored.get(TENANT, "x") == record()
    assert await stored.get("other", "x") is None
    assert await stored.all("other") == await stored.versions("other", "x") == []


async def test_an_id_is_given_once_and_its_owner_is_told(stored):
    await stored.create(TENANT, record())
    with pytest.raises(AssistantExists) as refused:
        await stored.create(TENANT, record(metadata={"second": True}))

    assert refused.value.args == (record(),)
    assert await stored.get(TENANT, "x") == record()


async def test_of_many_who_create_one_id_one_does(stored):
    outcomes = await asyncio.gather(*(stored.create(TENANT, record(metadata={"by": i})) for i in range(20)), return_exceptions=True)

    assert [isinstance(outcome, AssistantExists) for outcome in outcomes].count(False) == 1
    assert len(await stored.versions(TENANT, "x")) == 1


async def test_a_tenant_has_only_so_many(redis_client):
    few = AssistantRepository(redis_client, most=2)
    await few.create(TENANT, record("x"))
    await few.create(TENANT, record("y"))
    with pytest.raises(TooManyAssistants):
        await few.create(TENANT, record("z"))
    await few.create("other", record("z"))
    await few.delete(TENANT, "x")
    await few.create(TENANT, record("z"))

    assert {found.assistant_id for found in await few.all(TENANT)} == {"y", "z"}


async def test_only_so_many_versions_are_kept_and_numbers_go_on(redis_client):
    few = AssistantRepository(redis_client, versions=3)
    await few.create(TENANT, record())
    for number in range(2, 7):
        seen = await few.see(TENANT, "x")
        assert seen.last == number - 1
        await few.add_version(TENANT, seen, record(version=number, metadata={"n": number}))

    assert [version.version for version in await few.versions(TENANT, "x")] == [6, 5, 4]
    assert await few.version(TENANT, "x", 3) is None
    assert (await few.get(TENANT, "x")).metadata == {"n": 6}


async def test_a_version_is_of_its_own_time(stored):
    later = NOW + timedelta(hours=1)
    await stored.create(TENANT, record())
    await stored.add_version(TENANT, await stored.see(TENANT, "x"), replace(record(version=2), updated_at=later))

    newest, first = await stored.versions(TENANT, "x")
    assert (newest.created_at, first.created_at) == (later, NOW)
    assert ((await stored.get(TENANT, "x")).created_at, (await stored.get(TENANT, "x")).updated_at) == (NOW, later)


async def test_whoever_has_read_an_older_record_is_told(stored):
    await stored.create(TENANT, record())
    seen = await stored.see(TENANT, "x")
    await stored.add_version(TENANT, seen, record(version=2))
    for change in (stored.add_version(TENANT, seen, record(version=2)), stored.go_back(TENANT, seen, record())):
        with pytest.raises(AssistantChanged):
            await change

    await stored.delete(TENANT, "x")
    with pytest.raises(AssistantChanged):
        await stored.go_back(TENANT, seen, record())
    with pytest.raises(AssistantMissing):
        await stored.see(TENANT, "x")
    assert await stored.all(TENANT) == await stored.versions(TENANT, "x") == []


async def test_every_one_of_many_patches_at_once_is_a_version(redis_client):
    service = AssistantService(GRAPHS, AssistantRepository(redis_client), _nothing)
    made = await service.create(TENANT, None, AssistantPatch("a"), reuse=False)

    await asyncio.gather(*(service.update(TENANT, made.assistant_id, AssistantPatch(metadata={f"k{i}": i})) for i in range(12)))

    assert (await service.get(TENANT, made.assistant_id)).metadata == {f"k{i}": i for i in range(12)}
    found = await service.versions(TENANT, made.assistant_id, metadata=None, limit=50, offset=0)
    assert [version.version for version in found] == list(range(13, 0, -1))


async def test_after_going_back_the_next_version_has_a_new_number(redis_client):
    service = AssistantService(GRAPHS, AssistantRepository(redis_client), _nothing)
    made = await service.create(TENANT, None, AssistantPatch("a", name="one", context={"answer_at": 0.8}), reuse=False)
    await service.update(TENANT, made.assistant_id, AssistantPatch("b", name="two", context={}))

    back = await service.set_latest(TENANT, made.assistant_id, 1)
    third = await service.update(TENANT, made.assistant_id, AssistantPatch(description="third"))

    assert (back.graph_id, back.name, back.context, back.version, back.created_at) == ("a", "one", {"answer_at": 0.8}, 1, made.created_at)
    assert back.updated_at > made.updated_at
    assert (third.version, third.name, third.description) == (3, "one", "third")
    with pytest.raises(NotFound, match="has no version 9"):
        await service.set_latest(TENANT, made.assistant_id, 9)


async def test_a_full_tenant_is_told_what_to_do(redis_client):
    service = AssistantService(GRAPHS, AssistantRepository(redis_client, most=0), _nothing)
    with pytest.raises(NotChangeable) as refused:
        await service.create(TENANT, None, AssistantPatch("a"), reuse=False)

    assert refused.value.code == "too_many_assistants"


async def test_an_assistant_whose_graph_is_gone_is_not_run(redis_client):
    stored = AssistantRepository(redis_client)
    made = await AssistantService(GRAPHS, stored, _nothing).create(TENANT, None, AssistantPatch("b"), reuse=False)
    later = AssistantService({"a": GRAPHS["a"]}, stored, _nothing)

    assert (await later.get(TENANT, made.assistant_id)).graph_id == "b"
    with pytest.raises(NotFound, match=r"graph 'b' of assistant .* is not offered here"):
        await later.find(TENANT, made.assistant_id)


async def test_the_threads_of_an_assistant_are_found_among_many(redis_client, stored):
    threads, runs = ThreadRepository(redis_client), RunRepository(redis_client, lease=10.0)
    for i in range(250):
        await threads.create(TENANT, new_thread(f"t{i}", {"assistant_id": "y"} if i == 7 else {}))
    await threads.create("other", new_thread("t0", {"assistant_id": "x"}))
    for thread_id, assistant_id in (("t3", "x"), ("t9", "y"), ("t249", "x")):
        run = RunRecord(f"r-{thread_id}", thread_id, assistant_id, "a", "pending", NOW, NOW, deadline_at=NOW + timedelta(hours=1))
        await runs.accept(TENANT, run, create=None, claims="queued")
    await ThreadIndexer(ThreadIndex(redis_client)).note(TENANT, [f"t{i}" for i in range(250)])
    await redis_client.delete(ThreadKeys(TENANT, "t5").thread())  # has run out, and is still in the list

    assert {thread_id async for thread_id in stored.threads_of(TENANT, "x")} == {"t3", "t249"}
    assert {thread_id async for thread_id in stored.threads_of(TENANT, "y")} == {"t7", "t9"}


async def test_without_redis_nothing_looks_empty(own_redis):
    client = connect(own_redis.url)
    stored = AssistantRepository(client)
    own_redis.kill()

    for asked in (stored.get(TENANT, "x"), stored.all(TENANT), stored.versions(TENANT, "x"), stored.create(TENANT, record())):
        with pytest.raises(StorageUnavailable):
            await asked
    await client.aclose()


async def _nothing(tenant, thread_id):
    raise AssertionError("no thread was to go")
