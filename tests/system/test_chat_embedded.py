"""The chat where a key is needed: on another page with a browser token, and by itself with one that is pasted or linked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from tests.support.browser import FAULTS, Chat, launched
from tests.support.host_page import HostPage
from tests.support.service import Service

pytestmark = pytest.mark.needs("chromium")
KEY = "key-of-the-shop"
QUESTION = "Why was I charged a fee for my transfer?"
REFUND = "I want a refund for order AZ-10234, it arrived broken"
NOT_SIGNED = "cbt_e30.e30"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def shop() -> Iterator[HostPage]:
    with HostPage().serving() as found:
        yield found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, shop: HostPage) -> Iterator[Service]:
    """A service that only the shop's pages may call and embed."""
    found = Service(
        tmp_path_factory.mktemp("shop"),
        API_KEYS=f"{KEY}:shop",
        BROWSER_TOKEN_SECRET="browser-token-secret-of-the-tests",
        CORS_ORIGINS=f"{shop.origin},{shop.foreign_origin}",
    )
    shop.script = f"{found.url}/chat/embed.js"
    try:
        yield found.start()
    finally:
        found.close()


def token(service: Service, **wanted: Any) -> str:
    """What the shop's backend asks for."""
    given: str = httpx.post(f"{service.url}/browser-tokens", json=wanted, headers={"x-api-key": KEY}).raise_for_status().json()["token"]
    return given


@pytest.fixture
def visit(browser: Browser, service: Service, shop: HostPage) -> Iterator[Any]:
    """Opens the shop; at the end nobody may have complained of anything that was not expected, or sent the shop's key."""
    opened: list[Chat] = []

    def visiting(*, origin: str = "", expects: tuple[str, ...] = (), **wanted: Any) -> Chat:
        shop.asked = 0
        shop.token = lambda: token(service, customer={"id": "C-1001"}, origin=origin or shop.origin, **wanted)
        chat = Chat(browser.new_context(locale="en-GB"), service.url)
        chat.allowed = (f"{service.url}/", f"{origin or shop.origin}/", "data:")
        chat.expects = expects  # type: ignore[attr-defined]
        chat.page.on("request", lambda request: KEY in str(request.headers) and chat.problems.append(f"the key went to {request.url}"))
        opened.append(chat)
        return chat

    yield visiting
    for chat in opened:
        problems = [text for text in chat.problems if not any(word in text for word in chat.expects)]  # type: ignore[attr-defined]
        chat.page.context.close()
        assert problems == []


def open_frame(chat: Chat, origin: str) -> Chat:
    """Open the chat on the shop's page."""
    chat.page.goto(origin)
    chat.page.get_by_role("button", name="Ask us").click()
    frame = chat.page.locator("iframe").element_handle().content_frame()
    assert frame is not None
    chat.frame = frame
    return chat


def test_a_page_of_another_origin_has_the_chat(service: Service, shop: HostPage, visit: Any) -> None:
    """Its backend gives the token, the frame asks and answers, the conversation outlives a reload of the page around it."""
    chat = open_frame(visit(), shop.origin)
    chat.wait("() => document.activeElement.id === 'message'")

    answer = chat.ask(QUESTION)
    thread_id = chat.thread_id

    values = httpx.get(f"{service.url}/threads/{thread_id}", headers={"x-api-key": KEY}).json()
    assert answer == values["values"]["messages"][-1]["content"]
    assert values["metadata"]["browser_subject"] == "C-1001"
    assert shop.asked == 1
    assert chat.frame.evaluate(FAULTS) == []
    open_frame(chat, shop.origin)
    chat.find(".message.assistant").wait_for()
    assert (chat.settled(), chat.thread_id) == (answer, thread_id)


def test_a_page_of_another_site_has_the_chat_though_the_frame_may_store_nothing(service: Service, shop: HostPage, visit: Any) -> None:
    """The browser denies the frame its storage; the page around it keeps the thread, also over a reload, until a new one is begun."""
    chat = open_frame(visit(origin=shop.foreign_origin), shop.foreign_origin)
    denied = """() => {
        try { return window.sessionStorage === null; } catch (error) { return error.name; }
    }"""
    kept = "sessionStorage.getItem('capataz.thread')"

    answer = chat.ask(QUESTION)
    thread_id = chat.page.evaluate(kept)
    open_frame(chat, shop.foreign_origin)
    chat.find(".message.assistant").wait_for()

    assert chat.frame.evaluate(denied) == "SecurityError"
    assert chat.settled() == answer
    values = httpx.get(f"{service.url}/threads/{thread_id}", headers={"x-api-key": KEY}).raise_for_status().json()["values"]
    assert values["messages"][-1]["content"] == answer
    chat.button("New conversation").click()
    chat.find("#welcome").wait_for()
    assert chat.ask("Is there a fee for a card?") != ""
    assert chat.page.evaluate(kept) not in (None, thread_id)


def test_what_is_sent_before_the_page_has_its_token_waits_for_it(service: Service, shop: HostPage, visit: Any) -> None:
    """Nothing goes without a token; what was sent stays in the field, goes once when the token is there, and is answered once."""
    chat = visit()
    given, is_given = shop.token, threading.Event()
    shop.token = lambda: given() if is_given.wait(30) else ""
    posted: list[str] = []
    chat.page.on("request", lambda request: request.url.endswith("/runs/stream") and posted.append(request.url))
    open_frame(chat, shop.origin)

    chat.find("#message").fill(QUESTION)
    chat.find("#message").press("Enter")
    chat.find("#activity", has_text="Connecting").wait_for()
    chat.find("#message").press("Enter")
    waiting = chat.find("#message").input_value(), chat.find(".message").count(), len(posted)
    is_given.set()

    chat.find(".message.assistant").wait_for()
    assert chat.settled().startswith("According to")
    assert waiting == (QUESTION, 0, 0)
    assert (len(posted), chat.find(".message").count(), chat.find("#message").input_value()) == (1, 2, "")


def test_the_frame_opens_and_closes_with_the_keyboard(shop: HostPage, visit: Any) -> None:
    """The button says what it does and what state it is in; Escape in the frame closes it, and the focus comes back."""
    chat = open_frame(visit(), shop.origin)
    chat.wait("() => document.activeElement.id === 'message'")
    button = chat.page.get_by_role("button", name="Close the chat")
    assert button.get_attribute("aria-expanded") == "true"
    assert chat.page.locator("iframe").get_attribute("title") == "Support chat"

    chat.page.keyboard.press("Escape")

    again = chat.page.get_by_role("button", name="Ask us")
    again.wait_for()
    assert (again.get_attribute("aria-expanded"), chat.page.locator("iframe").is_visible()) == ("false", False)
    chat.page.keyboard.press("Enter")
    chat.wait("() => document.activeElement.id === 'message'")


def test_a_token_is_renewed_before_it_ends(service: Service, shop: HostPage, visit: Any) -> None:
    """A minute before; the next request goes with the new one."""
    chat = visit(ttl_seconds=900)
    chat.page.clock.install()
    open_frame(chat, shop.origin)
    chat.ask(QUESTION)
    first = chat.frame.evaluate("JSON.parse(sessionStorage.getItem('capataz.chat')).token")

    shop.token = lambda: token(service, customer={"id": "C-1001"}, ttl_seconds=1000)
    chat.page.clock.fast_forward(841_000)
    chat.wait("first => JSON.parse(sessionStorage.getItem('capataz.chat')).token !== first", first)

    with chat.page.expect_request("**/runs/stream") as sent:
        chat.ask("Is there a fee for a card?")
    assert shop.asked == 2
    assert sent.value.headers["authorization"] == "Bearer " + chat.frame.evaluate(
        "JSON.parse(sessionStorage.getItem('capataz.chat')).token"
    )


def test_a_token_that_is_refused_is_replaced_and_nothing_is_lost(service: Service, shop: HostPage, visit: Any) -> None:
    """The message that met the refusal goes with the next token, or with the one after that, if the next is of no use either."""
    chat = visit(expects=("401",))
    good = shop.token
    given = iter([good, lambda: NOT_SIGNED])
    shop.token = lambda: next(given, good)()
    open_frame(chat, shop.origin).find("#welcome").wait_for()
    expired = {"code": "browser_token_expired", "detail": "expired", "status": 401}
    chat.page.route("**/runs/stream", lambda route: route.fulfill(status=401, json=expired), times=1)

    answer = chat.ask(QUESTION)

    assert answer.startswith("According to")
    assert (shop.asked, chat.find(".message.user").count()) == (3, 1)


def test_a_customer_sees_that_somebody_must_approve_and_then_that_somebody_has(service: Service, shop: HostPage, visit: Any) -> None:
    """No buttons; when the team has answered elsewhere, the page has the answer."""
    chat = open_frame(visit(), shop.origin)
    chat.send(REFUND)
    chat.find(".card.ask").wait_for()
    text, buttons = chat.find(".card.ask").inner_text(), chat.find(".card.ask button").count()

    run = {"assistant_id": "supervisor", "command": {"resume": {"approved": True}}}
    path = f"{service.url}/threads/{chat.thread_id}/runs/wait"
    httpx.post(path, json=run, headers={"x-api-key": KEY}, timeout=60).raise_for_status()

    chat.find(".message.assistant").wait_for()
    assert "a person on our team has to approve it" in text
    assert buttons == 0
    assert "RR-" in chat.settled()


def test_a_page_that_is_not_named_gets_no_frame(service: Service, shop: HostPage, visit: Any) -> None:
    """The same page under another origin: the browser itself refuses."""
    chat = visit(origin=shop.unnamed_origin, expects=("frame-ancestors",))

    with chat.page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        open_frame(chat, shop.unnamed_origin)

    assert chat.frame.locator("#message").count() == 0
    assert shop.asked == 0


def test_a_frame_listens_to_the_page_around_it_only(shop: HostPage, visit: Any) -> None:
    """A token from its own window, as a script of somebody else would send it, is nothing to it."""
    chat = open_frame(visit(), shop.origin)
    chat.ask(QUESTION)
    before = chat.frame.evaluate("JSON.parse(sessionStorage.getItem('capataz.chat')).token")

    chat.frame.evaluate("token => window.postMessage({ type: 'capataz:token', token }, '*')", NOT_SIGNED)
    chat.frame.evaluate("() => new Promise(done => { addEventListener('message', done); window.postMessage(1, '*') })")

    assert chat.frame.evaluate("JSON.parse(sessionStorage.getItem('capataz.chat')).token") == before


def test_without_a_token_the_page_asks_for_one_and_takes_no_key(service: Service, visit: Any) -> None:
    """An API key that is pasted is refused and kept nowhere; a token opens the chat."""
    chat = visit(expects=("401",))
    chat.page.goto(f"{service.url}/chat")
    chat.find("#gate").wait_for()
    assert chat.page.evaluate(FAULTS) == []
    assert chat.page.evaluate("document.activeElement.id") == "token"

    chat.find("#token").fill(KEY)
    chat.find("#token").press("Enter")
    chat.find("#gate-error", has_text="Never paste an API key").wait_for()
    assert KEY not in chat.page.evaluate("JSON.stringify([sessionStorage, localStorage, document.cookie]) + document.body.innerHTML")

    chat.find("#token").fill(token(service))
    chat.find("#token").press("Enter")
    chat.find("#welcome").wait_for()
    assert "According to" in chat.ask(QUESTION)


def test_a_token_in_the_address_is_taken_out_of_it(service: Service, visit: Any) -> None:
    """It opens the chat and is in no history; the language that came with it stays."""
    chat = visit()

    chat.page.goto(f"{service.url}/chat#token={token(service)}&lang=es")
    chat.find("#welcome").wait_for()

    assert chat.page.evaluate("location.hash") == "#lang=es"
    assert chat.button("Nueva conversación").count() == 1
    assert "According to" in chat.ask(QUESTION)
