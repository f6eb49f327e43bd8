"""The store over HTTP, as the real clients of the protocol send it, and as nodes of a graph have it."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client, get_sync_client

from tests.support.fleet import Member
from tests.support.protocol import brisk
from tests.support.service import ROOT, Service
from tests.system.conftest import StartService

NAMESPACE = ["memories", "C-1001"]


def remembered(http: httpx.Client, namespace: list[str], key: str, **query: Any) -> Any:
    return http.get("/store/items", params={"namespace": ".".join(namespace), "key": key, **query}).raise_for_status().json()


def code(answer: httpx.Response) -> tuple[int, str]:
    assert isinstance(answer.json()["detail"], str)
    return answer.status_code, answer.json()["code"]


def test_the_example_of_the_page_runs(offline_service: Service) -> None:
    """Of docs/store.md, as it stands; only the port is the test's own."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/store.md").read_text("utf-8"), re.DOTALL)
    assert code is not None
    example = code[1].replace("http://localhost:8000", offline_service.url)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "español" in done.stdout


def test_the_sdk_does_all_of_it(http: httpx.Client) -> None:
    """Every call of the synchronous client, with every argument."""
    with get_sync_client(url=str(http.base_url)) as client:
        store = client.store
        store.put_item(["sdk", "1"], key="a.b", value={"text": "Envío rápido", "n": 1, "hidden": "secreto"}, index=["text"], ttl=60)
        first = store.get_item(["sdk", "1"], key="a.b", refresh_ttl=False)
        store.put_item(["sdk", "1"], key="a.b", value={"text": "Envío lento", "n": 2, "hidden": "secreto"}, index=["text"])
        store.put_item(["sdk", "2"], key="c", value={"text": "envio", "n": 3}, index=False)

        item = store.get_item(["sdk", "1"], key="a.b")
        assert (item["namespace"], item["key"], item["value"]["n"]) == (["sdk", "1"], "a.b", 2)
        assert first["created_at"] == item["created_at"] < item["updated_at"]
        assert store.get_item(["sdk"], key="a.b") is None
        [only] = store.search_items(["sdk"], query="ENVIO", refresh_ttl=True)["items"]
        assert (only["key"], only["score"]) == ("a.b", 1.0)
        assert store.search_items(["sdk"], query="secreto")["items"] == []
        assert [one["key"] for one in store.search_items(["sdk"], filter={"n": {"$gt": 2}})["items"]] == ["c"]
        assert [one["key"] for one in store.search_items(["sdk"], limit=1, offset=1)["items"]] == ["c"]
        assert store.list_namespaces(prefix=["sdk"])["namespaces"] == [["sdk", "1"], ["sdk", "2"]]
        assert store.list_namespaces(prefix=["sdk"], suffix=["2"])["namespaces"] == [["sdk", "2"]]
        assert store.list_namespaces(prefix=["*", "1"])["namespaces"] == [["sdk", "1"]]
        assert store.list_namespaces(prefix=["sdk"], max_depth=1, limit=1)["namespaces"] == [["sdk"]]
        assert store.list_namespaces(prefix=["sdk"], offset=1)["namespaces"] == [["sdk", "2"]]
        store.delete_item(["sdk", "1"], key="a.b")
        store.delete_item(["sdk", "1"], key="a.b")
        assert store.get_item(["sdk", "1"], key="a.b") is None


async def test_the_asynchronous_sdk_does_so_too(http: httpx.Client) -> None:
    async with get_client(url=str(http.base_url)) as client:
        await client.store.put_item(["async"], key="k", value={"a": None}, ttl=1)
        assert (await client.store.get_item(["async"], key="k"))["value"] == {"a": None}
        assert len((await client.store.search_items(["async"]))["items"]) == 1
        assert (await client.store.list_namespaces(prefix=["async"]))["namespaces"] == [["async"]]
        await client.store.delete_item(["async"], key="k")
        assert await client.store.get_item(["async"], key="k") is None


def test_statuses_and_bodies_are_those_of_the_protocol(http: httpx.Client) -> None:
    """What the JavaScript client relies on: 204 without a body, and 200 `null` for what is missing."""
    put = http.put("/store/items", json={"namespace": NAMESPACE, "key": "k", "value": {"a": 1}, "unknown": 1})
    assert (put.status_code, put.content) == (204, b"")
    item = remembered(http, NAMESPACE, "k")
    assert item.keys() == {"namespace", "key", "value", "created_at", "updated_at"}
    [found] = http.post("/store/items/search", json={"namespace_prefix": NAMESPACE}).json()["items"]
    assert found == {**item, "score": None}
    for _ in range(2):
        gone = http.request("DELETE", "/store/items", json={"namespace": NAMESPACE, "key": "k"})
        assert (gone.status_code, gone.content) == (204, b"")
    assert remembered(http, NAMESPACE, "k") is None


def test_refresh_ttl_and_ttl_are_minutes_that_count(http: httpx.Client) -> None:
    """An item with less than a tenth of a second to live is gone before the next answer but one."""
    http.put("/store/items", json={"namespace": ["ttl"], "key": "k", "value": {}, "ttl": 0.001}).raise_for_status()
    for _ in range(1000):
        if remembered(http, ["ttl"], "k", refresh_ttl=False) is None:
            break
    else:
        pytest.fail("it stayed")
    assert http.post("/store/namespaces", json={"prefix": ["ttl"]}).json() == {"namespaces": []}


@pytest.mark.parametrize("labels", [[], [""], ["a", ""], ["a.b"], ["a\0"], ["langgraph"], ["x"] * 17, ["x" * 1025]])
def test_labels_that_cannot_be_are_refused(http: httpx.Client, labels: list[str]) -> None:
    assert code(http.put("/store/items", json={"namespace": labels, "key": "k", "value": {}})) == (422, "invalid_namespace")
    assert code(http.request("DELETE", "/store/items", json={"namespace": labels, "key": "k"})) == (422, "invalid_namespace")
    if labels not in ([], ["langgraph"]):
        assert code(http.post("/store/items/search", json={"namespace_prefix": labels})) == (422, "invalid_namespace")
        assert code(http.post("/store/namespaces", json={"prefix": labels})) == (422, "invalid_namespace")
        assert code(http.post("/store/namespaces", json={"suffix": labels})) == (422, "invalid_namespace")
    if labels != ["a.b"]:
        assert code(http.get("/store/items", params={"namespace": ".".join(labels), "key": "k"})) == (422, "invalid_namespace")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"key": ""}, "invalid_input"),
        ({"key": "x" * 1025}, "invalid_item"),
        ({"value": [1]}, "invalid_input"),
        ({"value": {"a": "x" * 300_000}}, "item_too_large"),
        ({"value": {"a": 2**70}}, "invalid_item"),
        ({"index": True}, "invalid_input"),
        ({"index": ["a"] * 65}, "invalid_item"),
        ({"ttl": 0}, "invalid_input"),
        ({"ttl": 1e12}, "invalid_input"),
        ({"namespace": None}, "invalid_input"),
    ],
)
def test_an_item_that_cannot_be_kept_is_refused(http: httpx.Client, change: dict[str, Any], expected: str) -> None:
    assert code(http.put("/store/items", json={"namespace": ["bad"], "key": "k", "value": {}, **change})) == (422, expected)
    assert http.post("/store/items/search", json={"namespace_prefix": ["bad"]}).json() == {"items": []}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"filter": {"a": {"$in": [1]}}}, "invalid_filter"),
        ({"filter": {"a": {"$gt": None}}}, "invalid_filter"),
        ({"filter": []}, "invalid_input"),
        ({"limit": 0}, "invalid_input"),
        ({"limit": 1001}, "invalid_input"),
        ({"offset": -1}, "invalid_input"),
        ({"query": "x" * 5000}, "invalid_input"),
    ],
)
def test_a_search_that_cannot_be_answered_is_refused(http: httpx.Client, change: dict[str, Any], expected: str) -> None:
    assert code(http.post("/store/items/search", json={"namespace_prefix": [], **change})) == (422, expected)


@pytest.mark.parametrize("change", [{"max_depth": 0}, {"limit": 0}, {"offset": -1}, {"prefix": "a"}])
def test_a_listing_that_cannot_be_answered_is_refused(http: httpx.Client, change: dict[str, Any]) -> None:
    assert code(http.post("/store/namespaces", json=change)) == (422, "invalid_input")


def test_nodes_and_clients_share_what_a_tenant_remembers(start_service: StartService) -> None:
    """Of two tenants neither sees the other's; without a key nobody sees anything."""
    service = start_service(API_KEYS="k1:acme,k2:globex")
    for key, said in (("k1", "ours"), ("k2", "theirs")):
        with httpx.Client(base_url=service.url, headers={"x-api-key": key}) as http:
            http.put("/store/items", json={"namespace": ["n"], "key": "k", "value": {"a": said}}).raise_for_status()
    for key, said in (("k1", "ours"), ("k2", "theirs")):
        with httpx.Client(base_url=service.url, headers={"x-api-key": key}) as http:
            assert remembered(http, ["n"], "k")["value"] == {"a": said}
            assert len(http.post("/store/items/search", json={"namespace_prefix": []}).json()["items"]) == 1
    assert httpx.get(f"{service.url}/store/items", params={"namespace": "n", "key": "k"}).status_code == 401


@pytest.mark.parametrize("node", ["async", "sync", "tool"])
def test_a_node_remembers_over_threads_what_clients_see(
    pair: tuple[Member, Member], one: httpx.Client, other: httpx.Client, node: str
) -> None:
    """On either process, from an asynchronous node, a synchronous one and a tool; and what a client writes a node reads."""
    said = [
        http.post("/runs/wait", json=brisk(f"{node} {word}", assistant_id="remembering"))
        .raise_for_status()
        .json()["messages"][-1]["content"]
        for http, word in ((one, "first"), (other, "second"))
    ]

    assert said == [f"{node} before: nothing", f"{node} before: first"]
    assert remembered(one, ["notes", node], "latest")["value"] == {"text": "second"}
    one.put("/store/items", json={"namespace": ["notes", node], "key": "latest", "value": {"text": "by hand"}}).raise_for_status()
    values = other.post("/runs/wait", json=brisk(f"{node} third", assistant_id="remembering")).raise_for_status().json()
    assert values["messages"][-1]["content"] == f"{node} before: by hand"
    one.request("DELETE", "/store/items", json={"namespace": ["notes", node], "key": "latest"}).raise_for_status()
