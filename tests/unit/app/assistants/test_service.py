"""Assistants without a storage: what needs none, and what is refused before anything is written."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from typing_extensions import TypedDict

from app.assistants.drawings import GraphDrawings
from app.assistants.service import AssistantFilter, AssistantPatch, AssistantService, holds
from app.errors import AlreadyExists, ConflictingRequest, InvalidInput, NotChangeable
from app.storage.redis.assistants import AssistantRecord
from tests.support.nested_graphs import GRAPHS, entry


class Strange:
    """Has no JSON form."""


class StrangeState(TypedDict):
    n: Strange


class Untouched:
    """A storage that nobody may ask."""

    def __getattr__(self, name):
        raise AssertionError(f"nobody was to {name}")


async def nothing(tenant: str, thread_id: str) -> None:
    raise AssertionError("no thread was to go")


@pytest.fixture
def service():
    return AssistantService(GRAPHS, Untouched(), nothing)


@pytest.mark.parametrize("spelling", [str, str.upper, lambda text: f"{{{text}}}", lambda text: f"urn:uuid:{text}"])
async def test_a_graphs_own_assistant_costs_no_read(service, spelling):
    """By name and by id, however the id is spelt; so accepting its runs takes no trip more."""
    by_name, graph = await service.find("acme", "a")
    by_id, _ = await service.find("acme", spelling(GRAPHS["a"].assistant_id))

    assert by_name is by_id
    assert (by_name.name, by_name.metadata, by_name.version, graph.graph_id) == ("a", {"created_by": "system"}, 1, "a")


async def test_a_name_that_no_graph_has_is_a_mistake(service):
    """A 422 that says what there is, without asking the storage."""
    with pytest.raises(InvalidInput, match="there is no assistant 'c'; there are: a, b"):
        await service.find("acme", "c")


async def test_a_graphs_own_assistant_stays_as_it_is(service):
    """It is the same for every tenant, so no tenant may change it."""
    own = GRAPHS["a"].assistant_id
    for change in (
        service.update("acme", own, AssistantPatch(name="mine")),
        service.delete("acme", own, with_threads=True),
        service.set_latest("acme", own, 1),
    ):
        with pytest.raises(NotChangeable) as refused:
            await change
        assert refused.value.code == "system_assistant"
    with pytest.raises(AlreadyExists):
        await service.create("acme", own, AssistantPatch("a"), reuse=False)
    assert (await service.create("acme", own, AssistantPatch("a"), reuse=True)).name == "a"
    assert [version.version for version in await service.versions("acme", own, metadata=None, limit=10, offset=0)] == [1]


@pytest.mark.parametrize(
    ("wanted", "error", "code"),
    [
        (AssistantPatch("c"), InvalidInput, "graph_not_found"),
        (AssistantPatch("a", context={"answer_at": 7}), InvalidInput, "invalid_context"),
        (AssistantPatch("a", config={"configurable": {"answer_at": 7}}), InvalidInput, "invalid_context"),
        (AssistantPatch("a", context={"locale": "es"}, config={"configurable": {"x": 1}}), ConflictingRequest, "context_and_configurable"),
        (AssistantPatch("a", metadata={"n": 2**64}), InvalidInput, "invalid_input"),
        (AssistantPatch("a", metadata={"n": "x" * 40_000}), InvalidInput, "assistant_too_large"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_it_is_written(service, wanted, error, code):
    """With a stable code."""
    with pytest.raises(error) as refused:
        await service.create("acme", None, wanted, reuse=False)

    assert refused.value.code == code


def patched(service: AssistantService, known: dict, **patch) -> AssistantRecord:
    now = datetime.now(UTC)
    record = AssistantRecord("x", "a", "X", created_at=now, updated_at=now, **known)
    return service._changed(record, AssistantPatch(**patch))


def test_context_and_configurable_take_each_others_place(service):
    """Both are names of one thing, and the latest word counts."""
    by_context = patched(service, {"config": {"tags": ["t"], "configurable": {"locale": "es"}}}, context={"locale": "en"})
    by_configurable = patched(service, {"context": {"locale": "es"}}, config={"configurable": {"locale": "en", "thread_id": "t"}})
    by_neither = patched(service, {"context": {"locale": "es"}, "config": {"tags": ["t"]}}, config={"tags": ["u"]}, metadata={"a": 1})

    assert (by_context.config, by_context.context) == ({"tags": ["t"]}, {"locale": "en"})
    assert (by_configurable.config, by_configurable.context) == ({"configurable": {"locale": "en"}}, {})
    assert (by_neither.config, by_neither.context, by_neither.metadata) == ({"tags": ["u"]}, {"locale": "es"}, {"a": 1})


@pytest.mark.parametrize(
    ("found", "wanted", "fits"),
    [
        ({"a": 1, "b": 2}, {}, True),
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": None}, {"a": None}, True),
        ({}, {"a": None}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
    ],
)
def test_metadata_hold_what_is_wanted(found, wanted, fits):
    """Every key that is named, objects likewise, anything else by equality."""
    assert holds(found, wanted) is fits


def test_a_name_is_found_by_a_part_of_it_in_any_case():
    """As people type it."""
    now = datetime.now(UTC)
    record = AssistantRecord("x", "a", "Straße der Nacht", created_at=now, updated_at=now)

    assert AssistantFilter(name="STRASSE").fits(record)
    assert not AssistantFilter(name="tag").fits(record)
    assert not AssistantFilter(graph_id="b").fits(replace(record, name="b"))


@pytest.mark.parametrize(
    ("xray", "nodes"),
    [
        (False, {"__start__", "middle", "__end__"}),
        (1, {"__start__", "inner", "__end__"}),
        (2, {"__start__", "leaf", "__end__"}),
        (True, {"__start__", "leaf", "__end__"}),
    ],
)
def test_a_drawing_opens_subgraphs_as_deep_as_it_is_told(xray, nodes):
    """A depth of one is not all of them; and nothing says which modules it is made of."""
    drawing = GraphDrawings(GRAPHS).drawing("a", xray)

    assert {node["id"].split(":")[-1] for node in drawing["nodes"]} == nodes
    assert [node for node in drawing["nodes"] if "id" in node.get("data", ())] == []


def test_subgraphs_are_told_by_namespace():
    """The outer ones, all of them, or the one that is named."""
    drawings = GraphDrawings(GRAPHS)

    assert drawings.subgraphs("a", None, False).keys() == {"middle"}
    assert drawings.subgraphs("a", None, True).keys() == {"middle", "middle|inner"}
    assert drawings.subgraphs("a", "middle", False).keys() == {"middle"}
    assert drawings.subgraphs("a", "nowhere", True) == {}
    assert drawings.subgraphs("a", None, False)["middle"]["state_schema"]["properties"].keys() == {"n"}


def test_schemas_say_what_a_graph_takes():
    """The input as it is checked, the context under both of its names, null for what has no JSON form."""
    shown = GraphDrawings(GRAPHS).schemas("a")
    strange = GraphDrawings({"s": entry("s", None, StrangeState)}).schemas("s")

    assert shown["input_schema"]["required"] == ["n"]
    assert shown["context_schema"] == shown["config_schema"]
    assert shown["context_schema"]["title"] == "SupervisorContext"
    assert (strange["state_schema"], strange["context_schema"], strange["config_schema"]) == (None, None, None)
