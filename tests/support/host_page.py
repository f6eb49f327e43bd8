"""A product's own web site: a page with the chat on it, and a backend that gets tokens for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDPOINT = "/my-backend/chat-token"


class HostPage:
    """The web site; it listens on every name of this machine, so that it can be visited under several origins.

    Attributes:
        script: Address of the chat's script.
        snippet: What is on the page instead of the usual tag with that script.
        token: Asks the service for a token.
        asked: How often the page has asked its backend.
        origin: Of the same site as a service on 127.0.0.1, but not of its origin.
        foreign_origin: Of another site: a browser that blocks third-party storage lets the service's frame store nothing there.
        unnamed_origin: One that the service is not told of.
    """

    def __init__(self) -> None:
        self.script = ""
        self.snippet = ""
        self.token: Callable[[], str] = lambda: ""
        self.asked = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None: ...

            def do_GET(self) -> None:
                usual = f'<script src="{site.script}" data-token-endpoint="{ENDPOINT}" data-label="Ask us" defer></script>'
                page = f"""<!doctype html><html lang="en"><head><title>Shop</title><link rel="icon" href="data:,"></head><body><h1>Shop</h1>
                    {site.snippet or usual}</body></html>"""
                self._answer("text/html", page)

            def do_POST(self) -> None:
                site.asked += 1
                self._answer("application/json", json.dumps({"token": site.token()}))

            def _answer(self, media_type: str, text: str) -> None:
                self.send_response(200)
                self.send_header("content-type", media_type)
                self.end_headers()
                self.wfile.write(text.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        port = self._server.server_port
        self.origin = f"http://127.0.0.1:{port}"
        self.foreign_origin = f"http://localhost:{port}"
        self.unnamed_origin = f"http://unnamed.localhost:{port}"

    @contextmanager
    def serving(self) -> Iterator[HostPage]:
        """Serve for as long as the block lasts."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
