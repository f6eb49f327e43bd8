"""What callers may say of an execution, and what a run takes from its assistant."""

from datetime import UTC, datetime

import pytest
from langgraph.graph import START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from app.assistants.configuration import checked_context, configured, said, trusted
from app.errors import ConflictingRequest, InvalidInput
from app.storage.redis.assistants import AssistantRecord
from graphs.configuration import SupervisorConfiguration
from graphs.registry import GraphEntry


class State(TypedDict):
    n: int


class Needy(BaseModel):
    """A context that must be there."""

    model: str
    temperature: float = 0.0


def entry(schema: type[BaseModel] | None) -> GraphEntry:
    graph = StateGraph(State)
    graph.add_node("node", lambda state: {})
    graph.add_edge(START, "node")
    return GraphEntry("g", graph.compile(), BaseModel, BaseModel, dict, None, 10, lambda scope: None, schema)


SUPERVISOR, PLAIN, NEEDY = entry(SupervisorConfiguration), entry(None), entry(Needy)


def assistant(**fields) -> AssistantRecord:
    now = datetime.now(UTC)
    return AssistantRecord("a", "g", "A", created_at=now, updated_at=now, **fields)


def run_of(record: AssistantRecord, graph: GraphEntry = SUPERVISOR, **run):
    usual = {"context": {}, "configurable": {}, "tags": (), "recursion_limit": None, "metadata": {}}
    return configured(graph, record, **{**usual, **run})


@pytest.mark.parametrize(
    "key", ["thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "langgraph_auth_user", "langgraph_auth_user_id", "__pregel_x"]
)
def test_reserved_names_are_dropped(key):
    """They name what only the service knows."""
    assert trusted({key: "mine", "answer_at": 0.8}) == {"answer_at": 0.8}


def test_the_older_name_counts_as_context_where_the_key_is_a_contexts():
    """Other keys are no error: clients put all sorts of things there."""
    assert said(SUPERVISOR, {}, {"answer_at": 0.8, "model_name": "x"}) == {"answer_at": 0.8}
    assert said(PLAIN, {}, {"answer_at": 0.8}) == {}


@pytest.mark.parametrize("configurable", [{"answer_at": 0.8}, {"model_name": "x"}])
def test_context_and_configurable_exclude_each_other(configurable):
    """Even if the configurable would have been passed over."""
    with pytest.raises(ConflictingRequest) as refused:
        said(SUPERVISOR, {"answer_at": 0.9}, configurable)

    assert refused.value.code == "context_and_configurable"


@pytest.mark.parametrize(
    ("context", "configurable"), [({}, {"locale": "es"}), ({"locale": "es"}, {}), ({"locale": "es"}, {"thread_id": "t"})]
)
def test_an_empty_one_and_reserved_names_do_not_count(context, configurable):
    """RemoteGraph sends the thread's id among the configurable whatever else it sends."""
    assert said(SUPERVISOR, context, configurable) == {"locale": "es"}


def test_the_runs_word_counts_more_than_the_assistants_key_by_key():
    """What the run does not mention is as the assistant has it."""
    record = assistant(context={"answer_at": 0.9, "locale": "es"})

    assert run_of(record, context={"answer_at": 0.8}).context == {"answer_at": 0.8, "locale": "es"}
    assert run_of(record).context == {"answer_at": 0.9, "locale": "es"}
    assert run_of(record, configurable={"locale": "en"}).context == {"answer_at": 0.9, "locale": "en"}


def test_a_runs_context_goes_with_an_assistants_configurable():
    """The rule that only one is given holds for one caller; these are two."""
    record = assistant(config={"configurable": {"answer_at": 0.9, "model_name": "x"}})

    assert run_of(record, context={"locale": "es"}).context == {"answer_at": 0.9, "locale": "es"}


def test_what_both_say_together_is_checked():
    """Each may be right, and the two wrong."""
    with pytest.raises(InvalidInput, match=r"context: escalate_below \(0.8\) must not be above answer_at \(0.7\)") as refused:
        run_of(assistant(context={"escalate_below": 0.8, "answer_at": 0.9}), context={"answer_at": 0.7})

    assert refused.value.code == "invalid_context"


def test_a_null_is_a_word_too():
    """It takes back what the assistant says."""
    assert run_of(assistant(context={"specialists": ["a"]}), context={"specialists": None}).context == {"specialists": None}


def test_a_graph_without_a_context_takes_none():
    """Silence would look like consent."""
    assert checked_context(PLAIN, {}) == {}
    with pytest.raises(InvalidInput, match="graph g takes no context: answer_at"):
        checked_context(PLAIN, {"answer_at": 0.8})


def test_what_a_context_needs_may_come_from_the_assistant_or_the_run():
    """An assistant may leave it to its runs; a run must have it."""
    assert checked_context(NEEDY, {"temperature": 1}, is_whole=False) == {"temperature": 1}
    assert run_of(assistant(context={"temperature": 0.5}), NEEDY, context={"model": "m"}).context == {"model": "m", "temperature": 0.5}
    with pytest.raises(InvalidInput, match=r"context\.model: Field required"):
        run_of(assistant(context={"temperature": 0.5}), NEEDY)
    with pytest.raises(InvalidInput, match=r"context\.temperature"):
        checked_context(NEEDY, {"temperature": "hot"}, is_whole=False)


def test_tags_and_limits_are_the_assistants_unless_the_run_has_its_own():
    """One or the other, never a mixture."""
    record = assistant(config={"tags": ["night"], "recursion_limit": 7})

    usual, own = run_of(record), run_of(record, tags=("day",), recursion_limit=9)

    assert (usual.tags, usual.recursion_limit) == (("night",), 7)
    assert (own.tags, own.recursion_limit) == (("day",), 9)
    assert (run_of(assistant()).tags, run_of(assistant()).recursion_limit) == ((), None)


def test_metadata_are_merged():
    """The run's word counts."""
    record = assistant(metadata={"team": "night", "floor": 3})

    assert run_of(record, metadata={"floor": 4, "ticket": 7}).metadata == {"team": "night", "floor": 4, "ticket": 7}
    assert run_of(assistant(metadata={"created_by": "system"}), metadata={"ticket": 7}).metadata == {"ticket": 7}
