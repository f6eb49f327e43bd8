"""Assistants over HTTP, through the clients that people have, and what runs take from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client, get_sync_client
from langgraph_sdk.errors import BadRequestError, ConflictError, NotFoundError, UnprocessableEntityError

from tests.support.fleet import Fleet, Member
from tests.support.protocol import GRAPH, brisk, new_thread, says, some_id, stream
from tests.support.service import Service

QUESTION = "Why was I charged a fee for my transfer?"
INPUT: Any = {"messages": [{"role": "user", "content": QUESTION}]}
KEYS = {"acme": "key-of-acme", "globex": "key-of-globex"}
NOBODYS = "0e5f3ad0-6a4e-4a54-9c1a-2f3d4b5c6d7e"
"""An id that nothing has; it stands in the names of tests, so it is always the same."""
OWN = "3dba61cc-373b-5094-96d6-8331cb40a952"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two tenants, and a graph with a subgraph."""
    keys = ",".join(f"{key}:{tenant}" for tenant, key in KEYS.items())
    found = Service(tmp_path_factory.mktemp("assistants"), API_KEYS=keys, CONFORMANCE_GRAPH="true")
    try:
        yield found.start()
    finally:
        found.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, headers={"x-api-key": KEYS["acme"]}) as client:
        yield client


@pytest.fixture
def foreign(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, headers={"x-api-key": KEYS["globex"]}) as client:
        yield client


def made(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """A new assistant."""
    answer: dict[str, Any] = http.post("/assistants", json={"graph_id": GRAPH, **fields}).raise_for_status().json()
    return answer


def asked(http: httpx.Client, assistant_id: str, text: str = QUESTION, **fields: Any) -> dict[str, Any]:
    """The final values of a run of an assistant."""
    body = {**says(text), "assistant_id": assistant_id, **fields}
    values: dict[str, Any] = http.post("/runs/wait", json=body).raise_for_status().json()
    return values


# --- the resource, by the clients that people have


async def test_the_async_sdk_makes_changes_and_forgets_an_assistant(service: Service) -> None:
    """Every call of its assistants client, as its documentation shows them."""
    async with get_client(url=service.url, api_key=KEYS["acme"]) as client:
        mark = str(uuid4())
        first = await client.assistants.create(
            GRAPH, {"tags": ["night"]}, context={"answer_at": 0.8}, metadata={"mark": mark}, name="Night desk", description="After eight"
        )
        assistant_id = first["assistant_id"]
        assert (first["version"], first["config"], first["context"]) == (1, {"tags": ["night"]}, {"answer_at": 0.8})
        assert await client.assistants.get(assistant_id) == first
        with pytest.raises(ConflictError, match="exists"):
            await client.assistants.create(GRAPH, assistant_id=assistant_id)
        assert await client.assistants.create(GRAPH, assistant_id=assistant_id, name="other", if_exists="do_nothing") == first

        second = await client.assistants.update(assistant_id, context={"locale": "es"}, metadata={"shift": 2}, name="Day desk")
        assert (second["version"], second["context"], second["config"]) == (2, {"locale": "es"}, {"tags": ["night"]})
        assert (second["name"], second["description"]) == ("Day desk", "After eight")
        assert second["metadata"] == {"mark": mark, "shift": 2}
        assert second["created_at"] == first["created_at"] < second["updated_at"]

        versions = await client.assistants.get_versions(assistant_id)
        assert [version["version"] for version in versions] == [2, 1]
        assert "updated_at" not in versions[0]
        assert [v["version"] for v in await client.assistants.get_versions(assistant_id, metadata={"shift": 2})] == [2]
        assert [v["version"] for v in await client.assistants.get_versions(assistant_id, limit=1, offset=1)] == [1]
        back = await client.assistants.set_latest(assistant_id, 1)
        assert {**back, "updated_at": None} == {**first, "updated_at": None}
        assert (await client.assistants.update(assistant_id, description="Third"))["version"] == 3

        assert [found["assistant_id"] for found in await client.assistants.search(metadata={"mark": mark})] == [assistant_id]
        assert await client.assistants.count(metadata={"mark": mark}) == 1
        await client.assistants.delete(assistant_id)
        with pytest.raises(NotFoundError):
            await client.assistants.get(assistant_id)
        assert await client.assistants.count(metadata={"mark": mark}) == 0


def test_the_sync_sdk_pages_through_what_it_finds(service: Service, http: httpx.Client) -> None:
    """In the order that is asked for, a page at a time, with the fields that are wanted."""
    mark = str(uuid4())
    names = ["delta", "alpha", "Charlie", "bravo", "alphabet"]
    for name in names:
        made(http, name=name, metadata={"mark": mark, "deep": {"name": name, "n": 1}})
    with get_sync_client(url=service.url, api_key=KEYS["acme"]) as client:
        wanted: Any = {"metadata": {"mark": mark}, "sort_by": "name", "sort_order": "asc", "limit": 2, "response_format": "object"}
        found: list[str] = []
        offset: str | None = "0"
        while offset is not None:
            page: Any = client.assistants.search(**wanted, offset=int(offset))
            found += [assistant["name"] for assistant in page["assistants"]]
            offset = page["next"]
        assert found == ["Charlie", "alpha", "alphabet", "bravo", "delta"]
        newest: Any = client.assistants.search(metadata={"mark": mark})
        assert [assistant["name"] for assistant in newest] == names[::-1]
        some: Any = client.assistants.search(metadata={"mark": mark}, name="ALPHA", select=["name", "version"], sort_by="created_at")
        assert some == [{"name": "alphabet", "version": 1}, {"name": "alpha", "version": 1}]
        assert client.assistants.search(metadata={"deep": {"name": "bravo"}, "mark": mark})[0]["name"] == "bravo"
        assert client.assistants.count(metadata={"mark": mark}, name="alpha", graph_id=GRAPH) == 2
        assert client.assistants.count(metadata={"mark": mark}, graph_id="conformance") == 0


def test_every_tenant_has_the_graphs_own_and_nobody_changes_them(http: httpx.Client, foreign: httpx.Client) -> None:
    """They have always been there, under the ids that other servers give them."""
    for client in (http, foreign):
        found = client.post(
            "/assistants/search", json={"metadata": {"created_by": "system"}, "sort_by": "name", "sort_order": "asc"}
        ).json()
        assert [(own["name"], own["version"]) for own in found] == [("conformance", 1), (GRAPH, 1)]
        assert client.get(f"/assistants/{OWN}").json() == found[1]
        assert [v["version"] for v in client.post(f"/assistants/{OWN}/versions", json={}).json()] == [1]
    refused = [
        http.patch(f"/assistants/{OWN}", json={"name": "mine"}),
        http.delete(f"/assistants/{OWN}", params={"delete_threads": "true"}),
        http.post(f"/assistants/{OWN}/latest", json={"version": 1}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(409, "system_assistant")] * 3
    assert http.post("/assistants", json={"graph_id": GRAPH, "assistant_id": OWN}).status_code == 409


def test_a_tenant_sees_its_own_assistants_and_never_the_others(http: httpx.Client, foreign: httpx.Client) -> None:
    """A foreign id is a 404 on every route, in the words of one that does not exist, and free to be used."""
    mine = made(http, metadata={"secret": "plan"})
    path = f"/assistants/{mine['assistant_id']}"
    answers = [
        foreign.get(path),
        foreign.patch(path, json={"name": "stolen"}),
        foreign.delete(path),
        foreign.post(f"{path}/versions", json={}),
        foreign.post(f"{path}/latest", json={"version": 1}),
        foreign.get(f"{path}/graph"),
        foreign.get(f"{path}/schemas"),
        foreign.get(f"{path}/subgraphs"),
        foreign.get(f"{path}/subgraphs/look_up"),
        foreign.post("/runs/wait", json={**says("hi"), "assistant_id": mine["assistant_id"]}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "assistant_not_found")] * len(answers)
    assert foreign.post("/assistants/search", json={"metadata": {"secret": "plan"}}).json() == []
    assert made(foreign, assistant_id=mine["assistant_id"])["metadata"] == {}
    assert http.get(path).json() == mine


def test_without_a_key_nothing_is_shown(service: Service) -> None:
    """401 on every route, whether the assistant exists or not."""
    gets = ("", "/graph", "/schemas", "/subgraphs", "/subgraphs/look_up")
    routes = [
        ("POST", "", {"graph_id": GRAPH}),
        ("POST", "/search", {}),
        ("POST", "/count", {}),
        *(("GET", f"/{OWN}{get}", None) for get in gets),
    ]
    routes += [
        ("PATCH", f"/{OWN}", {}),
        ("DELETE", f"/{OWN}", None),
        ("POST", f"/{OWN}/versions", {}),
        ("POST", f"/{OWN}/latest", {"version": 1}),
    ]
    for method, path, body in routes:
        answer = httpx.request(method, f"{service.url}/assistants{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (401, "api_key_missing")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/assistants", {}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": "nobody"}, 422, "graph_not_found"),
        ("POST", "/assistants", {"graph_id": GRAPH, "assistant_id": "mine"}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": GRAPH, "name": ""}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": GRAPH, "if_exists": "merge"}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": GRAPH, "context": {"specialists": ["poetry"]}}, 422, "invalid_context"),
        ("POST", "/assistants", {"graph_id": GRAPH, "context": {"answer_att": 0.8}}, 422, "invalid_context"),
        ("POST", "/assistants", {"graph_id": GRAPH, "config": {"recursion_limit": 0}}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": "conformance", "context": {"answer_at": 0.8}}, 422, "invalid_context"),
        (
            "POST",
            "/assistants",
            {"graph_id": GRAPH, "context": {"answer_at": 0.8}, "config": {"configurable": {"x": 1}}},
            400,
            "context_and_configurable",
        ),
        ("POST", "/assistants", {"graph_id": GRAPH, "metadata": {"n": 2**70}}, 422, "invalid_input"),
        ("POST", "/assistants", {"graph_id": GRAPH, "metadata": {"n": "x" * 40_000}}, 422, "assistant_too_large"),
        ("POST", "/assistants/search", {"sort_by": "colour"}, 422, "invalid_input"),
        ("POST", "/assistants/search", {"sort_order": "up"}, 422, "invalid_input"),
        ("POST", "/assistants/search", {"select": ["secrets"]}, 422, "invalid_input"),
        ("GET", f"/assistants/{GRAPH}", None, 422, "invalid_input"),
        ("GET", f"/assistants/{GRAPH}/schemas", None, 422, "invalid_input"),
        ("GET", f"/assistants/{GRAPH}/subgraphs", None, 422, "invalid_input"),
        ("GET", "/assistants/nobody/graph", None, 422, "assistant_not_found"),
        ("GET", f"/assistants/{NOBODYS}/graph", None, 404, "assistant_not_found"),
        ("GET", f"/assistants/{NOBODYS}", None, 404, "assistant_not_found"),
        ("PATCH", f"/assistants/{NOBODYS}", {"name": "x"}, 404, "assistant_not_found"),
        ("DELETE", f"/assistants/{NOBODYS}", None, 404, "assistant_not_found"),
        ("POST", f"/assistants/{NOBODYS}/latest", {"version": 1}, 404, "assistant_not_found"),
        ("POST", f"/assistants/{NOBODYS}/versions", {}, 404, "assistant_not_found"),
        *(("GET", f"/assistants/{GRAPH}/graph?xray={xray}", None, 422, "invalid_input") for xray in ("0", "-1", "deep", "1.5", "")),
        ("GET", f"/assistants/{OWN}/subgraphs?recurse=maybe", None, 422, "invalid_input"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(http: httpx.Client, method: str, path: str, body: Any, status: int, code: str) -> None:
    """A status, a stable code, a sentence."""
    answer = http.request(method, path, json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert isinstance(answer.json()["detail"], str)


def test_a_patch_is_refused_whole(http: httpx.Client) -> None:
    """With another graph the context must fit that one; nothing of a refused patch stays."""
    mine = made(http, context={"answer_at": 0.8})
    path = f"/assistants/{mine['assistant_id']}"

    assert http.patch(path, json={"graph_id": "conformance", "name": "x"}).json()["code"] == "invalid_context"
    assert http.patch(path, json={"context": {"answer_at": 0.1}}).json()["code"] == "invalid_context"
    assert http.post(f"{path}/latest", json={"version": 2}).json()["code"] == "version_not_found"
    assert http.get(path).json() == mine
    moved = http.patch(path, json={"graph_id": "conformance", "context": {}}).json()
    assert (moved["graph_id"], moved["context"], moved["version"]) == ("conformance", {}, 2)


# --- what can be seen of its graph


def test_a_graph_is_drawn_by_name_or_id(http: httpx.Client) -> None:
    """With subgraphs as nodes, or opened."""
    by_name = http.get("/assistants/conformance/graph").json()
    mine = made(http, graph_id="conformance")

    assert http.get(f"/assistants/{mine['assistant_id']}/graph", params={"xray": "false"}).json() == by_name
    assert {"source": "__start__", "target": "look_up"} in by_name["edges"]
    assert [node for node in by_name["nodes"] if "id" in (node.get("data") or {})] == []
    for xray in ("true", "1", "7"):
        opened = http.get("/assistants/conformance/graph", params={"xray": xray}).json()
        assert "note" in {node["id"].split(":")[-1] for node in opened["nodes"]}
    assert "note" not in {node["id"] for node in by_name["nodes"]}


def test_schemas_tell_what_the_supervisor_takes(service: Service, http: httpx.Client) -> None:
    """What may be sent as input, and as context: what is said there is what is enforced."""
    with get_sync_client(url=service.url, api_key=KEYS["acme"]) as client:
        shown = client.assistants.get_schemas(OWN)
        subgraphs: Any = client.assistants.get_subgraphs(own_id(http, "conformance"), recurse=True)
        one: Any = client.assistants.get_subgraphs(own_id(http, "conformance"), "look_up")
        none = client.assistants.get_subgraphs(OWN)

    assert shown["graph_id"] == GRAPH
    assert shown["input_schema"] is not None
    assert shown["input_schema"]["required"] == ["messages"]
    assert shown["context_schema"] is not None
    assert shown["context_schema"] == shown["config_schema"]
    specialists = shown["context_schema"]["properties"]["specialists"]["anyOf"][0]["items"]["enum"]
    assert asked(http, OWN, context={"specialists": specialists})["specialist"] in specialists
    assert {"answer", "specialist", "escalation"} <= (shown["output_schema"] or {})["properties"].keys()
    assert {"visits", "hops"} <= (shown["state_schema"] or {})["properties"].keys()
    assert subgraphs.keys() == {"look_up", "team"}
    assert one == {"look_up": subgraphs["look_up"]}
    assert one["look_up"]["state_schema"]["properties"].keys() == {"messages", "notes", "steps", "approval"}
    assert none == {}


def own_id(http: httpx.Client, graph_id: str) -> str:
    """The id of a graph's own assistant."""
    (own,) = http.post("/assistants/search", json={"graph_id": graph_id, "metadata": {"created_by": "system"}}).json()
    assistant_id: str = own["assistant_id"]
    return assistant_id


def test_a_remote_graph_draws_and_runs_an_assistant(service: Service, http: httpx.Client) -> None:
    """With a context, though it sends the thread's id among the configurable too."""
    nobody = made(http, context={"specialists": []})["assistant_id"]
    thread_id = new_thread(http)
    config: Any = {"configurable": {"thread_id": thread_id}}
    with get_sync_client(url=service.url, api_key=KEYS["acme"]) as client:
        remote = RemoteGraph(nobody, sync_client=client)
        drawing = remote.get_graph(xray=True)
        escalated = remote.invoke(INPUT, config)
        answered = remote.invoke(INPUT, config, context={"specialists": None})

    assert {"supervise", "respond"} <= drawing.nodes.keys()
    assert escalated["escalation"]["reason"] == "specialist_unreachable"  # type: ignore[index,call-overload]
    assert answered["sources"] == ["transfer-fees"]  # type: ignore[index,call-overload]


# --- what a run takes from it


def test_a_run_goes_by_its_assistants_context_and_by_its_own(http: httpx.Client) -> None:
    """Key by key the run's word counts; as context or, as it was said before, as configurable."""
    nobody = made(http, context={"specialists": []})["assistant_id"]
    older = made(http, config={"configurable": {"specialists": [], "model_name": "x"}})["assistant_id"]
    sure = {"answer_at": 1.0, "escalate_below": 1.0}

    assert asked(http, OWN)["sources"] == ["transfer-fees"]
    for assistant_id in (nobody, older):
        assert asked(http, assistant_id)["escalation"]["reason"] == "specialist_unreachable"
        assert asked(http, assistant_id, context={"answer_at": 0.8})["escalation"]["reason"] == "specialist_unreachable"
        assert asked(http, assistant_id, context={"specialists": None})["escalation"] is None
        assert asked(http, assistant_id, config={"configurable": {"specialists": None}})["escalation"] is None
    assert asked(http, OWN, context=sure)["escalation"]["reason"] == "low_confidence"
    assert asked(http, OWN, config={"configurable": {**sure, "model_name": "x"}})["escalation"]["reason"] == "low_confidence"


def test_only_the_assistants_specialists_answer(http: httpx.Client) -> None:
    """The usual one is passed over for the next best."""
    usual = asked(http, OWN)["specialist"]
    others = [name for name in ("billing_support", "general_support", "technical_support") if name != usual]
    desk = made(http, context={"specialists": others})["assistant_id"]

    assert usual == "billing_support"
    assert asked(http, desk)["specialist"] != usual
    assert asked(http, desk, context={"specialists": [usual]})["specialist"] == usual


def test_an_assistant_answers_in_its_language_where_nothing_else_tells(http: httpx.Client) -> None:
    """A number says nothing."""
    spanish = made(http, context={"locale": "es", "specialists": []})["assistant_id"]

    assert "persona de nuestro equipo" in asked(http, spanish, "12345")["answer"]
    assert "person on our team" in asked(http, spanish, "Where is my parcel?")["answer"]
    assert "person on our team" in asked(http, spanish, "12345", context={"locale": "en"})["answer"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"context": {"answer_at": 0.8}, "config": {"configurable": {"model_name": "x"}}}, 400, "context_and_configurable"),
        ({"context": {"specialists": ["poetry"]}}, 422, "invalid_context"),
        ({"context": {"answer_at": 0.2}}, 422, "invalid_context"),
        ({"context": {"colour": "red"}}, 422, "invalid_context"),
        ({"config": {"configurable": {"answer_at": "high"}}}, 422, "invalid_context"),
        ({"context": ["answer_at"]}, 422, "invalid_input"),
        ({"config": {"configurable": [1]}}, 422, "invalid_input"),
        ({"assistant_id": "conformance", "context": {"answer_at": 0.8}}, 422, "invalid_context"),
    ],
)
def test_a_context_that_cannot_be_followed_is_refused(http: httpx.Client, fields: dict[str, Any], status: int, code: str) -> None:
    """Before anything is written, on every route that starts a run."""
    thread_id = new_thread(http)
    for path in (f"/threads/{thread_id}/runs", f"/threads/{thread_id}/runs/stream", "/runs/wait"):
        answer = http.post(path, json={**says(QUESTION), **fields})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert http.get(f"/threads/{thread_id}/runs").json() == []


def test_what_the_sdk_raises_for_a_context_that_is_refused(service: Service) -> None:
    """The types that its users catch."""
    with get_sync_client(url=service.url, api_key=KEYS["acme"]) as client:
        with pytest.raises(BadRequestError, match="either context or"):
            client.runs.create(None, GRAPH, input=INPUT, context={"answer_at": 0.8}, config={"configurable": {"x": 1}})
        with pytest.raises(UnprocessableEntityError, match="there is no specialist 'poetry'"):
            client.runs.create(None, GRAPH, input=INPUT, context={"specialists": ["poetry"]})
        with pytest.raises(UnprocessableEntityError, match="takes no context"):
            client.assistants.create("conformance", context={"answer_at": 0.8})


def test_reserved_names_are_dropped_wherever_they_are_sent(http: httpx.Client) -> None:
    """Nobody runs on another's thread, from another's checkpoint or under another's name by saying so."""
    reserved = {"thread_id": some_id(), "checkpoint_id": some_id(), "checkpoint_ns": "x", "__pregel_x": 1, "langgraph_auth_user": "root"}
    mine = made(http, config={"configurable": {**reserved, "specialists": []}})
    thread_id = new_thread(http)

    assert mine["config"] == {"configurable": {"specialists": []}}
    body = {**says(QUESTION), "config": {"configurable": reserved}, "context": {"specialists": None}, "assistant_id": mine["assistant_id"]}
    assert http.post(f"/threads/{thread_id}/runs/wait", json=body).json()["sources"] == ["transfer-fees"]
    assert not reserved.keys() & (http.get(f"/threads/{thread_id}/state").json()["metadata"].keys() - {"thread_id"})
    assert http.get(f"/threads/{thread_id}/state").json()["metadata"]["thread_id"] == thread_id


def test_a_run_carries_its_assistants_tags_and_metadata(http: httpx.Client) -> None:
    """In its record, its checkpoints and its events; its own count more. The thread remembers its first run's assistant."""
    mine = made(http, config={"tags": ["night"]}, metadata={"team": "night", "floor": 3})
    thread_id = new_thread(http)
    body = {**says("hello"), "assistant_id": mine["assistant_id"], "metadata": {"floor": 4}, "stream_mode": "messages-tuple"}

    response, events = stream(http, f"/threads/{thread_id}/runs/stream", body)

    run = http.get(response.headers["content-location"]).json()
    assert run["assistant_id"] == mine["assistant_id"]
    assert run["metadata"] == {"team": "night", "floor": 4, "graph_id": GRAPH, "assistant_id": mine["assistant_id"]}
    written = http.get(f"/threads/{thread_id}/state").json()["metadata"]
    assert (written["team"], written["floor"], written["assistant_id"]) == ("night", 4, mine["assistant_id"])
    meta = next(event.data[1] for event in events if event.name == "messages")
    assert (meta["tags"], meta["team"]) == (["night"], "night")
    assert http.get(f"/threads/{thread_id}").json()["metadata"] == {"graph_id": GRAPH, "assistant_id": mine["assistant_id"]}
    body = {**body, "config": {"tags": ["day"]}}
    _, events = stream(http, f"/threads/{thread_id}/runs/stream", body)
    assert next(event.data[1]["tags"] for event in events if event.name == "messages") == ["day"]


def test_an_assistants_recursion_limit_holds_unless_the_run_has_its_own(http: httpx.Client) -> None:
    """Two supersteps are not enough for an answer."""
    short = made(http, config={"recursion_limit": 2})["assistant_id"]

    assert asked(http, short)["__error__"]["code"] == "recursion_limit"
    assert asked(http, short, config={"recursion_limit": 20})["sources"] == ["transfer-fees"]


def test_a_changed_assistant_is_another_for_the_next_run(http: httpx.Client) -> None:
    """By a patch and by going back; each process reads it when it accepts a run."""
    mine = made(http)["assistant_id"]

    assert asked(http, mine)["escalation"] is None
    http.patch(f"/assistants/{mine}", json={"context": {"specialists": []}}).raise_for_status()
    assert asked(http, mine)["escalation"]["reason"] == "specialist_unreachable"
    http.post(f"/assistants/{mine}/latest", json={"version": 1}).raise_for_status()
    assert asked(http, mine)["escalation"] is None


def test_the_same_request_is_the_same_run_though_the_assistant_is_gone(http: httpx.Client) -> None:
    """What an Idempotency-Key stands for does not hang on what became of the assistant; a new request does."""
    mine = made(http, context={"answer_at": 0.8})["assistant_id"]
    path, body = f"/threads/{new_thread(http)}/runs", {**says("hello"), "assistant_id": mine}
    first = http.post(path, json=body, headers={"idempotency-key": mine}).raise_for_status().json()
    http.get(f"{path}/{first['run_id']}/join").raise_for_status()
    http.delete(f"/assistants/{mine}").raise_for_status()

    again = http.post(path, json=body, headers={"idempotency-key": mine})
    other = http.post(path, json=body, headers={"idempotency-key": f"other-{mine}"})

    assert (again.status_code, again.json()["run_id"]) == (200, first["run_id"])
    assert (other.status_code, other.json()["code"]) == (404, "assistant_not_found")


def test_an_assistant_takes_its_threads_along_if_it_is_told_to(http: httpx.Client) -> None:
    """And only its own; without being told, they stay and can still be read."""
    kept, gone = made(http)["assistant_id"], made(http)["assistant_id"]
    threads = {owner: new_thread(http) for owner in (kept, gone, OWN)}
    for owner, thread_id in threads.items():
        http.post(f"/threads/{thread_id}/runs/wait", json={**says("hello"), "assistant_id": owner}).raise_for_status()

    assert http.delete(f"/assistants/{gone}", params={"delete_threads": "true"}).status_code == 204
    assert http.delete(f"/assistants/{kept}").status_code == 204

    assert [http.get(f"/threads/{threads[owner]}").status_code for owner in (kept, gone, OWN)] == [200, 404, 200]
    assert http.get(f"/threads/{threads[kept]}/state").json()["values"]["answer"]
    after = http.post(f"/threads/{threads[kept]}/runs/wait", json={**says("hello"), "assistant_id": kept})
    assert (after.status_code, after.json()["code"]) == (404, "assistant_not_found")


# --- over processes


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Member, Path]]:
    """A gateway that executes nothing, and a worker that does."""
    folder = tmp_path_factory.mktemp("apart")
    fleet = Fleet(folder, None, LEASE_SECONDS="2")
    try:
        gateway = fleet.gateway()
        fleet.worker()
        yield gateway, folder
    finally:
        fleet.close()


def test_another_process_executes_with_the_same_context(apart: tuple[Member, Path]) -> None:
    """It reads no assistant: what counts is in the run."""
    with httpx.Client(base_url=apart[0].url, timeout=60) as http:
        nobody = made(http, context={"specialists": []})["assistant_id"]
        spanish = asked(http, nobody, "12345", context={"locale": "es"})

    assert spanish["escalation"]["reason"] == "specialist_unreachable"
    assert "persona de nuestro equipo" in spanish["answer"]


def test_a_graph_that_was_added_has_a_context_of_its_own(apart: tuple[Member, Path]) -> None:
    """Checked by its own model, given half by the assistant and half by the run; a run that lacks a part of it is refused."""
    with httpx.Client(base_url=apart[0].url, timeout=60) as http:
        body = {**brisk("how are you?"), "assistant_id": made(http, graph_id="moody", context={"strength": 3})["assistant_id"]}
        lacking = http.post("/runs/wait", json=body)
        wrong = http.post("/runs/wait", json={**body, "context": {"mood": "calm", "strength": "much"}})
        calm = http.post("/runs/wait", json={**body, "context": {"mood": "calm"}})

        assert (lacking.status_code, lacking.json()["code"]) == (wrong.status_code, wrong.json()["code"]) == (422, "invalid_context")
        assert "context.mood: Field required" in lacking.json()["detail"]
        assert calm.json()["messages"][-1]["content"] == "very very calm"
        assert http.get(f"/assistants/{body['assistant_id']}/schemas").json()["context_schema"]["required"] == ["mood"]


def test_a_run_under_way_outlives_its_assistant(apart: tuple[Member, Path]) -> None:
    """It was accepted with everything that it needs."""
    with httpx.Client(base_url=apart[0].url, timeout=60) as http:
        mine = made(http, graph_id="brisk")["assistant_id"]
        body = {**brisk("slow please"), "assistant_id": mine}
        response = http.post(f"/threads/{new_thread(http)}/runs", json=body)
        assert http.delete(f"/assistants/{mine}").status_code == 204
        path = response.headers["content-location"]
        values = http.get(f"{path}/join").json()

        assert values["messages"][-1]["content"] == "slow please"
        assert http.get(path).json()["assistant_id"] == mine
        assert http.get(f"/assistants/{mine}").status_code == 404
