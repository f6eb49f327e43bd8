"""The snippets of docs/chat.md, run as they stand; only the addresses are the test's own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.browser import Chat, launched
from tests.support.host_page import ENDPOINT, HostPage
from tests.support.service import Service

PAGE = (Path(__file__).parents[3] / "docs/chat.md").read_text("utf-8")


def piece(language: str, **addresses: str) -> str:
    """The page's only piece of this language, with other addresses."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    text: str = found
    for name, address in addresses.items():
        before = {"service": "http://localhost:8000", "chat": "https://chat.example", "shop": "https://shop.example"}[name]
        assert before in text
        text = text.replace(before, address)
    return text


@pytest.fixture(scope="module")
def shop() -> Iterator[HostPage]:
    with HostPage().serving() as found:
        yield found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, shop: HostPage) -> Iterator[Service]:
    """A service with the page's key, that the shop may embed."""
    variables = {"API_KEYS": "YOUR-KEY:shop", "BROWSER_TOKEN_SECRET": "browser-token-secret-of-the-tests", "CORS_ORIGINS": shop.origin}
    found = Service(tmp_path_factory.mktemp("chat"), **variables)
    try:
        yield found.start()
    finally:
        found.close()


def token(service: Service, shop: HostPage) -> dict[str, Any]:
    """What the page's call answers."""
    command = ["bash", "-euo", "pipefail", "-c", piece("bash", service=service.url, shop=shop.origin)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout)
    return answer


@pytest.mark.needs("curl")
def test_the_call_for_a_token_gives_one_for_that_customer_and_that_page(service: Service, shop: HostPage) -> None:
    """It opens a chat to the page that was named, and to no other."""
    answer = token(service, shop)
    as_browser = {"authorization": f"Bearer {answer['token']}"}
    here = httpx.post(f"{service.url}/threads", json={}, headers={**as_browser, "origin": shop.origin})
    elsewhere = httpx.post(f"{service.url}/threads", json={}, headers={**as_browser, "origin": "https://elsewhere.example"})

    assert (answer["subject"], answer["expires_in"], answer.keys()) == ("C-1001", 900, {"token", "subject", "expires_at", "expires_in"})
    assert (here.status_code, here.json()["metadata"]["browser_subject"]) == (200, "C-1001")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "origin_not_allowed")


@pytest.mark.needs("curl")
@pytest.mark.needs("chromium")
def test_the_script_puts_a_chat_on_a_page_that_gets_its_token_from_its_own_backend(service: Service, shop: HostPage) -> None:
    """The button opens it, the backend of the page makes the call for a token, and the customer is answered."""
    shop.snippet = piece("html", chat=service.url)
    shop.token = lambda: str(token(service, shop)["token"])
    with launched() as browser:
        chat = Chat(browser.new_context(), service.url)
        chat.page.goto(shop.origin)
        chat.page.get_by_role("button").click()
        frame = chat.page.locator("iframe").element_handle().content_frame()
        assert frame is not None
        chat.frame = frame
        said = chat.ask("Why was I charged a fee for my transfer?")
        thread = httpx.get(f"{service.url}/threads/{chat.thread_id}", headers={"x-api-key": "YOUR-KEY"}).json()

    assert said == thread["values"]["messages"][-1]["content"]
    assert thread["metadata"]["browser_subject"] == "C-1001"
    assert f'data-token-endpoint="{ENDPOINT}"' in shop.snippet
    assert shop.asked == 1
