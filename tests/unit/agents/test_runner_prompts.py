"""What a specialist's models and tools are given, and what its work is recorded as."""

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from agents.errors import QuotaExhausted
from agents.models.scripted import calls, scripted_model
from agents.task import Customer
from resilience.context import CallContext
from resilience.deadline import Deadline
from tests.support.lexicon import CONCLUDED, Stage
from tests.support.virtual_time import LoopClock


async def test_tools_are_given_the_deadline_and_the_customer(spec, tools):
    """The deadline is the run's own instant, the customer comes from the task and not from the model."""
    deadline = Deadline.after(33.0, LoopClock())
    await Stage(spec, calls(("look_up", {"word": "cat", "customer_id": "C-2"})), CONCLUDED).run(deadline=deadline)

    [context] = tools.contexts
    assert (context.deadline.at, context.customer_id, context.language, context.tenant) == (deadline.at, "C-1", "en", "acme")


async def test_the_same_call_of_the_same_run_has_the_same_key(spec, tools):
    """So a run that is executed again repeats no effect; another run or other arguments have another key."""
    model = [calls(("look_up", {"word": "cat"}), ("look_up", {"word": "dog"})), CONCLUDED]
    for run_id in ("run-1", "run-1", "run-2"):
        await Stage(spec, *model).run(run_id=run_id)

    keys = [context.idempotency_key for context in tools.contexts]
    assert keys[0:2] == keys[2:4]
    assert len(set(keys)) == 4


async def test_every_message_has_an_id_of_its_own(spec):
    """Messages with equal ids replace one another in the state; call ids that a model repeats are no reason to."""
    model = [calls(("look_up", {"word": "cat"})), calls(("look_up", {"word": "dog"})), CONCLUDED]
    result = await Stage(spec, *model).run()

    ids = [message.id for message in (*result.trail, result.answer)]
    assert None not in ids
    assert len(set(ids)) == len(ids) == 5


async def test_the_prompt_says_who_asks_and_in_which_language_to_answer(spec):
    """Scope, customer and language follow the specialist's own prompt; the history follows them."""
    stage = Stage(spec, CONCLUDED)
    history = (HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("¿Qué es un gato?"))

    await stage.run(customer=Customer(None, "vip"), language="es", history=history)

    instructions = stage.cast.instructions("lexicon")
    assert instructions.startswith("You know words.")
    for line in (
        "Yours: words.",
        "Not yours: numbers.",
        "Call a human when a word hurts.",
        "Answer in Spanish.",
        "not identified, tier vip",
    ):
        assert line in instructions
    assert "Critique" not in instructions
    assert [m.text for m in stage.cast.prompts("lexicon")[0][1:]] == ["Hi", "Hello", "¿Qué es un gato?"]


async def test_a_second_try_is_shown_its_draft_and_what_was_wrong_with_it(spec):
    """A critique means nothing without the text it criticises."""
    stage = Stage(spec, CONCLUDED)

    await stage.run(draft="A cat is a dog.", critique="It is not.")

    assert "Your draft: A cat is a dog.\nCritique of the draft: It is not." in stage.cast.instructions("lexicon")


async def test_the_fiftieth_turn_costs_what_the_fifth_costs(spec):
    """A long past is cut at a message of the customer; the question stays."""
    turns = [message for i in range(50) for message in (HumanMessage(f"question {i} " + "x" * 400), AIMessage("y" * 400))]
    stage = Stage(spec, CONCLUDED)

    await stage.run(history=(*turns, HumanMessage("and now?")))

    _, first, *_, last = stage.cast.prompts("lexicon")[0]
    assert (first.type, last.text) == ("human", "and now?")
    assert len(stage.cast.prompts("lexicon")[0]) < 40


async def test_a_question_longer_than_the_past_may_be_is_still_asked(spec):
    """Better too long than not at all."""
    stage = Stage(spec, CONCLUDED)

    await stage.run(history=(HumanMessage("earlier"), AIMessage("yes"), HumanMessage("z" * 30_000)))

    assert [len(m.text) for m in stage.cast.prompts("lexicon")[0][1:]] == [30_000]


async def test_what_every_model_call_cost_is_summed(spec):
    """Tokens of all calls, and every model that was tried in vain, each once."""
    out = scripted_model(QuotaExhausted("out"), name="first")
    second = scripted_model(calls(("look_up", {"word": "cat"}), text="one two"), "three", name="second")
    stage = Stage(spec, chains={"lexicon": [out, second]})

    result = await stage.run()

    assert result.usage.output_tokens == 3
    assert [(entry.what, entry.why) for entry in result.degraded] == [("model:scripted/first", "model_quota_exhausted")]


async def test_the_specialist_is_offered_its_tools_and_the_three_endings(spec):
    """In the order of the spec, so that every process sends the same prompt."""
    offered: list[list[str]] = []

    class Listening:
        name, provider = "listening", "scripted"
        inner = scripted_model(CONCLUDED)

        async def complete(self, request: Any, ctx: CallContext) -> Any:
            offered.append([tool["function"]["name"] for tool in request.tools])
            return await self.inner.complete(request, ctx)

    await Stage(spec, chains={"lexicon": [Listening()]}).run()

    assert offered == [["look_up", "burn", "conclude", "hand_back", "call_human"]]
