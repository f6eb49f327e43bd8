"""Threads found, counted, copied, thinned out, kept for a time of their own, and begun with a history: by the protocol's real client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError

from tests.support.fleet import wait_until
from tests.support.protocol import brisk, new_thread, resumes
from tests.support.service import Service
from tests.support.waiting import until

UNKNOWN = str(uuid4())
FEE = {"messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]}
REFUND = {"messages": [{"role": "user", "content": "refund order 7"}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two tenants and the conformance graph."""
    keys = "a:acme,b:other"
    made = Service(tmp_path_factory.mktemp("threads"), CONFORMANCE_GRAPH="true", API_KEYS=keys, RATE_LIMIT_RPM="0", LEASE_SECONDS="1")
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=service.url, api_key="a") as made:
        yield made


@pytest.fixture
async def stranger(service: Service) -> AsyncIterator[LangGraphClient]:
    async with get_client(url=service.url, api_key="b") as made:
        yield made


@pytest.fixture
def raw(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers={"x-api-key": "a"}, timeout=60) as made:
        yield made


def batch() -> dict[str, Any]:
    """A metadata pair that no other test has."""
    return {"batch": str(uuid4())}


def ids(threads: list[Any]) -> list[str]:
    return [thread["thread_id"] for thread in threads]


# --- search


async def test_threads_are_found_by_what_their_metadata_hold(client: LangGraphClient) -> None:
    """Pairs, several of them, objects in part and elements of lists; numbers by value."""
    mine = batch()
    first = await client.threads.create(metadata={**mine, "n": 1, "user": {"id": "u", "plan": "x"}, "tags": ["a", "b"]})
    second = await client.threads.create(metadata={**mine, "n": 2, "user": {"id": "v"}})

    async def found(**metadata: Any) -> list[str]:
        return ids(await client.threads.search(metadata={**mine, **metadata}))

    assert await found() == [second["thread_id"], first["thread_id"]]
    assert await found(n=1.0) == await found(user={"id": "u"}) == await found(tags=["b"]) == [first["thread_id"]]
    assert await found(n="1") == await found(user={"id": "w"}) == await found(n=1, user={"id": "v"}) == []


async def test_a_change_of_metadata_changes_where_a_thread_is_found(client: LangGraphClient) -> None:
    old, new = batch(), batch()
    thread = await client.threads.create(metadata=old)
    await client.threads.update(thread["thread_id"], metadata=new)

    assert await client.threads.search(metadata=old) == []
    assert ids(await client.threads.search(metadata=new)) == [thread["thread_id"]]
    await client.threads.delete(thread["thread_id"])
    assert await client.threads.search(metadata=new) == []
    assert await client.threads.count(metadata=new) == 0


@pytest.mark.parametrize("order", ["thread_id", "status", "created_at", "updated_at", "state_updated_at"])
def test_pages_in_every_order_hold_each_thread_once(raw: httpx.Client, order: str) -> None:
    """Ascending is the reverse of descending, and the header names the next page as long as there is one."""
    mine = batch()
    made = [raw.post("/threads", json={"metadata": {**mine, "n": n}}).json() for n in range(7)]
    raw.patch(f"/threads/{made[3]['thread_id']}", json={"metadata": {"touched": True}}).raise_for_status()

    body = {"metadata": mine, "sort_by": order, "sort_order": "asc", "limit": 3}
    seen, offset = [], "0"
    while offset is not None:
        page = raw.post("/threads/search", json={**body, "offset": int(offset)})
        seen += page.json()
        offset = page.headers.get("x-pagination-next")
    assert sorted(ids(seen)) == sorted(ids(made))
    keys = [(thread[order], thread["thread_id"]) for thread in seen]
    assert keys == sorted(keys)
    backwards = raw.post("/threads/search", json={**body, "sort_order": "desc", "limit": 100})
    assert ids(backwards.json()) == ids(seen)[::-1]
    assert "x-pagination-next" not in backwards.headers


async def test_named_threads_are_found_if_they_fit(client: LangGraphClient) -> None:
    mine = batch()
    made = [await client.threads.create(metadata={**mine, "n": n}) for n in range(4)]
    wanted = [made[2]["thread_id"], UNKNOWN, made[0]["thread_id"], made[2]["thread_id"]]

    assert ids(await client.threads.search(ids=wanted)) == [made[2]["thread_id"], made[0]["thread_id"]]
    assert ids(await client.threads.search(ids=wanted, sort_order="asc", limit=1)) == [made[0]["thread_id"]]
    assert ids(await client.threads.search(ids=wanted, offset=1)) == [made[0]["thread_id"]]
    assert ids(await client.threads.search(ids=wanted, metadata={"n": 0})) == [made[0]["thread_id"]]


async def test_what_a_run_changes_is_found_right_after_it(client: LangGraphClient) -> None:
    """By the graph that it executed, by status and by values; the status that the thread had before finds it no more."""
    mine = batch()
    asks, done = [await client.threads.create(metadata=mine) for _ in range(2)]
    await client.runs.wait(asks["thread_id"], "conformance", input=REFUND)
    await client.runs.wait(done["thread_id"], "conformance", input=FEE)
    agent = {"graph_id": "conformance"}

    assert ids(await client.threads.search(metadata={**mine, **agent})) == [done["thread_id"], asks["thread_id"]]
    assistants = await client.assistants.search(graph_id="conformance")
    assert len(await client.threads.search(metadata={**mine, "assistant_id": assistants[0]["assistant_id"]})) == 2
    (waiting,) = await client.threads.search(metadata=mine, status="interrupted")
    assert (waiting["thread_id"], [len(asked) for asked in waiting["interrupts"].values()]) == (asks["thread_id"], [1])
    assert ids(await client.threads.search(metadata=mine, status="idle")) == [done["thread_id"]]
    assert await client.threads.search(metadata=mine, status="busy") == []
    said = {"notes": ["refund order 7"]}
    assert ids(await client.threads.search(metadata=mine, values=said)) == [asks["thread_id"]]
    assert await client.threads.count(metadata=mine, values=said) == 1
    await client.runs.wait(asks["thread_id"], "conformance", command={"resume": "yes"})
    assert len(await client.threads.search(metadata=mine, status="idle")) == 2


async def test_a_busy_thread_is_found_as_such(client: LangGraphClient) -> None:
    mine = batch()
    thread = await client.threads.create(metadata=mine)
    run = await client.runs.create(thread["thread_id"], "conformance", input={"messages": [{"role": "user", "content": "slow please"}]})
    try:
        assert ids(await client.threads.search(metadata=mine, status="busy")) == [thread["thread_id"]]
        assert await client.threads.count(metadata=mine, status="busy") == 1
    finally:
        await client.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
    assert ids(await client.threads.search(metadata=mine, status="idle")) == [thread["thread_id"]]


async def test_only_what_is_selected_is_answered_and_paths_are_followed(client: LangGraphClient) -> None:
    mine = batch()
    thread = await client.threads.create(metadata={**mine, "a": {"b": [10, 20]}})
    await client.runs.wait(thread["thread_id"], "conformance", input=FEE)
    extract = {"deep": "metadata.a.b[-1]", "said": "values.messages[-1].content", "nothing": "metadata.x.y"}

    (found,) = await client.threads.search(metadata=mine, select=["thread_id", "status"], extract=extract)

    text = FEE["messages"][0]["content"]
    assert found == {"thread_id": thread["thread_id"], "status": "idle", "extracted": {"deep": 20, "said": text, "nothing": None}}
    (whole,) = await client.threads.search(metadata=mine)
    assert whole == {key: value for key, value in (await client.threads.get(thread["thread_id"])).items() if key != "ttl"}
    (every,) = await client.threads.search(metadata=mine, select=["context", "config"])
    assert every == {"context": {}, "config": {}}


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0}, {"limit": 1001}, {"offset": -1}, {"status": "tired"}, {"sort_by": "values"}, {"sort_order": "up"}, {"ids": ["x"]},
        {"select": ["secrets"]}, {"extract": {"a": "nowhere.b"}}, {"extract": {str(i): "metadata.a" for i in range(11)}},
        {"metadata": []}, {"values": 1},
    ],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_refused(raw: httpx.Client, body: dict[str, Any]) -> None:
    answer = raw.post("/threads/search", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_other_tenants_threads_are_neither_found_nor_counted_nor_copied_nor_pruned(
    client: LangGraphClient, stranger: LangGraphClient
) -> None:
    mine = batch()
    thread_id = (await client.threads.create(metadata=mine))["thread_id"]

    assert await stranger.threads.search(metadata=mine) == await stranger.threads.search(ids=[thread_id]) == []
    assert await stranger.threads.count(metadata=mine) == 0
    assert await stranger.threads.prune([thread_id]) == {"pruned_count": 0}
    with pytest.raises(NotFoundError):
        await stranger.threads.copy(thread_id)
    assert await client.threads.count(metadata=mine) == 1


async def test_threads_are_counted_by_the_same_filters(client: LangGraphClient) -> None:
    """No filter counts all of the tenant."""
    mine = batch()
    for n in range(5):
        await client.threads.create(metadata={**mine, "even": n % 2 == 0, "deep": {"n": n}})

    assert await client.threads.count(metadata=mine) == 5
    assert await client.threads.count(metadata={**mine, "even": True}) == 3
    assert await client.threads.count(metadata={**mine, "even": True}, status="idle") == 3
    assert await client.threads.count(metadata={**mine, "deep": {"n": 4}}) == 1
    assert await client.threads.count(status="error", metadata=mine) == 0
    assert await client.threads.count() >= 5


async def test_threads_of_stateless_runs_are_listed_only_if_they_are_kept(client: LangGraphClient) -> None:
    """One that goes with its run is nobody's conversation."""
    before = await client.threads.count()
    await client.runs.wait(None, "conformance", input=FEE)
    assert await client.threads.count() == before
    await client.runs.wait(None, "conformance", input=FEE, on_completion="keep")
    assert await client.threads.count() == before + 1


def test_metadata_beyond_what_can_be_searched_are_refused(raw: httpx.Client) -> None:
    """On creation, and when a change adds up to too many; the thread stays as it was."""
    many = {f"k{i}": i for i in range(65)}
    refused = raw.post("/threads", json={"metadata": many})
    thread_id = raw.post("/threads", json={"metadata": {"a": 1}}).json()["thread_id"]
    added = raw.patch(f"/threads/{thread_id}", json={"metadata": dict(list(many.items())[:64])})
    big = raw.post("/threads", json={"metadata": {"a": 10**30}})

    assert [answer.status_code for answer in (refused, added, big)] == [422, 422, 422]
    assert raw.get(f"/threads/{thread_id}").json()["metadata"] == {"a": 1}


# --- copy


async def test_a_copy_has_state_and_history_and_goes_its_own_way(client: LangGraphClient) -> None:
    """Also where a subgraph has checkpoints of its own; the original does not notice."""
    original = (await client.threads.create(metadata={"colour": "blue"}))["thread_id"]
    await client.runs.wait(original, "conformance", input=FEE)
    before = await client.threads.get_history(original, limit=100)

    copy: Any = await client.threads.copy(original)

    thread_id = copy["thread_id"]
    assert thread_id != original
    assert (copy["metadata"]["colour"], copy["metadata"]["graph_id"], copy["status"]) == ("blue", "conformance", "idle")
    history = await client.threads.get_history(thread_id, limit=100)
    assert [state["values"] for state in history] == [state["values"] for state in before]
    assert {state["checkpoint"]["thread_id"] for state in history} == {thread_id}
    after = await client.runs.wait(thread_id, "conformance", input={"messages": [{"role": "user", "content": "and now?"}]})
    assert [message["content"] for message in after["messages"]][-1] == "and now?"
    assert len(after["messages"]) == 4
    assert await client.threads.get_history(original, limit=100) == before
    assert await client.runs.list(thread_id, limit=10) != []
    fork = await client.runs.wait(thread_id, "conformance", input=FEE, checkpoint_id=history[-1]["checkpoint"]["checkpoint_id"])
    assert "messages" in fork


async def test_a_copy_of_a_thread_that_asks_can_be_answered_like_the_original(client: LangGraphClient) -> None:
    """Each by itself, once."""
    original = (await client.threads.create())["thread_id"]
    await client.runs.wait(original, "conformance", input=REFUND)

    copy: Any = await client.threads.copy(original)

    assert (copy["status"], list(copy["interrupts"].values())) == (
        "interrupted",
        list((await client.threads.get(original))["interrupts"].values()),
    )
    for thread_id, answer in ((copy["thread_id"], "no"), (original, "yes")):
        values = await client.runs.wait(thread_id, "conformance", command={"resume": answer})
        assert values["messages"][-1]["content"] == f"order 7: {answer}"
        assert (await client.threads.get(thread_id))["status"] == "idle"
        with pytest.raises(httpx.HTTPStatusError, match="no_interrupt"):
            await client.runs.wait(thread_id, "conformance", command={"resume": answer})


def test_a_copy_keeps_subgraph_checkpoints_of_a_question_asked_inside(one: httpx.Client) -> None:
    """A question that waits inside a subgraph is answered on the copy, in the subgraph."""
    thread_id = new_thread(one)
    asked = one.post(f"/threads/{thread_id}/runs/wait", json=brisk("anything", assistant_id="nested")).json()
    assert asked["__interrupt__"][0]["value"] == "inside?"

    copy = one.post(f"/threads/{thread_id}/copy").raise_for_status().json()
    state = one.get(f"/threads/{copy['thread_id']}/state", params={"subgraphs": True}).json()
    assert state["tasks"][0]["state"]["values"]["notes"] == ["before"]
    values = one.post(f"/threads/{copy['thread_id']}/runs/wait", json=resumes("yes", assistant_id="nested")).json()

    assert (values["notes"], values["messages"][-1]["content"]) == (["before", "yes"], "after: yes")
    assert one.get(f"/threads/{thread_id}").json()["status"] == "interrupted"


def test_a_busy_thread_is_not_copied(one: httpx.Client) -> None:
    thread_id = new_thread(one)
    run = one.post(f"/threads/{thread_id}/runs", json=brisk("hang", assistant_id="sticky")).json()

    answer = one.post(f"/threads/{thread_id}/copy")

    assert (answer.status_code, answer.json()["code"]) == (409, "thread_busy")
    one.post(f"/threads/{thread_id}/runs/{run['run_id']}/cancel", params={"wait": True}).raise_for_status()
    assert one.post(f"/threads/{UNKNOWN}/copy").status_code == 404


# --- prune


async def test_pruned_threads_are_gone_or_keep_their_latest_state(client: LangGraphClient) -> None:
    """Unknown ones do not count; what is thinned out goes on from where it was."""
    gone, thinned = [(await client.threads.create())["thread_id"] for _ in range(2)]
    for thread_id in (gone, thinned):
        await client.runs.wait(thread_id, "conformance", input=FEE)
    state = await client.threads.get_state(thinned)

    assert await client.threads.prune([gone, gone, UNKNOWN]) == {"pruned_count": 1}
    assert await client.threads.prune([thinned], strategy="keep_latest") == {"pruned_count": 1}

    with pytest.raises(NotFoundError):
        await client.threads.get(gone)
    assert len(await client.threads.get_history(thinned, limit=100)) == 1
    assert (await client.threads.get_state(thinned))["values"] == state["values"]
    after = await client.runs.wait(thinned, "conformance", input={"messages": [{"role": "user", "content": "and now?"}]})
    assert len(after["messages"]) == 4


async def test_a_thinned_out_thread_that_asks_can_still_be_answered(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "conformance", input=REFUND)
    await client.threads.prune([thread_id], strategy="keep_latest")
    values = await client.runs.wait(thread_id, "conformance", command={"resume": "yes"})
    assert values["messages"][-1]["content"] == "order 7: yes"


@pytest.mark.parametrize("strategy", ["delete", "keep_latest"])
def test_busy_threads_are_passed_over(one: httpx.Client, strategy: str) -> None:
    """One whose run is under way, and one whose run is yet to begin; the others are pruned all the same."""
    busy, delayed, free = (new_thread(one) for _ in range(3))
    run = one.post(f"/threads/{busy}/runs", json=brisk("hang", assistant_id="sticky")).json()
    later = one.post(f"/threads/{delayed}/runs", json=brisk("hello", after_seconds=3600)).json()
    wanted = [busy, free] if strategy == "keep_latest" else [busy, delayed, free]

    assert one.post("/threads/prune", json={"thread_ids": wanted, "strategy": strategy}).json() == {"pruned_count": 1}

    assert [one.get(f"/threads/{thread_id}").status_code for thread_id in (busy, delayed)] == [200, 200]
    one.post(f"/threads/{busy}/runs/{run['run_id']}/cancel", params={"wait": True}).raise_for_status()
    one.post(f"/threads/{delayed}/runs/{later['run_id']}/cancel").raise_for_status()
    assert one.post("/threads/prune", json={"thread_ids": [busy, delayed]}).json() == {"pruned_count": 2}


@pytest.mark.parametrize("body", [{}, {"thread_ids": []}, {"thread_ids": ["x"]}, {"thread_ids": [UNKNOWN], "strategy": "burn"}])
def test_a_prune_that_makes_no_sense_is_refused(raw: httpx.Client, body: dict[str, Any]) -> None:
    assert raw.post("/threads/prune", json=body).status_code == 422


# --- time to live


def about(thread: Any, seconds: float) -> bool:
    """Whether the thread is kept that long from now, give or take a few seconds."""
    expires_at = datetime.fromisoformat(thread["ttl"]["expires_at"])
    return abs(expires_at - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=20)


async def test_a_time_to_live_is_said_and_can_be_changed(client: LangGraphClient) -> None:
    """As the client sends it, as a bare number, and the general one; who does not ask is not told."""
    own = (await client.threads.create(ttl=60))["thread_id"]
    general = (await client.threads.create())["thread_id"]
    bare = (await client.http.post("/threads", json={"ttl": 0.5}))["thread_id"]

    found: list[Any] = [await client.threads.get(thread_id, include=["ttl"]) for thread_id in (own, general, bare)]
    assert [(thread["ttl"]["strategy"], thread["ttl"]["ttl_minutes"]) for thread in found] == [
        ("delete", 60), ("delete", 30 * 24 * 60), ("delete", 0.5)
    ]  # fmt: skip
    assert [about(thread, seconds) for thread, seconds in zip(found, (3600, 30 * 86400, 30), strict=True)] == [True] * 3
    await client.threads.update(own, metadata={}, ttl={"ttl": 120, "strategy": "keep_latest"})
    changed: Any = await client.threads.get(own, include=["ttl"])
    assert (changed["ttl"]["strategy"], changed["ttl"]["ttl_minutes"], about(changed, 7200)) == ("keep_latest", 120, True)
    assert (await client.threads.get(own))["ttl"] is None  # type: ignore[typeddict-item]


@pytest.mark.parametrize("ttl", [0, -1, 1e9, "soon", {"ttl": 1, "strategy": "burn"}, {"strategy": "delete"}, True])
def test_a_time_to_live_that_makes_no_sense_is_refused(raw: httpx.Client, ttl: Any) -> None:
    assert raw.post("/threads", json={"ttl": ttl}).status_code == 422
    assert raw.get(f"/threads/{UNKNOWN}", params={"include": "secrets"}).status_code == 422


async def test_a_thread_is_gone_after_its_time_from_every_list(client: LangGraphClient) -> None:
    """With its run and its states, though a run has refreshed it."""
    mine = batch()
    thread_id = (await client.threads.create(metadata=mine, ttl=1 / 60))["thread_id"]
    run = await client.runs.create(thread_id, "conformance", input=FEE)
    await client.runs.join(thread_id, run["run_id"])
    assert await client.threads.count(metadata=mine) == 1

    async def is_gone() -> bool:
        return await client.threads.count(metadata=mine) == 0

    await until(is_gone, 10)
    for ask in (client.threads.get(thread_id), client.threads.get_state(thread_id), client.runs.get(thread_id, run["run_id"])):
        with pytest.raises(NotFoundError):
            await ask


async def test_older_states_go_after_their_time_and_the_thread_stays(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create(ttl={"ttl": 1 / 60, "strategy": "keep_latest"}))["thread_id"]
    values = await client.runs.wait(thread_id, "conformance", input=FEE)

    async def is_thinned() -> bool:
        return len(await client.threads.get_history(thread_id, limit=100)) == 1

    await until(is_thinned, 15)
    assert (await client.threads.get(thread_id))["values"] == values
    assert len((await client.runs.wait(thread_id, "conformance", input=FEE))["messages"]) == 4


async def test_a_thread_is_not_taken_from_a_run_or_from_somebody_who_is_asked(service: Service, client: LangGraphClient) -> None:
    """While a run is under way, and while a question is open, it is kept for the general time; afterwards for its own."""
    thread_id = (await client.threads.create(ttl=1))["thread_id"]
    run = await client.runs.create(thread_id, "conformance", input={"messages": [{"role": "user", "content": "slow please"}]})
    busy: Any = await client.threads.get(thread_id, include=["ttl"])
    await client.runs.cancel(thread_id, run["run_id"], wait=True)
    rests: Any = await client.threads.get(thread_id, include=["ttl"])
    await client.runs.wait(thread_id, "conformance", input=REFUND)
    asks: Any = await client.threads.get(thread_id, include=["ttl"])
    await client.runs.wait(thread_id, "conformance", command={"resume": "yes"})
    answered: Any = await client.threads.get(thread_id, include=["ttl"])

    assert [about(thread, seconds) for thread, seconds in ((busy, 30 * 86400), (rests, 60), (asks, 30 * 86400), (answered, 60))] == [
        True
    ] * 4


# --- supersteps


async def test_a_thread_can_begin_with_a_history(client: LangGraphClient) -> None:
    """As the client sends it; a run goes on from there, and from any state in between."""
    steps = [
        {"updates": [{"values": FEE, "as_node": "__input__"}]},
        {"updates": [{"values": FEE, "as_node": "__start__"}]},
        {"updates": [{"values": {"messages": [{"role": "assistant", "content": "Because it was abroad."}]}, "as_node": "echo"}]},
    ]
    thread = await client.threads.create(graph_id="conformance", supersteps=steps)

    thread_id = thread["thread_id"]
    history = await client.threads.get_history(thread_id, limit=10)
    assert [len(state["values"].get("messages", [])) for state in history] == [2, 1, 0]
    assert (thread["status"], [message["content"] for message in thread["values"]["messages"]][-1]) == ("idle", "Because it was abroad.")
    values = await client.runs.wait(thread_id, "conformance", input={"messages": [{"role": "user", "content": "thanks"}]})
    assert len(values["messages"]) == 4


async def test_a_history_may_end_where_a_node_comes_next(client: LangGraphClient) -> None:
    """By a command too; then the thread waits to be continued."""
    question = {"messages": [{"role": "user", "content": "hello"}]}
    command = {"update": question, "goto": "echo"}
    thread = await client.threads.create(
        graph_id="conformance", supersteps=[{"updates": [{"values": None, "command": command, "as_node": "slow"}]}]
    )

    state = await client.threads.get_state(thread["thread_id"])
    assert (thread["status"], "echo" in state["next"]) == ("interrupted", True)


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"values": {"answer": "free money"}, "as_node": "respond"}, "invalid_input"),
        ({"values": FEE, "as_node": "nobody"}, "invalid_update"),
        ({"values": None, "as_node": "__input__"}, "invalid_update"),
        ({"values": None, "command": {"goto": "nobody"}, "as_node": "respond"}, "invalid_input"),
        ({"values": None, "command": {"update": {"answer": "x"}}, "as_node": "respond"}, "invalid_input"),
        ({"values": None, "command": {"resume": "yes"}, "as_node": "respond"}, "invalid_input"),
    ],
)
def test_a_history_that_the_graph_cannot_have_makes_no_thread(raw: httpx.Client, update: dict[str, Any], code: str) -> None:
    thread_id = str(uuid4())
    answer = raw.post("/threads", json={"thread_id": thread_id, "supersteps": [{"updates": [update]}]})

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert raw.get(f"/threads/{thread_id}").status_code == 404
    assert raw.post("/threads", json={"thread_id": thread_id}).status_code == 200


async def test_a_history_is_not_written_over_a_thread_that_exists(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    steps = [{"updates": [{"values": FEE, "as_node": "__input__"}]}]
    with pytest.raises(ConflictError):
        await client.threads.create(thread_id=thread_id, supersteps=steps)
    same = await client.threads.create(thread_id=thread_id, supersteps=steps, if_exists="do_nothing")
    assert (same["thread_id"], same["values"]) == (thread_id, None)
    assert await client.threads.get_history(thread_id) == []


# --- runs: selected fields, batches


async def test_runs_are_listed_with_the_fields_that_are_selected(client: LangGraphClient) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "conformance", input=FEE)

    (whole,) = await client.runs.list(thread_id)
    (some,) = await client.runs.list(thread_id, select=["run_id", "status", "cancel_reason"])

    assert whole == await client.runs.get(thread_id, whole["run_id"])
    assert some == {"run_id": whole["run_id"], "status": "success", "cancel_reason": None}


def test_a_field_that_runs_do_not_have_is_refused(raw: httpx.Client) -> None:
    assert raw.get(f"/threads/{UNKNOWN}/runs", params={"select": "secrets"}).status_code == 422


async def test_a_batch_of_runs_is_accepted_and_executed(client: LangGraphClient) -> None:
    """Each on a thread of its own, in the order in which they were sent."""
    said = ["one", "two", "three"]
    payloads: list[Any] = [
        {"assistant_id": "conformance", "input": {"messages": [{"role": "user", "content": text}]}, "metadata": {"said": text}}
        for text in said
    ]
    runs = await client.runs.create_batch(payloads)

    assert [run["metadata"]["said"] for run in runs] == said
    assert len({run["thread_id"] for run in runs}) == 3
    values: list[Any] = [await client.runs.join(run["thread_id"], run["run_id"]) for run in runs]
    assert [value["messages"][-1]["content"] for value in values] == said


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"assistant_id": "nobody"}, 422), ({"assistant_id": "conformance", "input": {"messages": []}}, 422),
        ({"assistant_id": "conformance"}, 422), ({"assistant_id": "conformance", "command": {"resume": 1}}, 400),
        ({"assistant_id": UNKNOWN, "input": FEE}, 404),
        ({"assistant_id": "conformance", "input": FEE, "webhook": "http://127.0.0.1/"}, 422),
    ],
)  # fmt: skip
def test_of_a_batch_with_one_that_cannot_run_nothing_is_accepted(raw: httpx.Client, wrong: dict[str, Any], status: int) -> None:
    good = {"assistant_id": "conformance", "input": FEE, "on_completion": "keep"}
    before = raw.post("/threads/count", json={}).json()

    answer = raw.post("/runs/batch", json=[good, wrong, good])

    assert answer.status_code == status
    assert raw.post("/threads/count", json={}).json() == before


@pytest.mark.parametrize("body", [[], [{"assistant_id": "conformance", "input": FEE}] * 101, {"assistant_id": "conformance"}])
def test_a_batch_of_no_or_too_many_runs_is_refused(raw: httpx.Client, body: Any) -> None:
    assert raw.post("/runs/batch", json=body).status_code == 422


def test_the_same_batch_with_the_same_key_is_the_same_runs(raw: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid4())}
    body = [{"assistant_id": "conformance", "input": FEE}] * 2
    first, again = (raw.post("/runs/batch", json=body, headers=key).raise_for_status().json() for _ in range(2))

    assert len({run["run_id"] for run in first}) == 2
    assert [run["run_id"] for run in again] == [run["run_id"] for run in first]
    assert raw.post("/runs/batch", json=[body[0], {**body[0], "metadata": {"a": 1}}], headers=key).status_code == 409


def test_every_run_of_a_batch_counts_against_the_allowance(start_service: Callable[..., Service]) -> None:
    """All of them or none; more than the allowance ever is cannot be had at once."""
    service = start_service(API_KEYS="k:acme", RATE_LIMIT_RPM="5", CONFORMANCE_GRAPH="true")
    body = [{"assistant_id": "conformance", "input": FEE}] * 3
    with httpx.Client(base_url=service.url, headers={"x-api-key": "k"}, timeout=60) as caller:
        first, second = (caller.post("/runs/batch", json=body) for _ in range(2))
        one_more = caller.post("/runs", json=body[0])
        too_many = caller.post("/runs/batch", json=body * 2)

    assert (first.status_code, len(first.json()), first.headers["ratelimit"].split(";")[1]) == (200, 3, "r=2")
    assert (second.status_code, second.json()["code"]) == (429, "rate_limited")
    assert one_more.status_code == 200
    assert (too_many.status_code, too_many.json()["code"]) == (422, "batch_too_large")


# --- crashes


def test_what_a_killed_process_did_is_found_by_another(start_service: Callable[..., Service]) -> None:
    """Whatever the process had not yet written to the index when it was killed is made good after its restart."""
    service = start_service(API_KEYS="a:acme", CONFORMANCE_GRAPH="true", LEASE_SECONDS="0.5")
    with httpx.Client(base_url=service.url, headers={"x-api-key": "a"}, timeout=60) as caller:
        thread_id = caller.post("/threads", json={}).json()["thread_id"]
        run = {"assistant_id": "conformance", "input": FEE}
        caller.post(f"/threads/{thread_id}/runs/wait", json=run).raise_for_status()
        service.kill()
        service.start()

        def is_found() -> bool:
            body = {"metadata": {"graph_id": "conformance"}, "status": "idle"}
            return ids(caller.post("/threads/search", json=body).json()) == [thread_id]

        wait_until(is_found, 15)
