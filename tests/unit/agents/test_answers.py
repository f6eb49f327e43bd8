"""Which answers may be given again, and to which questions."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from agents.answers import LONGEST_QUESTION, NoAnswers, answer_key, is_common, may_be_kept, normalised
from agents.demo.company import help_centre
from agents.registry import SpecialistRegistry
from agents.retrieval import HelpCentre
from agents.spec import AgentSpec
from agents.task import AgentResult, AgentTask, Customer, ToolUse
from resilience.context import Standing
from resilience.deadline import Deadline

SPECS = SpecialistRegistry.discover()
SPEC = SPECS["technical_support"]
FOUND = ToolUse("search_help_centre", {"query": "pin"}, result={"articles": [{"id": "change-pin"}]})


def asked(text: str = "How do I change my PIN?", spec: AgentSpec = SPEC, **changes: Any) -> AgentTask:
    given: dict[str, Any] = {
        "spec": spec,
        "history": (HumanMessage(text),),
        "customer": Customer("C-1"),
        "language": "en",
        "deadline": Deadline(0.0),
        "standing": Standing("acme"),
        "run_id": "run-1",
    }
    return AgentTask(**{**given, **changes})


@pytest.mark.parametrize(
    "same",
    [
        "how do i change my pin",
        "How  do I\nchange my PIN?",
        "¿How do I change my PIN?!",
        "«How do I change my PIN»",
        "HOW DO I CHANGE MY PIN...",
    ],
)
def test_the_same_question_has_the_same_key(same):
    """Case, white space and the punctuation around it do not count."""
    assert answer_key(asked(same)) == answer_key(asked())


def test_accents_count_however_they_are_written():
    """Composed or decomposed is the same; without is another word."""
    assert normalised("¿Cómo?") == normalised("Co\u0301mo") == "cómo"
    assert normalised("como") != normalised("cómo")


@pytest.mark.parametrize("other", ["How do I change my password?", "How do I not change my PIN?", "How do I change, my PIN?"])
def test_another_question_has_another_key(other):
    """Exact means exact: one word, or a comma inside, is enough."""
    assert answer_key(asked(other)) != answer_key(asked())


@pytest.mark.parametrize(
    "changes",
    [
        {"language": "es"},
        {"customer": Customer("C-1", "vip")},
        {"customer": Customer(None)},
        {"spec": SPECS["billing_support"]},
        {"spec": replace(SPEC, prompt="Be brief.")},
        {"spec": replace(SPEC, tools=SPEC.tools[:1])},
        {"spec": replace(SPEC, tools=(replace(SPEC.tools[0], knowledge=lambda: "an edited article"), *SPEC.tools[1:]))},
    ],
)
def test_whatever_shapes_an_answer_is_part_of_its_key(changes):
    """Who is asked, in which language, what is told of the customer, and the version of all that is known."""
    assert answer_key(asked(**changes)) not in (None, answer_key(asked()))


def test_two_customers_of_one_kind_share_a_key():
    """That is what it is for; who they are is not part of it."""
    assert answer_key(asked(customer=Customer("C-1"))) == answer_key(asked(customer=Customer("C-2", locale="en-GB")))


@pytest.mark.parametrize(
    "changes",
    [
        {"history": (HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage("How do I change my PIN?"))},
        {"history": (HumanMessage("How do I change my PIN?"), AIMessage("", tool_calls=[]))},
        {"history": (AIMessage("Hello!"),)},
        {"draft": "So.", "critique": "Too short."},
        {"decided": (ToolUse("open_refund_request", {}),)},
        {"history": (HumanMessage("Where is my order AZ-10234?"),)},
        {"history": (HumanMessage("Is ana@example.com my address?"),)},
        {"history": (HumanMessage("?!"),)},
        {"history": (HumanMessage("why " * LONGEST_QUESTION),)},
    ],
)
def test_some_answers_are_for_one_customer_only(changes):
    """What is not asked alone, and questions that may hold a number or an address, have no key."""
    assert answer_key(asked(**changes)) is None


@given(st.text(max_size=400))
def test_a_key_is_never_made_of_a_question_with_digits_or_an_at_sign(text):
    """Of whatever script."""
    if any(char.isdecimal() or char == "@" for char in text):
        assert answer_key(asked(text)) is None


def test_only_what_rests_on_common_knowledge_is_kept():
    """Something was found, and none of it is somebody's own or changes by itself."""
    good = AgentResult(answer=AIMessage("So."), tool_uses=(FOUND,))

    assert may_be_kept(SPEC, good)
    assert not may_be_kept(SPEC, replace(good, tool_uses=()))
    assert not may_be_kept(SPEC, replace(good, answer=None, failure="model_unavailable"))
    assert not may_be_kept(SPEC, replace(good, tool_uses=(replace(FOUND, result={"articles": []}),)))
    assert not may_be_kept(SPEC, replace(good, tool_uses=(FOUND, replace(FOUND, result=None, error="tool_failed"))))
    for tool in ("get_customer", "service_status", "a_tool_that_is_gone"):
        assert not may_be_kept(SPEC, replace(good, tool_uses=(FOUND, ToolUse(tool, {}, result={"customer": {"id": "C-1"}}))))


def test_only_the_help_centre_is_common_knowledge():
    """A tool that reads records, or the state of something, says nothing that holds for others tomorrow."""
    common = {tool.name for spec in SPECS.values() for tool in spec.tools if tool.knowledge is not None}

    assert common == {"search_help_centre"}
    assert is_common(SPEC, AgentResult())


def test_an_edited_article_is_another_version():
    """Title, text and keywords count; the order of the files does not."""
    articles = help_centre().articles
    edited = [replace(articles[0], text=f"{articles[0].text}\n\nNew!"), *articles[1:]]

    assert HelpCentre(articles).version == HelpCentre(articles[::-1]).version == help_centre().version
    assert HelpCentre(edited).version != help_centre().version


async def test_a_service_without_a_provider_keeps_nothing():
    """The offline model gives the same answer again by itself."""
    store = NoAnswers()
    store.keep("acme", "k", None)

    assert await store.find("acme", "k") is None
