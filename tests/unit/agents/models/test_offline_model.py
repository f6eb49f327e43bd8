"""The offline model as the gateway and the runner use it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agents import controls
from agents.models.offline import OfflineChatModel

SPANISH, ENGLISH = SystemMessage("You help.\nAnswer in Spanish."), SystemMessage("You help.\nAnswer in English.")
INVOICES = [
    {"id": "INV-2026-0342", "issued_on": "2026-11-16", "due_on": "2026-11-30", "status": "open", "amount_eur": 58.0, "lines": []},
    {"id": "INV-2026-0311", "issued_on": "2026-11-01", "due_on": "2026-11-15", "status": "paid", "amount_eur": 7.99, "lines": []},
]
ORDER = {
    "id": "AZ-10234",
    "placed_on": "2026-11-16",
    "status": "shipped",
    "total_eur": 58.0,
    "delivery_estimate": "2026-11-23",
    "items": [],
}
ARTICLE = {"id": "activate-card", "title": "Activating a new card", "text": "Open the app.\n\nIt works at once.", "score": 1.0}
LOST = {"error": "tool_not_found", "message": "This customer has no such order."}
ALL_TOOLS = ("search_help_centre", "list_invoices", "find_order", "open_refund_request", "service_status", "get_customer")


def offer(*names: str) -> list[dict[str, Any]]:
    tools = [{"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}} for name in names]
    return [*tools, *controls.schemas()]


async def ask(messages: Sequence[BaseMessage], *tools: str, role: str = "billing_support") -> AIMessage:
    """One message of the model, streamed and whole, which have to be the same."""
    model, offered = OfflineChatModel(role=role), offer(*tools)
    whole = await model.ainvoke(list(messages), tools=offered, stream=False)
    streamed: AIMessageChunk | None = None
    async for chunk in model.astream(list(messages), tools=offered):
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert (streamed.text, streamed.tool_calls, streamed.usage_metadata) == (whole.text, whole.tool_calls, whole.usage_metadata)
    return whole


def calls(message: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in message.tool_calls]


def conclusion(message: AIMessage) -> dict[str, Any]:
    [(name, arguments)] = calls(message)
    assert name == "conclude"
    return arguments


def answered(asked: AIMessage, *results: dict[str, Any]) -> list[BaseMessage]:
    """What the runner appends: the calls and their results."""
    pairs = zip(asked.tool_calls, results, strict=True)
    status = {True: "error", False: "success"}
    return [
        asked,
        *(ToolMessage(json.dumps(r), tool_call_id=str(c["id"]), name=c["name"], status=status["error" in r]) for c, r in pairs),
    ]


async def finish(prompt: list[BaseMessage], *results: dict[str, Any], role: str = "billing_support") -> AIMessage:
    """The answer after one round of tools."""
    asked = await ask(prompt, *ALL_TOOLS, role=role)
    return await ask([*prompt, *answered(asked, *results)], *ALL_TOOLS, role=role)


async def routed(text: str, offered: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"specialist": {"type": "string", "enum": offered}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "routing", "schema": schema, "strict": True}}
    reply = await OfflineChatModel(role="routing").ainvoke([SystemMessage("Choose."), HumanMessage(text)], response_format=response_format)
    return json.loads(reply.text)


async def test_routing_answers_with_the_json_of_the_schema() -> None:
    """All four keys, and nobody who is not offered."""
    decision = await routed("how do I activate my card?", ["general_support", "technical_support", "human"])

    assert decision["specialist"] == "technical_support"
    assert 0.0 <= decision["confidence"] <= 1.0
    assert decision["reason"]
    assert set(decision["alternatives"]) == {"general_support", "human"}


async def test_routing_among_specialists_it_has_never_heard_of_still_chooses_one() -> None:
    """A team's own specialists are offered under their own names."""
    assert (await routed("hello", ["garden_support"]))["specialist"] == "garden_support"


async def test_the_chunks_of_one_answer_share_the_id_of_the_message() -> None:
    """LangChain gives the id; the last chunk is marked and carries the usage."""
    chunks = [chunk async for chunk in OfflineChatModel(role="general_support").astream([SPANISH, HumanMessage("hola")])]

    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 3
    assert chunks[-1].chunk_position == "last"
    assert chunks[-1].usage_metadata


async def test_the_same_prompt_gives_the_same_calls_and_the_next_turn_gives_others() -> None:
    """The id of a call follows from the prompt, so that a retried run repeats its calls under the same ids."""
    prompt: list[BaseMessage] = [SPANISH, HumanMessage("¿Puedo ver mis facturas?")]
    first, again = await ask(prompt, *ALL_TOOLS), await ask(prompt, *ALL_TOOLS)
    later = await ask([prompt[0], HumanMessage("hola"), AIMessage("¡Hola!"), prompt[1]], *ALL_TOOLS)

    assert first.tool_calls == again.tool_calls
    assert first.tool_calls[0]["id"] != later.tool_calls[0]["id"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("¿Puedo ver mis facturas?", [("list_invoices", {})]),
        ("show me my unpaid invoices", [("list_invoices", {})]),
        ("muéstrame mis facturas pagadas", [("list_invoices", {"status": "paid"})]),
        ("How do I pay an invoice?", [("search_help_centre", {"query": "How do I pay an invoice?"})]),
        ("¿dónde está mi pedido AZ-10234?", [("find_order", {"order_id": "AZ-10234"})]),
        ("refund for order #10234 please", [("find_order", {"order_id": "AZ-10234"})]),
        ("¿cuánto tarda la tarjeta?", [("search_help_centre", {"query": "¿cuánto tarda la tarjeta?"})]),
        (
            "mi recarga sigue pendiente",
            [("service_status", {"component": "top_ups"}), ("search_help_centre", {"query": "mi recarga sigue pendiente"})],
        ),
    ],
)
async def test_the_first_step_looks_up_what_the_question_needs(text: str, expected: list[tuple[str, dict[str, Any]]]) -> None:
    """Which tool, with which arguments."""
    assert calls(await ask([SPANISH, HumanMessage(text)], *ALL_TOOLS)) == expected


async def test_a_tool_that_is_not_offered_is_never_called() -> None:
    """Without the tool for the records, another desk's question goes back with a suggestion."""
    reply = await ask([ENGLISH, HumanMessage("show me my invoices")], "search_help_centre", role="technical_support")

    [(name, arguments)] = calls(reply)
    assert (name, arguments["suggestion"]) == ("hand_back", "billing_support")


async def test_a_specialist_without_tools_says_that_it_has_no_rules() -> None:
    """A team's own specialist, offline: honest, and too unsure to be taken for an answer."""
    reply = await ask([ENGLISH, HumanMessage("when should I prune roses?")], role="garden_support")

    assert "no rules" in reply.text
    assert conclusion(reply)["confidence"] < 0.3


async def test_without_control_functions_the_answer_is_plain_text() -> None:
    """Any caller may use the model, not only the runner."""
    reply = await OfflineChatModel(role="general_support").ainvoke([HumanMessage("hello")])

    assert reply.text
    assert reply.tool_calls == []


async def test_an_article_is_quoted_with_its_title_and_the_answer_says_that_it_is_offline() -> None:
    """The first paragraph, the title, the source, the mode."""
    reply = await finish([ENGLISH, HumanMessage("how do I activate my card?")], {"articles": [ARTICLE]}, role="technical_support")

    assert "According to “Activating a new card”: Open the app." in reply.text
    assert "Offline mode" in reply.text
    assert conclusion(reply) == {"confidence": 0.9, "sources": ["activate-card"]}


async def test_a_second_paragraph_is_quoted_only_if_it_speaks_of_what_the_first_leaves_out() -> None:
    """The first paragraph answers the article's question, so it always comes."""
    text = "Open the app.\n\nA stolen phone cannot be activated.\n\nA wrong code pauses activation for an hour."
    article = {"articles": [{**ARTICLE, "text": text}]}
    plain = await finish([ENGLISH, HumanMessage("how do I start the card?")], article)
    special = await finish([ENGLISH, HumanMessage("the code in the letter is wrong, what do I do?")], article)

    assert "Open the app.\n\n(Offline" in plain.text
    assert "Open the app.\n\nA wrong code pauses activation for an hour.\n\n(Offline" in special.text


async def test_a_half_fitting_article_gets_a_second_look_and_then_the_whole_article() -> None:
    """A middling score means a middling confidence; with a critique the answer is complete instead of another draft."""
    weak = {"articles": [{**ARTICLE, "score": 0.5}]}
    draft = await finish([ENGLISH, HumanMessage("how do I activate my card?")], weak)
    critic = SystemMessage("You help.\nAnswer in English.\nCritique of the draft: It is only a part.")
    second = await finish([critic, HumanMessage("how do I activate my card?")], weak)

    assert 0.3 < conclusion(draft)["confidence"] < 0.7
    assert "It works at once." in second.text
    assert "It works at once." not in draft.text


@pytest.mark.parametrize(("system", "words"), [(SPANISH, "no cubre esta pregunta"), (ENGLISH, "does not cover this question")])
async def test_a_question_that_no_article_covers_is_not_answered(system: SystemMessage, words: str) -> None:
    """It says so, offers a human, and is unsure enough for the policy to escalate."""
    reply = await finish([system, HumanMessage("¿cuál es la capital de Perú?")], {"articles": []})

    assert words in reply.text
    assert conclusion(reply)["confidence"] < 0.3


async def test_invoices_are_listed_with_number_date_and_amount() -> None:
    """Every invoice, and their numbers as sources."""
    reply = await finish([SPANISH, HumanMessage("¿Puedo ver mis facturas?")], {"invoices": INVOICES, "total": 2})

    assert "1. INV-2026-0342 · emitida el 2026-11-16 · 58.00 € · vence el 2026-11-30 · pendiente" in reply.text
    assert conclusion(reply)["sources"] == ["INV-2026-0342", "INV-2026-0311"]


@pytest.mark.parametrize(
    ("system", "text"), [(SPANISH, "¿y la segunda?"), (SPANISH, "¿y la otra factura?"), (ENGLISH, "and the second one?")]
)
@pytest.mark.parametrize("with_records", [True, False])
async def test_the_second_invoice_is_named_without_asking_a_tool_again(system: SystemMessage, text: str, with_records: bool) -> None:
    """From the records in the conversation, or from our own list if only that was kept."""
    first: list[BaseMessage] = [system, HumanMessage("¿Puedo ver mis facturas?")]
    asked = await ask(first, *ALL_TOOLS)
    trail = answered(asked, {"invoices": INVOICES, "total": 2})
    listed = await ask([*first, *trail], *ALL_TOOLS)
    history = [*first, *(trail if with_records else []), AIMessage(listed.text, name="billing_support"), HumanMessage(text)]
    reply = await ask(history, *ALL_TOOLS)

    assert conclusion(reply)["sources"] == ["INV-2026-0311"]
    assert "7.99 €" in reply.text
    assert "2026-11-15" in reply.text
    assert "INV-2026-0342" not in reply.text


async def test_asking_for_an_invoice_beyond_the_list_says_how_many_there_are() -> None:
    """No invoice is made up."""
    listed = AIMessage("1. INV-2026-0342 · 58.00 €\n2. INV-2026-0311 · 7.99 €", name="billing_support")
    reply = await ask([SPANISH, HumanMessage("mis facturas"), listed, HumanMessage("¿y la tercera?")], *ALL_TOOLS)

    assert "solo hay 2" in reply.text


async def test_a_refund_is_prepared_after_the_order_was_found() -> None:
    """First the order, then the request in the customer's words, then the answer."""
    prompt: list[BaseMessage] = [SPANISH, HumanMessage("Quiero un reembolso del pedido AZ-10234, llegó roto")]
    lookup = await ask(prompt, *ALL_TOOLS)
    prompt += answered(lookup, {"order": ORDER})
    request = await ask(prompt, *ALL_TOOLS)
    prompt += answered(request, {"request_id": "RR-1", "status": "submitted", "order_id": "AZ-10234"})
    reply = await ask(prompt, *ALL_TOOLS)

    assert calls(lookup) == [("find_order", {"order_id": "AZ-10234"})]
    assert calls(request) == [
        ("open_refund_request", {"order_id": "AZ-10234", "reason": "Quiero un reembolso del pedido AZ-10234, llegó roto"})
    ]
    assert "RR-1" in reply.text


async def test_a_refund_request_that_failed_is_left_to_a_human() -> None:
    """Found order or not: the customer's wish is not settled, so the confidence is low."""
    prompt: list[BaseMessage] = [ENGLISH, HumanMessage("refund order AZ-10234")]
    prompt += answered(await ask(prompt, *ALL_TOOLS), {"order": ORDER})
    prompt += answered(await ask(prompt, *ALL_TOOLS), {"error": "circuit_open"})
    reply = await ask(prompt, *ALL_TOOLS)

    assert "could not open the refund request" in reply.text
    assert conclusion(reply)["confidence"] < 0.3


async def test_an_order_that_was_paid_back_already_is_not_asked_to_be_paid_back_again() -> None:
    """The state of the order is told instead."""
    reply = await finish([SPANISH, HumanMessage("reembolso del pedido AZ-10234")], {"order": {**ORDER, "status": "refunded"}})

    assert "reembolsado" in reply.text


async def test_an_order_that_is_not_this_customers_is_not_found_and_not_refunded() -> None:
    """One look, then a plain answer; no loop."""
    reply = await finish([ENGLISH, HumanMessage("refund order AZ-99999")], LOST)

    assert "cannot find" in reply.text


async def test_a_tool_that_is_out_of_order_is_admitted() -> None:
    """Nothing is invented in its place."""
    reply = await finish([ENGLISH, HumanMessage("show me my invoices")], {"error": "attempt_timed_out"})

    assert "cannot look that up" in reply.text
    assert conclusion(reply)["confidence"] < 0.3


async def test_an_incident_is_told_before_the_article() -> None:
    """What is wrong now comes first, then what the help centre says."""
    incident = {"services": [{"component": "top_ups", "status": "degraded", "incident": {"since": "", "summary": "Hay demoras."}}]}
    reply = await finish([SPANISH, HumanMessage("mi recarga sigue pendiente")], incident, {"articles": [ARTICLE]})

    assert reply.text.index("Hay demoras.") < reply.text.index("Activating a new card")
    assert conclusion(reply)["sources"] == ["status:top_ups", "activate-card"]


async def test_the_state_of_the_account_is_told_from_the_record() -> None:
    """Plan, card and identity check."""
    account = {"customer": {"id": "C-1001", "plan": "plus", "is_identity_verified": True, "card": {"state": "active"}}}
    reply = await finish([SPANISH, HumanMessage("¿qué plan tengo?")], account, {"articles": []}, role="technical_support")

    assert "Tu plan es plus. Tarjeta: activa. Identidad verificada: sí." in reply.text


@pytest.mark.parametrize("text", ["hola", "mil gracias", "hasta luego", "¿eres un robot?"])
async def test_small_talk_needs_no_tool(text: str) -> None:
    """Answered at once, and surely; it says that it is offline."""
    reply = await ask([SPANISH, HumanMessage(text)], *ALL_TOOLS, role="general_support")

    assert conclusion(reply)["confidence"] == 0.9
    assert "sin conexión" in reply.text


async def test_a_wish_for_a_human_calls_one() -> None:
    """Wherever the question ended up."""
    [(name, arguments)] = calls(await ask([SPANISH, HumanMessage("quiero hablar con una persona")], *ALL_TOOLS))

    assert name == "call_human"
    assert "quiero hablar con una persona" in arguments["reason"]


async def test_without_an_instruction_the_language_is_that_of_the_conversation() -> None:
    """An order number alone has no language; the message before it has."""
    history = [HumanMessage("¿dónde está mi pedido?"), AIMessage("¿Cuál es el número?"), HumanMessage("AZ-10234")]
    reply = await finish(history, {"order": ORDER})

    assert "Pedido AZ-10234" in reply.text


async def test_a_short_follow_up_is_searched_together_with_the_question_before() -> None:
    """Alone it would find nothing."""
    history = [SPANISH, HumanMessage("¿cuánto cuesta una transferencia?"), AIMessage("Nada."), HumanMessage("¿y al exterior?")]

    assert calls(await ask(history, *ALL_TOOLS)) == [
        ("search_help_centre", {"query": "¿cuánto cuesta una transferencia? ¿y al exterior?"}),
    ]


@pytest.mark.parametrize(("sources", "words"), [("none", "no source"), ("activate-card", "only in part")])
async def test_the_critic_tells_a_draft_without_a_source_from_one_with(sources: str, words: str) -> None:
    """All that rules can see of a draft."""
    prompt = HumanMessage(f"Question:\nq\n\nDraft:\nd\n\nSources: {sources}\n\nFound:\n[]")
    reply = await OfflineChatModel(role="reasoning").ainvoke([SystemMessage("Criticise."), prompt])

    assert words in reply.text
