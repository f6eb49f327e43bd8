"""What cannot be taken back is done after a human's yes, once, and not before."""

import json
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agents.errors import QuotaExhausted
from agents.models.adapter import LangChainModel
from agents.models.offline import OfflineChatModel
from agents.models.scripted import calls, scripted_model
from agents.specialists.billing_support import SPEC
from agents.tools.base import Effect, ToolContext, ToolError, tool
from agents.tools.find_order import find_order
from agents.tools.open_refund_request import OpenRefundRequest, open_refund_request
from graphs.supervisor import build_supervisor
from tests.support.cast import Cast

ORDER = {"order_id": "AZ-10234"}
REFUND = {**ORDER, "reason": "it arrived broken"}
LOOKUP = calls(("find_order", ORDER))
PROPOSAL = calls(("open_refund_request", REFUND))
WISH = "I want a refund of order AZ-10234, it arrived broken"
CONFIG = {"configurable": {"thread_id": "t"}, "recursion_limit": 30}


class RefundDesk:
    """The world: keeps every effect as (key, arguments); `fails` is raised after the next one."""

    def __init__(self):
        self.effects = []
        self.fails = None

    def tool(self):
        @tool(effect=Effect.IRREVERSIBLE, timeout=5.0)
        async def open_refund_request(args: OpenRefundRequest, ctx: ToolContext) -> dict:
            """Open a refund request."""
            self.effects.append((ctx.idempotency_key, args.model_dump()))
            if self.fails is not None:
                fails, self.fails = self.fails, None
                raise fails
            return {"request_id": "RR-1"}

        return open_refund_request


class Conversation:
    """One thread with the supervisor, whose billing specialist says `lines`; every run has an id of its own."""

    def __init__(self, *lines, chains=None, refund_tool=None):
        self.desk = RefundDesk()
        spec = replace(SPEC, tools=(find_order, refund_tool or self.desk.tool()))
        self.cast = Cast({"billing_support": lines} if lines else {}, chains=chains, specialists=[spec])
        self.graph = build_supervisor(self.cast.specialists).compile(checkpointer=InMemorySaver())
        self.runs = 0

    async def say(self, text, **customer):
        given = {"messages": [HumanMessage(text)], "customer": {"id": "C-1001", **customer}}
        return await self.run(given)

    async def answer(self, resume):
        return await self.run(Command(resume=resume))

    async def run(self, given):
        self.runs += 1
        return await self.graph.ainvoke(given, CONFIG, context=self.cast.context(f"run-{self.runs}"), version="v2")

    async def state(self):
        return (await self.graph.aget_state(CONFIG)).values

    @property
    def prompts(self):
        return self.cast.prompts("billing_support")


def only(output):
    (asked,) = output.interrupts
    return asked


async def test_the_human_is_shown_everything_and_nothing_has_been_done():
    """The action, who proposes it, what was asked and what was found; as plain JSON, and before any effect."""
    talk = Conversation(LOOKUP, PROPOSAL)

    asked = only(await talk.say(WISH, tier="vip", locale="en-GB")).value

    found = asked.pop("found")
    assert asked == {
        "kind": "approval",
        "tool": "open_refund_request",
        "arguments": REFUND,
        "specialist": "billing_support",
        "question": WISH,
        "customer": {"id": "C-1001", "tier": "vip", "locale": "en-GB"},
        "language": "en",
        "notice": "I have prepared your request, and a person on our team has to approve it.",
        "next": [],
    }
    assert [(finding["tool"], finding["result"]["order"]["total_eur"]) for finding in found] == [("find_order", 58.0)]
    assert json.loads(json.dumps(asked)) == asked
    assert talk.desk.effects == []


@pytest.mark.parametrize("answer", [True, {"approved": True}, {"approved": True, "comment": "goodwill"}])
async def test_after_a_yes_it_is_done_once_and_the_specialist_tells_the_customer(answer):
    """The effect has the key of the run that proposed it; the answer is the specialist's, and nothing is left to escalate."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")
    await talk.say(WISH)

    output = await talk.answer(answer)

    ((key, arguments),) = talk.desk.effects
    assert key.startswith("run-1:open_refund_request:")
    assert arguments == REFUND
    assert (output.value["answer"], output.value["specialist"], output.value["escalation"]) == (
        "Your request is RR-1.",
        "billing_support",
        None,
    )
    result = json.loads(talk.prompts[-1][-1].text)
    assert (result["request_id"], result["human"]["approved"]) == ("RR-1", True)


async def test_after_a_no_nothing_is_done_and_the_specialist_knows_why():
    """The refusal and its reason are the call's result; the human has decided, so there is no second escalation."""
    talk = Conversation(LOOKUP, PROPOSAL, "Sorry, this was not approved.")
    await talk.say(WISH)

    output = await talk.answer({"approved": False, "comment": "already replaced"})

    assert talk.desk.effects == []
    assert (output.value["answer"], output.value["escalation"]) == ("Sorry, this was not approved.", None)
    told = talk.prompts[-1][-1]
    assert (told.status, json.loads(told.text)["error"]) == ("error", "refused_by_human")
    assert json.loads(told.text)["human"]["comment"] == "already replaced"


async def test_resuming_asks_no_model_again_for_what_it_said_before():
    """Two calls before the question, one after the answer."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")

    await talk.say(WISH)
    assert len(talk.prompts) == 2
    await talk.answer(True)

    assert len(talk.prompts) == 3


async def test_a_call_and_its_result_enter_the_conversation_together():
    """While the call waits the messages end with complete pairs; after it its own pair follows, then the answer."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")

    waiting = (await talk.say(WISH)).value["messages"]
    done = (await talk.answer(True)).value["messages"]

    assert [message.type for message in waiting] == ["human", "ai", "tool"]
    assert [message.type for message in done] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert done[3].tool_calls[0]["id"] == done[4].tool_call_id
    assert done[: len(waiting)] == waiting


UNUSABLE = [
    "yes",
    1,
    [True],
    {"comment": "fine"},
    {"approved": "yes"},
    {"approved": True, "argments": {}},
    {"approved": True, "arguments": {"order_id": "AZ-10234"}},
    {"approved": True, "arguments": {**REFUND, "order_id": "INV-1"}},
]


@pytest.mark.parametrize("answer", UNUSABLE, ids=str)
async def test_an_answer_that_cannot_be_used_is_asked_for_again(answer):
    """The same question comes back with what is wrong, nothing is done, and a good answer still works."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")
    first = only(await talk.say(WISH)).value

    again = only(await talk.answer(answer)).value

    fault = again.pop("error")
    assert fault
    assert again == first
    assert talk.desk.effects == []
    assert len(talk.prompts) == 2

    output = await talk.answer(True)
    assert (len(talk.desk.effects), output.value["answer"]) == (1, "Your request is RR-1.")


async def test_an_answer_may_be_corrected_more_than_once_and_by_id():
    """Every question has an id of its own, and each fault is that of the latest answer."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")
    first = only(await talk.say(WISH))
    second = only(await talk.answer({first.id: "yes"}))
    third = only(await talk.answer({second.id: {"approved": True, "arguments": {}}}))

    assert len({first.id, second.id, third.id}) == 3
    assert "order_id" in third.value["error"]

    await talk.answer({third.id: True})
    assert len(talk.desk.effects) == 1


async def test_the_human_may_change_the_arguments():
    """What the human wrote is done under the same key, and the specialist is told what was changed."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")
    await talk.say(WISH)

    changed = {**REFUND, "reason": "broken, seen on the photo"}
    await talk.answer({"approved": True, "arguments": changed})

    ((key, arguments),) = talk.desk.effects
    assert arguments == changed
    assert key == f"run-1:open_refund_request:{json.dumps(REFUND, sort_keys=True)}"
    assert json.loads(talk.prompts[-1][-1].text)["human"]["arguments"] == changed


OTHER = {"order_id": "AZ-10198", "reason": "it does not fit"}
TWO = calls(("open_refund_request", REFUND), ("find_order", {"order_id": "AZ-10198"}), ("open_refund_request", OTHER))
TWO.tool_calls[2]["id"] = "call-2"


async def test_several_actions_of_one_message_are_asked_one_after_the_other():
    """Each has its own yes or no; what only looks is done at once; the specialist goes on when all are answered."""
    talk = Conversation(TWO, "One of them was approved.")

    first = only(await talk.say(WISH))
    assert [finding["tool"] for finding in first.value["found"]] == ["find_order"]
    assert (first.value["arguments"], first.value["next"]) == (REFUND, [{"tool": "open_refund_request", "arguments": OTHER}])
    second = only(await talk.answer({first.id: False}))
    assert (second.value["arguments"], second.value["next"]) == (OTHER, [])
    assert talk.desk.effects == []
    assert len(talk.prompts) == 1

    output = await talk.answer({second.id: True})

    assert [arguments for _, arguments in talk.desk.effects] == [OTHER]
    assert [message.type for message in output.value["messages"]] == ["human", "ai", "tool", "tool", "tool", "ai"]
    assert [m.tool_call_id for m in output.value["messages"][2:5]] == [call["id"] for call in TWO.tool_calls]
    assert [m.status for m in output.value["messages"][2:5]] == ["error", "success", "success"]


async def test_a_crash_after_the_effect_repeats_it_under_the_same_key():
    """Whichever run makes it again; a backend that knows the key has one request."""
    talk = Conversation(LOOKUP, PROPOSAL, "Your request is RR-1.")
    await talk.say(WISH)
    talk.desk.fails = MemoryError("the process is killed")
    with pytest.raises(MemoryError):
        await talk.answer(True)

    output = await talk.run(None)

    assert len(talk.desk.effects) == 2
    assert len({key for key, _ in talk.desk.effects}) == 1
    assert output.value["answer"] == "Your request is RR-1."


async def test_an_action_that_fails_after_the_yes_is_told_to_the_specialist():
    """A tool's error is no crash: the specialist explains it, or calls a human."""
    talk = Conversation(LOOKUP, PROPOSAL, "It could not be opened.")
    await talk.say(WISH)
    talk.desk.fails = ToolError("The shop is closed.")

    output = await talk.answer(True)

    told = json.loads(talk.prompts[-1][-1].text)
    assert (told["error"], told["message"]) == ("tool_failed", "The shop is closed.")
    assert output.value["answer"] == "It could not be opened."


async def test_an_approved_action_goes_through_the_tools_pipeline():
    """A breaker that is open keeps the call back, and the specialist hears of it."""
    talk = Conversation(LOOKUP, PROPOSAL, "It could not be opened.")
    await talk.say(WISH)
    talk.cast.policies.breaker("tool:open_refund_request").isolate()

    output = await talk.answer(True)

    assert talk.desk.effects == []
    assert json.loads(talk.prompts[-1][-1].text)["error"] == "circuit_open"
    assert output.value["answer"] == "It could not be opened."


async def test_a_specialist_out_of_reach_after_the_yes_is_escalated_with_what_was_done():
    """The effect stays done and known: the human who takes over sees it, and the conversation has the call and its result."""
    talk = Conversation(LOOKUP, PROPOSAL, QuotaExhausted("the account is used up"))
    await talk.say(WISH)

    output = await talk.answer(True)

    assert output.value["escalation"]["reason"] == "specialist_unreachable"
    assert [finding["tool"] for finding in output.value["escalation"]["context"]["found"]] == ["find_order", "open_refund_request"]
    assert len(talk.desk.effects) == 1


@pytest.mark.parametrize("answer", [True, False])
async def test_what_a_human_decided_is_not_asked_again(answer):
    """A specialist that proposes the same once more gets the same result: no second question, no second effect."""
    talk = Conversation(LOOKUP, PROPOSAL, PROPOSAL, "That is settled.")
    await talk.say(WISH)

    output = await talk.answer(answer)

    assert output.interrupts == ()
    assert len(talk.desk.effects) == answer
    assert talk.prompts[-1][-1].text == talk.prompts[-2][-1].text
    assert output.value["answer"] == "That is settled."


async def test_another_action_after_the_yes_is_asked_too():
    """One yes is for one action."""
    talk = Conversation(PROPOSAL, calls(("open_refund_request", OTHER)), "Both are open.")
    await talk.say(WISH)

    second = only(await talk.answer(True))
    assert second.value["arguments"] == OTHER
    assert len(talk.desk.effects) == 1

    await talk.answer(True)
    assert len(talk.desk.effects) == 2


async def test_counts_and_costs_go_on_after_the_interrupt():
    """Hops, visits, findings, usage and what was degraded belong to the turn, not to the run."""
    first = scripted_model(QuotaExhausted("the account is used up"), PROPOSAL, "Your request is RR-1.", name="first")
    talk = Conversation(chains={"billing_support": (first, scripted_model(LOOKUP, name="second"))})
    await talk.say(WISH)
    before = await talk.state()

    await talk.answer(True)

    after = await talk.state()
    assert after["usage"]["input_tokens"] > before["usage"]["input_tokens"] > 0
    assert after["hops"] == before["hops"] == 1
    assert [visit["outcome"] for visit in after["visits"]] == ["asked_for_human", "answered"]
    assert [finding["tool"] for finding in after["findings"]] == ["find_order", "open_refund_request"]
    assert after["degraded"] == before["degraded"] == [{"what": "model:scripted/first", "why": "model_quota_exhausted"}]
    assert after["proposal"] is None


async def test_a_customer_who_writes_before_the_answer_begins_a_new_turn():
    """What was proposed is dropped without a trace in the conversation, and proposed again if it is still wanted."""
    talk = Conversation(LOOKUP, PROPOSAL, PROPOSAL, "Your request is RR-1.")
    await talk.say(WISH)

    asked = only(await talk.say("Please hurry with the refund of AZ-10234"))

    assert asked.value["question"] == "Please hurry with the refund of AZ-10234"
    state = await talk.state()
    answered = {message.tool_call_id for message in state["messages"] if isinstance(message, ToolMessage)}
    called = {call["id"] for message in state["messages"] if isinstance(message, AIMessage) for call in message.tool_calls}
    assert called == answered
    await talk.answer(True)
    assert [key.partition(":")[0] for key, _ in talk.desk.effects] == ["run-2"]


async def test_a_waiting_state_is_json_but_for_its_messages():
    """It can be read by anything and survives a change of the code that wrote it (ADR-0010)."""
    talk = Conversation(LOOKUP, TWO)
    await talk.say(WISH)

    state = await talk.state()
    del state["messages"]

    assert json.loads(json.dumps(state)) == state
    assert state["proposal"]["run_id"] == "run-1"


@pytest.mark.parametrize(
    ("wish", "answer", "said"),
    [
        ("Quiero un reembolso del pedido AZ-10234, llegó roto", True, "Tu solicitud de reembolso RR-"),
        ("Quiero un reembolso del pedido AZ-10234, llegó roto", {"approved": False, "comment": "ya se envió otro"}, "no ha aprobado"),
        ("I want a refund for order AZ-10234, it arrived broken", True, "Your refund request RR-"),
        ("I want a refund for order AZ-10234, it arrived broken", False, "has not approved a refund of order AZ-10234"),
    ],
)
async def test_the_offline_model_completes_the_refund(wish, answer, said):
    """Looked up, proposed, decided, told: in both languages, with the request's id or the human's reason."""
    offline = {role: (LangChainModel(OfflineChatModel(role=role), name="offline", provider="offline"),) for role in ("billing_support",)}
    talk = Conversation(chains=offline, refund_tool=open_refund_request)

    asked = only(await talk.say(wish)).value
    assert [finding["tool"] for finding in asked["found"]] == ["find_order"]
    assert asked["arguments"] == {"order_id": "AZ-10234", "reason": wish}
    assert asked["notice"].startswith("He preparado" if asked["language"] == "es" else "I have prepared")
    output = await talk.answer(answer)

    assert said in output.value["answer"]
    assert (output.value["specialist"], output.value["escalation"]) == ("billing_support", None)
    assert isinstance(answer, bool) or answer["comment"] in output.value["answer"]
