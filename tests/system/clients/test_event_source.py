"""A browser's own `EventSource`, in Chromium, on a page of another origin, over a network that cuts."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.cutting_proxy import CuttingProxy
from tests.support.fleet import Fleet, Member
from tests.support.protocol import Event, brisk, events, follow, new_thread

DOCUMENT = (Path(__file__).parents[3] / "docs/clients/eventsource.md").read_text("utf-8")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
FOLLOWS = """
url => {
  window.seen = [];
  window.lost = 0;
  const source = new EventSource(url);
  for (const name of ["metadata", "updates", "custom", "end"])
    source.addEventListener(name, event => window.seen.push([event.type, Number(event.lastEventId), JSON.parse(event.data)]));
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => { window.lost += 1; });
}
"""
pytestmark = pytest.mark.needs("chromium")


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """A gateway without keys: it answers pages of this machine."""
    fleet = Fleet(tmp_path_factory.mktemp("browser"), None, EXECUTION="local")
    try:
        yield fleet.gateway(EXECUTION="local", step=0.2)
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def page_at(browser: Browser, html: str) -> Iterator[tuple[Page, str]]:
    """A page of the browser, and an address of another origin where the document is."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

        def do_GET(self) -> None:
            body = html.encode() if self.path == "/" else b""
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        page = browser.new_page()
        yield page, f"http://localhost:{server.server_port}/"
        page.close()
        server.shutdown()


def test_it_comes_back_by_itself_and_loses_and_doubles_nothing(browser: Browser, open_service: Member) -> None:
    """Cut twice in mid-stream, the page has every event of the run, once, in order."""
    with httpx.Client(base_url=open_service.url, timeout=30) as http, CuttingProxy(open_service.url, [1500, 700]).serving() as proxy:
        thread_id = new_thread(http)
        body = brisk("slow please", stream_mode=["updates", "custom"], stream_resumable=True)
        run_id = http.post(f"/threads/{thread_id}/runs", json=body).raise_for_status().json()["run_id"]
        path = f"/threads/{thread_id}/runs/{run_id}/stream"
        with page_at(browser, "<!doctype html><title>page</title>") as (page, address):
            page.goto(address)
            page.evaluate(FOLLOWS, f"{proxy.url}{path}?last_event_id=-1")
            page.wait_for_function("window.seen.some(([name]) => name === 'end')", timeout=30_000)
            seen, lost = page.evaluate("[window.seen, window.lost]")
        whole = follow(http, path, -1)

    assert [(name, number, data) for name, number, data in seen] == [(event.name, event.id, event.data) for event in whole]
    assert (proxy.streams, lost) == (3, 2)


def joined(http: httpx.Client, address: str, **headers: str) -> list[Event]:
    with http.stream("GET", address, headers=headers) as response:
        return list(events(response))


def test_the_header_wins_over_the_query(open_service: Member) -> None:
    """Who comes back says it in the header, while the address still asks for everything."""
    with httpx.Client(base_url=open_service.url, timeout=30) as http:
        thread_id = new_thread(http)
        response = http.post(f"/threads/{thread_id}/runs/wait", json=brisk("one", stream_mode=["updates"], stream_resumable=True))
        path = f"{response.headers['content-location']}/stream"
        whole = follow(http, path, -1)

        assert joined(http, f"{path}?last_event_id=-1") == whole
        assert joined(http, f"{path}?last_event_id={whole[1].id}") == whole[2:]
        assert joined(http, f"{path}?last_event_id=-1", **{"last-event-id": str(whole[2].id)}) == whole[3:]
        assert http.get(f"{path}?last_event_id=x").json()["code"] == "invalid_event_id"


def test_the_page_of_the_documentation_shows_the_answer(browser: Browser, open_service: Member) -> None:
    """Character for character, though its stream is cut; the answer is that of the thread's state."""
    (html,) = re.findall(r"```html\n(.*?)```", DOCUMENT, re.DOTALL)
    with CuttingProxy(open_service.url, [4000]).serving() as proxy:
        with page_at(browser, html.replace("http://localhost:8000", proxy.url)) as (page, address):
            with page.expect_response(re.compile(r"/runs$")) as made:
                page.goto(address)
            run = made.value.json()
            with httpx.Client(base_url=open_service.url, timeout=30) as http:
                answer = http.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join").json()["messages"][-1]["content"]
            page.wait_for_function(
                "text => document.querySelector('#answer').textContent.length >= text.length", arg=answer, timeout=15_000
            )
            shown = page.text_content("#answer")

    assert shown == answer
    assert proxy.streams >= 2
