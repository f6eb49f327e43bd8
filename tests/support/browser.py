"""A real browser: headless Chromium from Debian, driven over its own protocol; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Frame, Locator, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
PATIENCE = 30_000
"""Longest wait for something on a page, milliseconds; a loaded machine needs several seconds."""
LOST = "net::ERR_"
"""What the console says of a connection that the test has cut."""


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser for as long as the block lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Chat:
    """The chat as somebody at a browser has it.

    Args:
        context: The browser's window, with its language and colours.
        url: Where the service is.

    Attributes:
        page: The page as a whole.
        frame: Where the chat is: the page, or a frame of it.
        allowed: What the addresses of all requests begin with.
        problems: What the console complained of, errors of the page, and requests to other places.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.problems: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.frame: Frame | Page = self.page
        self.allowed: tuple[str, ...] = (f"{url}/",)
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: request.url.startswith(self.allowed) or self.problems.append(f"asked {request.url}"))

    def open(self, fragment: str = "") -> Chat:
        """Go to the chat and wait until something can be written."""
        self.page.goto(f"{self.url}/chat{fragment}")
        self.find("#send").wait_for()
        return self

    def find(self, selector: str, *, has_text: str | None = None) -> Locator:
        return self.frame.locator(selector, has_text=has_text)

    def button(self, name: str) -> Locator:
        return self.frame.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> None:
        """Say `text` with the keyboard, and do not wait for the answer."""
        self.find("#message").fill(text)
        self.find("#message").press("Enter")
        self.find(".message.user", has_text=text).last.wait_for()

    def ask(self, text: str) -> str:
        """Say `text` and wait for the answer."""
        count = self.find(".message.assistant").count()
        self.send(text)
        self.find(".message.assistant").nth(count).wait_for()
        return self.settled()

    def settled(self) -> str:
        """The latest answer, once nothing is under way."""
        self.find("#send").wait_for()
        self.find(".message.draft").wait_for(state="detached")
        return self.answer()

    def answer(self) -> str:
        """The latest answer as it is written now, in the browser's own rendering."""
        text: str = self.find(".message.assistant .body").last.evaluate("body => [...body.children].map(e => e.textContent).join('\\n\\n')")
        return text

    def wait_for_answer(self, text: str) -> None:
        """Return once the latest answer reads `text`, no more and no less."""
        self.wait("text => [...document.querySelectorAll('.message.assistant .body')].at(-1)?.textContent === text", text)

    def wait(self, condition: str, argument: Any = None) -> None:
        """Return once the JavaScript function `condition` says so."""
        self.frame.wait_for_function(condition, arg=argument)

    @property
    def thread_id(self) -> str:
        """The thread of the conversation."""
        found: str = self.frame.evaluate("JSON.parse(sessionStorage.getItem('capataz.chat')).threadId")
        return found

    @property
    def said(self) -> str:
        """What a screen reader was told last."""
        return self.find("#status").text_content() or ""


FAULTS = """() => {
  const faults = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const shown = (e) => e.checkVisibility({ visibilityProperty: true });
  const words = (e) => (e.getAttribute("aria-label") ?? e.textContent).trim() || (e.labels?.[0]?.textContent ?? "").trim();
  for (const e of all("button, input, textarea, a, summary, [role=log]")) {
    if (shown(e) && !words(e)) faults.push(`no name: ${e.outerHTML.slice(0, 80)}`);
  }
  for (const e of all("img")) if (!e.hasAttribute("alt")) faults.push(`no alt: ${e.src}`);
  for (const { id } of all("[id]")) if (all(`#${CSS.escape(id)}`).length > 1) faults.push(`id twice: ${id}`);
  for (const name of ["aria-labelledby", "aria-describedby"]) {
    for (const e of all(`[${name}]`)) {
      for (const id of e.getAttribute(name).split(" ")) if (!document.getElementById(id)) faults.push(`${name} leads nowhere: ${id}`);
    }
  }
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) faults.push(`tabindex ${e.tabIndex}`);
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  if (all("main").length !== 1 || all("h1").length !== 1) faults.push("landmarks");
  const channel = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  for (const e of all("body *")) {
    const hasWords = [...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasWords || !shown(e) || e.closest(".hidden, .skip, .user .name, :disabled")) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(2)}: ${e.className} ${e.textContent.slice(0, 30)}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push("scrolls sideways");
  if (document.documentElement.scrollHeight > innerHeight) faults.push("scrolls as a page");
  return faults;
}"""
"""JavaScript: what keeps somebody from using the page: controls without a name, dangling references, text too faint to read."""
