"""The web chat in a real browser: what is asked, streamed, cut, resumed, stopped, decided and judged there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser

from tests.support.browser import FAULTS, LOST, Chat, launched
from tests.support.provider import Provider, Reply, Request, concludes, is_routing, routes_to
from tests.support.service import Service

pytestmark = pytest.mark.needs("chromium")
QUESTION = "Why was I charged a fee for my transfer?"
REFUND = "I want a refund for order AZ-10234, it arrived broken"
TEXT = "One  fee – «0,5 %» – is  taken; it's shown before you confirm, and 2 < 3 & so on: ¿claro? " * 6 + "🙂"
OTHER = "A second attempt says it in other words, and they are all that counts. " * 4 + "End."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture
def open_chat(browser: Browser) -> Iterator[Any]:
    """Opens a chat in a window of its own; at the end nobody may have complained, or asked anything of another host."""
    opened: list[Chat] = []

    def opening(service: Service, fragment: str = "", *, expects: tuple[str, ...] = (), **window: Any) -> Chat:
        chat = Chat(browser.new_context(**{"locale": "en-GB", **window}), service.url)
        opened.append(chat)
        chat.expects = expects  # type: ignore[attr-defined]
        return chat.open(fragment)

    yield opening
    for chat in opened:
        problems = [text for text in chat.problems if not any(word in text for word in chat.expects)]  # type: ignore[attr-defined]
        chat.page.context.close()
        assert problems == []


class Desk:
    """A provider whose specialist says what the test wants; the question is always routed to general support."""

    def __init__(self) -> None:
        self.says: Any = lambda: concludes("hello")
        self.provider = Provider(self._behave)

    def _behave(self, request: Request) -> Reply:
        return routes_to("general_support") if is_routing(request) else self.says()

    def holds_after(self, words: int, text: str) -> threading.Event:
        """Say `text`, but stop after `words` of it until the event is set."""
        go_on = threading.Event()
        reply = concludes(text)
        self.says = lambda: Reply(reply.text, calls=reply.calls, waits_after=(words, go_on))
        return go_on


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    found = Desk()
    with found.provider.serving():
        yield found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, desk: Desk) -> Iterator[Service]:
    """A service over that provider, quick to take over what another process left."""
    limits = "first_token=30,between_tokens=30,total=60"
    found = Service(
        tmp_path_factory.mktemp("chat"), OPENAI_BASE_URL=desk.provider.url, LEASE_SECONDS="1", LIMITS=limits, BREAKER_SLOW_SECONDS="0"
    )
    try:
        yield found.start()
    finally:
        found.close()


def first(words: int, text: str) -> str:
    return " ".join(text.split(" ")[:words])


def last_message(service: Service, chat: Chat) -> str:
    """The final state's last message."""
    values = httpx.get(f"{service.url}/threads/{chat.thread_id}").raise_for_status().json()["values"]
    text: str = values["messages"][-1]["content"]
    return text


def runs(service: Service, chat: Chat) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{service.url}/threads/{chat.thread_id}/runs").raise_for_status().json()
    return found


def test_a_question_is_answered_and_the_page_says_by_whom_and_from_what(offline_service: Service, open_chat: Any) -> None:
    """The text is the state's, the specialist has a name, what was looked up is listed, and a screen reader hears the answer once."""
    chat = open_chat(offline_service)

    answer = chat.ask(QUESTION)

    assert answer == last_message(offline_service, chat)
    assert chat.find(".message.assistant .name").text_content() == "Billing support"
    chat.find("summary").click()
    assert chat.find("summary").text_content() == "Looked up: help centre"
    assert "What a transfer costs" in (chat.find(".lookups li").text_content() or "")
    chat.wait("() => document.getElementById('status').textContent.startsWith('Billing support: According to')")
    assert chat.find("#scroller").get_attribute("aria-live") == "off"


def test_tokens_are_shown_as_they_come(service: Service, desk: Desk, open_chat: Any) -> None:
    """Seven words are there while the eighth has not been said; the rest follows, and nothing twice."""
    go_on = desk.holds_after(7, TEXT)
    chat = open_chat(service)

    chat.send("hello")
    chat.wait_for_answer(first(7, TEXT))
    busy = chat.find(".message.assistant").get_attribute("aria-busy"), chat.find("#activity-text").text_content()
    go_on.set()

    assert chat.settled() == TEXT == last_message(service, chat)
    assert busy == ("true", "General support is writing")
    assert chat.find(".message").count() == 2


def test_a_reload_in_mid_answer_loses_and_doubles_nothing(service: Service, desk: Desk, open_chat: Any) -> None:
    """The page comes back to the same words, twice, follows the run to its end, and has the state's text."""
    go_on = desk.holds_after(9, TEXT)
    chat = open_chat(service)
    chat.send("hello")
    chat.wait_for_answer(first(9, TEXT))

    for _ in range(2):
        chat.page.reload()
        chat.wait_for_answer(first(9, TEXT))
    go_on.set()

    assert chat.settled() == TEXT == last_message(service, chat)
    assert (chat.find(".message").count(), len(runs(service, chat))) == (2, 1)
    chat.page.reload()
    chat.find(".message.assistant").wait_for()
    assert chat.settled() == TEXT
    assert chat.find(".thumb").count() == 2


@pytest.mark.parametrize("is_reloaded", [True, False], ids=["reloaded", "left open"])
def test_a_server_that_is_killed_in_mid_answer_changes_no_character(
    service: Service, desk: Desk, open_chat: Any, is_reloaded: bool
) -> None:
    """kill -9, a restart, and another attempt in other words: the page ends with the final state's message, character for character."""
    desk.holds_after(12, TEXT)
    chat = open_chat(service, expects=(LOST, "502", "503"))
    chat.send("hello")
    chat.wait_for_answer(first(12, TEXT))

    service.kill()
    go_on = desk.holds_after(5, OTHER)
    service.start()
    if is_reloaded:
        chat.page.reload()
    chat.wait_for_answer(first(5, OTHER))
    go_on.set()

    assert chat.settled() == OTHER == last_message(service, chat)
    assert chat.find(".message").count() == 2
    assert [run["status"] for run in runs(service, chat)] == ["success"]
    assert not chat.find("#notice").is_visible()


def test_a_question_that_was_not_accepted_survives_a_reload_and_is_asked_once(service: Service, desk: Desk, open_chat: Any) -> None:
    """The answer to the request is lost on its way, twice; the same key makes the same run of it."""
    desk.says = lambda: concludes(OTHER)
    chat = open_chat(service, expects=(LOST,))
    accepted = []

    def lose(route: Any) -> None:
        accepted.append(route.fetch().status)
        route.abort()

    chat.page.route("**/runs/stream", lose, times=1)
    chat.send("hello")
    chat.find("#notice").wait_for()
    chat.page.reload()

    chat.find(".message.assistant").wait_for()
    assert chat.settled() == OTHER == last_message(service, chat)
    assert accepted == [200]
    assert (len(runs(service, chat)), chat.find(".message.user").count()) == (1, 1)


def test_an_answer_can_be_stopped_with_a_key(service: Service, desk: Desk, open_chat: Any) -> None:
    """Escape ends the run; what was read stays, and says that it was stopped; the conversation goes on."""
    desk.holds_after(4, TEXT)
    chat = open_chat(service)
    chat.send("hello")
    chat.wait_for_answer(first(4, TEXT))

    chat.page.keyboard.press("Escape")

    assert chat.settled() == first(4, TEXT)
    assert chat.find(".message.assistant .aside").text_content() == "You stopped this answer."
    assert runs(service, chat)[0]["status"] == "interrupted"
    desk.says = lambda: concludes(OTHER)
    assert chat.ask("again, please") == OTHER


def test_after_a_reload_a_stopped_answer_is_a_message_without_one(service: Service, desk: Desk, open_chat: Any) -> None:
    """The page shows the state, and the state has nothing of an answer that was stopped; it can be asked again."""
    desk.holds_after(4, TEXT)
    chat = open_chat(service)
    chat.send("hello")
    chat.wait_for_answer(first(4, TEXT))
    chat.page.keyboard.press("Escape")
    chat.settled()

    chat.page.reload()
    again = chat.button("Ask again")
    again.wait_for()

    assert chat.find(".message.assistant").count() == 0
    assert "This message was not answered." in chat.find("#failure").inner_text()
    assert last_message(service, chat) == "hello"
    desk.says = lambda: concludes(OTHER)
    again.click()
    chat.find(".message.assistant").wait_for()
    assert (chat.settled(), chat.find(".message.user").count()) == (OTHER, 1)


def test_the_stop_button_stops_before_the_first_word(service: Service, desk: Desk, open_chat: Any) -> None:
    """And the message can be asked again: as the same message, not as a second one."""
    desk.holds_after(0, TEXT)
    chat = open_chat(service)
    chat.send("hello")
    chat.wait("() => document.getElementById('activity-text').textContent.startsWith('General support')")

    chat.find("#stop").click()
    again = chat.button("Ask again")
    again.wait_for()
    desk.says = lambda: concludes(OTHER)
    again.click()

    chat.find(".message.assistant").wait_for()
    assert chat.settled() == OTHER
    assert chat.find(".message.user").count() == 1
    assert [run["status"] for run in runs(service, chat)] == ["success", "interrupted"]


@pytest.mark.parametrize("is_approved", [True, False])
def test_what_a_run_asks_is_answered_with_buttons(offline_service: Service, open_chat: Any, is_approved: bool) -> None:
    """The question says what is to be done, also after a reload; the answer goes to the specialist, who tells what came of it."""
    chat = open_chat(offline_service, "#customer=C-1001")
    chat.send(REFUND)
    chat.find(".card.ask").wait_for()
    chat.page.reload()
    chat.find(".card.ask").wait_for()
    asked = chat.find(".card.ask").inner_text()

    chat.find(".card.ask input").fill("seen on the photo")
    chat.button("Approve" if is_approved else "Decline").click()
    chat.find(".message.assistant").wait_for()
    answer = chat.settled()

    assert "Open a refund request" in asked
    assert "AZ-10234" in asked
    assert ("RR-" in answer) is is_approved
    assert answer == last_message(offline_service, chat)
    assert "refund" not in " ".join(chat.find("summary").all_text_contents())  # what was done is nothing that was looked up
    assert chat.find(".card.ask").count() == 0
    assert chat.find("#message").evaluate("field => field === document.activeElement")


def test_an_answer_that_somebody_else_gives_is_noticed(offline_service: Service, open_chat: Any) -> None:
    """A colleague approves elsewhere; the page finds the answer by itself."""
    chat = open_chat(offline_service, "#customer=C-1001")
    chat.send(REFUND)
    chat.find(".card.ask").wait_for()

    path = f"{offline_service.url}/threads/{chat.thread_id}/runs/wait"
    httpx.post(path, json={"assistant_id": "supervisor", "command": {"resume": True}}, timeout=60).raise_for_status()

    chat.find(".message.assistant").wait_for()
    assert "RR-" in chat.settled()
    assert chat.find(".card.ask").count() == 0


def test_a_person_who_takes_over_is_announced(offline_service: Service, open_chat: Any) -> None:
    """With the reason in the customer's words, and still after a reload and a further turn."""
    chat = open_chat(offline_service)

    chat.ask("I want to cancel my account")

    for _ in range(2):
        text = chat.find(".card.human").inner_text()
        assert "A person takes over" in text
        assert "You would like to cancel." in text
        chat.ask(QUESTION)
        chat.page.reload()
        chat.find(".card.human").wait_for()


def test_an_answer_in_a_lesser_way_says_so(service: Service, desk: Desk, open_chat: Any) -> None:
    """In words and not in codes: here the routing model is out, so that rules choose."""
    desk.says = lambda: concludes(OTHER)
    behave = desk.provider.behaviour
    desk.provider.behaviour = lambda request: Reply(status=401) if is_routing(request) else desk.says()
    try:
        chat = open_chat(service)
        chat.ask("How do I change my PIN?")
    finally:
        desk.provider.behaviour = behave

    text = chat.find(".card.lesser").inner_text()
    assert text.startswith("This answer was given in a lesser way: ")
    assert "the specialist was chosen by simple rules" in text
    assert "_" not in text


def test_thumbs_are_kept_and_can_change(offline_service: Service, open_chat: Any) -> None:
    """Up, then down with a word of why: the run has one feedback, the last one, and the page remembers it."""
    chat = open_chat(offline_service)
    chat.ask(QUESTION)
    path = f"{offline_service.url}/threads/{chat.thread_id}/runs/{runs(offline_service, chat)[0]['run_id']}/feedback"

    chat.find("summary").click()
    with chat.page.expect_response("**/feedback"):
        chat.button("Good answer").click()
    up = httpx.get(path).json()
    with chat.page.expect_response("**/feedback"):
        chat.button("Bad answer").click()
    chat.find(".feedback input").fill("it is about another fee")
    with chat.page.expect_response("**/feedback"):
        chat.button("Send comment").click()
    chat.find(".thanks").wait_for()

    (down,) = httpx.get(path).json()
    assert [(said["key"], said["score"]) for said in up] == [("user_score", 1)]
    assert (down["key"], down["score"], down["comment"]) == ("user_score", 0, "it is about another fee")
    assert chat.find("details").get_attribute("open") == "", "what was unfolded before has been folded"
    chat.page.reload()
    chat.find(".thanks").wait_for()
    assert [chat.button(name).get_attribute("aria-pressed") for name in ("Good answer", "Bad answer")] == ["false", "true"]


def test_everything_can_be_done_without_a_mouse(offline_service: Service, open_chat: Any) -> None:
    """Ask, judge, decide, begin anew; the focus is never lost and can be seen."""
    chat = open_chat(offline_service, "#customer=C-1001")
    keys = chat.page.keyboard

    def focused() -> str:
        text: str = chat.page.evaluate("(e => e.getAttribute('aria-label') ?? (e.id || e.textContent))(document.activeElement)")
        return text

    assert focused() == "message"
    keys.type("Why was I charged")
    keys.press("Shift+Enter")
    keys.type("a fee for my transfer?")
    keys.press("Enter")
    chat.find(".message.assistant").wait_for()
    chat.settled()
    assert chat.find(".message.user .body p").text_content() == "Why was I charged\na fee for my transfer?"
    assert focused() == "message"

    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    assert focused() == "Good answer"
    assert chat.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    with chat.page.expect_response("**/feedback"):
        keys.press("Space")
    chat.find("[aria-pressed=true]").wait_for()
    assert focused() == "Good answer"

    keys.press("Tab")
    keys.press("Tab")
    assert focused() == "message"
    keys.type(REFUND)
    keys.press("Enter")
    chat.find(".card.ask").wait_for()
    for _ in range(2):
        keys.press("Shift+Tab")
    assert focused() == "Approve"
    keys.press("Enter")
    chat.find(".message.assistant").nth(1).wait_for()
    chat.settled()
    assert focused() == "message"

    chat.find(".skip").focus()
    keys.press("Tab")
    assert focused() == "new"
    keys.press("Enter")
    chat.find("#welcome").wait_for()
    assert (focused(), chat.find(".message").count()) == ("message", 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 340])
def test_nobody_is_kept_out(offline_service: Service, open_chat: Any, scheme: str, width: int) -> None:
    """Names, landmarks, references and contrast, with every kind of card on the page, narrow and wide, light and dark."""
    window = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    chat = open_chat(offline_service, "#customer=C-1001", **window)
    assert chat.page.evaluate(FAULTS) == []

    chat.ask("I want to cancel my account")
    chat.ask("Is there a fee for a transfer?")
    chat.button("Bad answer").last.click()
    chat.send(REFUND)
    chat.find(".card.ask").wait_for()

    assert chat.page.evaluate(FAULTS) == []
    assert chat.page.evaluate("getComputedStyle(document.querySelector('.dots i')).animationName") == "none"


def test_the_page_speaks_spanish_to_who_prefers_it(offline_service: Service, open_chat: Any) -> None:
    """And everybody else gets English; the service answers in the language of the question."""
    chat = open_chat(offline_service, locale="es-MX")

    answer = chat.ask("¿Cómo cambio mi PIN?")

    assert answer == last_message(offline_service, chat)
    assert chat.page.evaluate("document.documentElement.lang") == "es"
    assert chat.find(".message.assistant .name").text_content() == "Soporte técnico"
    assert chat.button("Nueva conversación").is_visible()
    assert chat.page.evaluate(FAULTS) == []


def test_what_a_model_writes_is_text_and_never_markup(service: Service, desk: Desk, open_chat: Any) -> None:
    """Lists, code, emphasis and safe links become elements; tags and other addresses stay what they are, words."""
    text = """# Steps

Before <img src=x onerror=alert(1)> and <script>alert(2)</script>:

1. **Open** the *app*
2. Run `a<b>c`

- [help](https://example.com/a?b=1)
- [no](javascript:alert(3))
- https://example.com/plain.

```js
let a = '<b>';
```

Done_well_2*3*4"""
    desk.says = lambda: concludes(text)
    chat = open_chat(service)

    chat.ask("how?")
    body = chat.find(".message.assistant .body")

    assert last_message(service, chat) == text
    assert body.locator("img, script, b, h1").count() == 0
    assert body.locator("p").nth(1).text_content() == "Before <img src=x onerror=alert(1)> and <script>alert(2)</script>:"
    assert body.locator("ol li").all_text_contents() == ["Open the app", "Run a<b>c"]
    assert body.locator("pre code").text_content() == "let a = '<b>';"
    assert body.locator("strong").all_text_contents() == ["Steps", "Open"]
    assert [(link.get_attribute("href"), link.get_attribute("rel")) for link in body.locator("a").all()] == [
        ("https://example.com/a?b=1", "noopener noreferrer nofollow"),
        ("https://example.com/plain", "noopener noreferrer nofollow"),
    ]
    assert "[no](javascript:alert(3))" in (body.locator("ul").text_content() or "")
    assert body.locator("p").last.text_content() == "Done_well_2*3*4"


def test_a_crowd_is_told_in_words_and_waited_for(service: Service, desk: Desk, open_chat: Any) -> None:
    """429 with Retry-After: the page says when it tries again, does so by itself, and can be told to give up."""
    desk.says = lambda: concludes(OTHER)
    chat = open_chat(service, expects=("429",))
    problem = {"code": "rate_limited", "detail": "too many", "status": 429}

    def refuse(route: Any, wait: str) -> None:
        route.fulfill(status=429, json=problem, headers={"Retry-After": wait})

    chat.page.route("**/runs/stream", lambda route: refuse(route, "1"), times=1)
    chat.send("hello")
    chat.find("#notice", has_text="Trying again in 1 s").wait_for()
    chat.find(".message.assistant").wait_for()
    assert chat.settled() == OTHER

    chat.page.route("**/runs/stream", lambda route: refuse(route, "600"), times=1)
    chat.send("and now?")
    chat.button("Cancel").click()
    chat.find("#send").wait_for()
    assert chat.find("#message").input_value() == "and now?"
    assert chat.find(".message.user").count() == 1


def test_a_run_that_fails_says_so_and_can_be_asked_again(service: Service, desk: Desk, open_chat: Any) -> None:
    """The terminal event is an error: its code in words, and a button."""
    go_on = desk.holds_after(3, TEXT)
    chat = open_chat(service)
    failure = '{"error":"DeadlineExceeded","message":"m","code":"deadline_exceeded"}'
    frames = f'event: metadata\ndata: {{"run_id":"x","attempt":1}}\nid: 1\n\nevent: error\ndata: {failure}\nid: 2\n\n'

    def fail(route: Any) -> None:
        headers = {"content-type": "text/event-stream", "content-location": f"/threads/{chat.thread_id}/runs/{'0' * 8}"}
        route.fulfill(status=200, body=frames, headers=headers)

    chat.page.route("**/runs/stream", fail, times=1)
    chat.send("hello")

    chat.find("#failure").wait_for()
    assert "The answer took too long." in chat.find("#failure").inner_text()
    go_on.set()
    chat.button("Ask again").click()
    chat.find(".message.assistant").wait_for()
    assert chat.settled() == TEXT
    assert chat.find(".message.user").count() == 1


def test_the_page_may_load_nothing_and_be_framed_by_nobody_else(offline_service: Service) -> None:
    """A strict policy, exact types, no caching of old versions; files that are not of the page are not served."""
    page = httpx.get(f"{offline_service.url}/chat")
    script = httpx.get(f"{offline_service.url}/chat/chat.js")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';")
    assert "unsafe" not in policy
    assert policy.endswith("frame-ancestors 'self' http://localhost:* https://localhost:* http://127.0.0.1:* https://127.0.0.1:*")
    assert re.findall(r"\s(?:style|on\w+)=|<script>|//(?!www\.w3\.org)", page.text) == []
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    again = httpx.get(script.url, headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("nothing.js", "chat.html", "..%2f__init__.py"):
        assert httpx.get(f"{offline_service.url}/chat/{name}").status_code == 404
