"""A stand-in for a model provider that costs almost nothing: every answer is made before the first request.

`python -m benchmarks.bench_provider PORT` speaks as much of OpenAI's chat protocol as two calls of a run need: a request with
a schema gets a routing decision, one with tools an answer with the `conclude` call, any other the answer alone. With `SLOTS` and
`SECONDS` in the environment it works on so many calls at once, so long on each, and lets the others wait inside.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import uvicorn

ANSWER = "The fee is 1.5 % of the amount and was shown before the transfer was confirmed"
"""What the provider answers; 15 tokens when streamed."""
_DECISION = {"specialist": "billing_support", "confidence": 0.9, "reason": "a fee", "alternatives": []}
_CONCLUDE = {
    "index": 0,
    "id": "call_1",
    "type": "function",
    "function": {"name": "conclude", "arguments": '{"confidence": 0.9, "sources": []}'},
}
_USAGE = {"prompt_tokens": 400, "completion_tokens": 20, "total_tokens": 420}
_PLAIN: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
_EVENTS: list[tuple[bytes, bytes]] = [(b"content-type", b"text/event-stream")]

Message = dict[str, Any]


def completion(text: str, calls: list[dict[str, Any]] | None = None) -> bytes:
    """A whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "stand-in", "choices": [choice], "usage": _USAGE}
    ).encode()


def streamed(text: str, calls: list[dict[str, Any]] | None = None) -> bytes:
    """The same answer, a word at a time."""
    words = text.split(" ")
    deltas: list[dict[str, Any]] = [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    deltas[0] = {"role": "assistant", **deltas[0]}
    if calls:
        deltas.append({"tool_calls": calls})
    choices: list[list[dict[str, Any]]] = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in deltas]
    choices.append([{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}])
    return _frames([*({"choices": choice} for choice in choices), {"choices": [], "usage": _USAGE}])


def _frames(parts: Iterable[dict[str, Any]]) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}
    return b"".join(b"data: %b\n\n" % json.dumps({**head, **part}).encode() for part in parts) + b"data: [DONE]\n\n"


ROUTING = completion(json.dumps(_DECISION))
CONCLUDED, CONCLUDED_STREAM = completion(ANSWER, [_CONCLUDE]), streamed(ANSWER, [_CONCLUDE])
ALONE, ALONE_STREAM = completion(ANSWER), streamed(ANSWER)


def answer_to(request: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body for a request, told by its bytes; parsing it would cost more than all the rest."""
    if b'"response_format"' in request:
        return _PLAIN, ROUTING
    whole, stream = (CONCLUDED, CONCLUDED_STREAM) if b'"tools"' in request else (ALONE, ALONE_STREAM)
    is_stream = b'"stream":true' in request or b'"stream": true' in request
    return (_EVENTS, stream) if is_stream else (_PLAIN, whole)


class Capacity:
    """So many calls at once, each so many seconds; the others wait, first come first served.

    Args:
        slots: Calls that are worked on at once.
        seconds: Work on each.
    """

    def __init__(self, slots: int, seconds: float) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._seconds = seconds

    async def work(self) -> None:
        """Return when a call has been worked on."""
        async with self._slots:
            await asyncio.sleep(self._seconds)


CAPACITY = Capacity(int(os.environ["SLOTS"]), float(os.environ["SECONDS"])) if "SLOTS" in os.environ else None


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    """The ASGI application; without the framework that would be half of its time."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if CAPACITY is not None:
        await CAPACITY.work()
    headers, answer = answer_to(body)
    await send({"type": "http.response.start", "status": 200, "headers": [*headers, (b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


def main() -> None:
    """Serve on the loopback interface until told to stop."""
    uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", access_log=False, log_level="error", timeout_keep_alive=60)


if __name__ == "__main__":
    main()
