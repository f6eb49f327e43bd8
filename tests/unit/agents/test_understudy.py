"""Who answers when a specialist cannot."""

from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agents.models.port import Degradation
from agents.registry import SpecialistRegistry
from agents.task import AgentResult, AgentTask, ToolUse
from agents.understudy import Understudy
from resilience.events import EventKind, ResilienceEvent
from tests.support.cast import Answers, RecordingTracer
from tests.support.lexicon import task

SPECS = SpecialistRegistry.discover()
SPEC = SPECS["technical_support"]
COVERED, UNCOVERED = "How do I change my PIN?", "Which colour is the sky on Mars?"
FOUND = ToolUse("search_help_centre", {"query": "pin"}, result={"articles": [{"id": "change-pin"}]})
GOOD = AgentResult(answer=AIMessage("In the app."), confidence=0.9, sources=("change-pin",), tool_uses=(FOUND,))
FAILED = AgentResult(failure="model_unavailable")


class Troupe:
    """An understudy, what it keeps, and what it told the trace."""

    def __init__(self, **options: Any) -> None:
        self.answers, self.tracer = Answers(), RecordingTracer()
        self.events: list[ResilienceEvent] = []
        self.understudy = Understudy(self.answers, self.tracer, sure_at=0.7, listener=self.events.append, **options)

    async def plays(self, text: str = COVERED, *, failed: AgentResult = FAILED, **changes: Any) -> AgentResult | None:
        return await self.understudy.step_in(asked(text, **changes), failed)


def asked(text: str = COVERED, **changes: Any) -> AgentTask:
    return task(changes.pop("spec", SPEC), **{"history": (HumanMessage(text),), **changes})


async def test_the_same_question_gets_the_answer_that_was_good():
    """With its sources and confidence, and it says whose it is and why."""
    troupe = Troupe()
    troupe.understudy.learn(asked(UNCOVERED), GOOD)

    result = await troupe.plays(UNCOVERED.upper())

    assert result is not None
    assert (result.answer.text, result.confidence, result.sources) == ("In the app.", 0.9, ("change-pin",))
    assert result.degraded == (Degradation("cached_answer", "model_unavailable"),)
    assert troupe.tracer.spans == [
        ("chain", "understudy", {"output": "In the app.", "metadata": {"answered": "cached_answer"}}),
    ]
    fields = {"from": "specialist:technical_support", "to": "cached_answer", "why": "model_unavailable"}
    assert [(event.kind, event.fields) for event in troupe.events] == [(EventKind.FALLBACK_TAKEN, fields)]


@pytest.mark.parametrize(("sure_at", "is_given"), [(0.0, True), (0.9, True), (0.91, False)])
async def test_whoever_wants_a_surer_answer_is_not_given_a_lesser_one(sure_at, is_given):
    """A kept answer counts by its own confidence."""
    troupe = Troupe()
    troupe.understudy.learn(asked(UNCOVERED), GOOD)

    result = await troupe.understudy.step_in(asked(UNCOVERED), FAILED, sure_at=sure_at)

    assert (result is not None) is is_given


async def test_another_tenants_answer_is_not_given():
    """Nor one to another question."""
    troupe = Troupe()
    troupe.understudy.learn(asked(UNCOVERED), GOOD)

    assert await troupe.plays(UNCOVERED, standing=replace(asked().standing, tenant="other")) is None
    assert await troupe.plays("Which colour is the sky on Venus?") is None


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (replace(GOOD, confidence=0.69), COVERED),
        (replace(GOOD, tool_uses=()), COVERED),
        (FAILED, COVERED),
        (GOOD, "How do I change my PIN 1234?"),
    ],
)
async def test_only_good_answers_to_common_questions_are_kept(result, text):
    """An unsure one, one that rests on nothing, none at all, and one to a question with a number are not."""
    troupe = Troupe()

    troupe.understudy.learn(asked(text), result)

    assert troupe.answers.kept == {}


@pytest.mark.parametrize(
    ("language", "question", "excuse", "title"),
    [
        ("en", COVERED, "Our assistant is not available right now.", "PIN"),
        ("es", "¿Cómo cambio mi PIN?", "Nuestro asistente no está disponible en este momento.", "PIN"),
    ],
)
async def test_the_help_centre_answers_what_it_covers_clearly(language, question, excuse, title):
    """Honestly: that nobody else can answer, and whose words these are, in the customer's language."""
    result = await Troupe().plays(question, language=language)

    assert result is not None
    assert result.answer.text.startswith(excuse)
    assert title in result.answer.text
    assert result.sources == ("change-pin",)
    assert result.confidence >= 0.7
    assert result.degraded == (Degradation("help_centre_answer", "model_unavailable"),)


@pytest.mark.parametrize(
    "question",
    [
        UNCOVERED,
        "What about that one?",
        "PIN?",
        "I want a refund for my last order",
        "Where is my order AZ-10234?",
        "Send me my last invoices please",
        "Which plan is my account on?",
        "Somebody stole my phone and my card",
        "Hello, good morning!",
        "I want to talk to a person about my PIN",
    ],
)
async def test_what_needs_more_than_the_help_centre_is_left_to_a_human(question):
    """What it does not cover, what hangs on what was said before, actions, the customer's own records, and small talk."""
    assert await Troupe().plays(question) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"failed": replace(FAILED, tool_uses=(ToolUse("get_customer", {}, error="attempt_timed_out"),))},
        {"decided": (ToolUse("open_refund_request", {"order_id": "AZ-10234"}),)},
        {"spec": replace(SPEC, tools=())},
    ],
)
async def test_a_specialist_that_needed_more_is_not_replaced(changes):
    """Who looked into the customer's records, or whose action a human decided on; and who never asks the help centre."""
    assert await Troupe().plays(COVERED, **changes) is None


async def test_a_search_of_the_specialist_that_failed_is_no_hindrance():
    """What it found is the same for everybody."""
    assert await Troupe().plays(failed=replace(FAILED, tool_uses=(FOUND,))) is not None


async def test_a_question_in_the_middle_of_a_conversation_is_answered_by_the_help_centre_alone():
    """What was said before may have meant something, so no earlier answer is used."""
    troupe = Troupe()
    troupe.understudy.learn(asked(), GOOD)

    result = await troupe.plays(history=(HumanMessage("Hi"), AIMessage("Hello!"), HumanMessage(COVERED)))

    assert [entry.what for entry in result.degraded] == ["help_centre_answer"]


async def test_a_step_that_is_run_again_says_the_same_message():
    """Its id follows from the run."""
    first, second = await Troupe().plays(), await Troupe().plays()

    assert first.answer.id == second.answer.id
    assert (await Troupe().plays(run_id="run-2")).answer.id != first.answer.id


async def test_when_nobody_can_answer_the_trace_says_so():
    """A human takes over."""
    troupe = Troupe()
    await troupe.plays(UNCOVERED)

    assert troupe.tracer.spans == [("chain", "understudy", {"output": None, "metadata": {"answered": "nobody"}})]


async def test_switched_off_it_neither_learns_nor_answers():
    """`RESILIENCE_OFF=fallback`."""
    troupe = Troupe(is_on=False)
    troupe.understudy.learn(asked(), GOOD)

    assert troupe.answers.kept == {}
    assert await troupe.plays() is None
