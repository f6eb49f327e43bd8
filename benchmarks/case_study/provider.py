"""The provider of the case study: `python -m benchmarks.case_study.provider PORT`; healthy until it is told to begin.

Each form has one of its own, so that calls and tokens are counted apart. What a model says depends on the question alone: the
routing decision is the label of the message, a specialist searches the help centre and then answers (one question in three is
answered at once). What befalls a call depends on the plan: see `benchmarks.case_study.plan`.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from threading import Event, Lock

from benchmarks.case_study.plan import Call, Fault, Plan
from benchmarks.train_router import read_rows
from tests.support.provider import Provider, Reply, Request, chunks_of, concludes, is_routing, routes_to

CONTROL = "control"
"""The name of the model that is not one: it takes `{"begin": {…}}`, and answers with what was counted."""
HUMAN = "human"
TOOL = "search_help_centre"
GARBAGE = b'data: {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "mess\n\n'
"""What a garbage answer looks like, streamed or not."""
STREAMED_AHEAD = 0.5
"""Share of a streamed answer's time that passes before its first word."""
ANSWER = (
    "Thank you for asking. Here is what our help centre says about it: open the app, choose the part that your question is "
    "about, and follow the steps shown there; they take about two minutes. If anything looks different on your screen, write back."
)


@dataclass
class Ledger:
    """What one form asked for.

    Args:
        calls: Calls by model and what came of them.
        prompt_tokens: Of calls that were answered, four characters each.
        completion_tokens: Likewise.
    """

    calls: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class CaseStudyProvider:
    """Behaves as the plan says, from the moment it is told to begin.

    Thread-safe: the provider calls it from a thread per connection.
    """

    def __init__(self) -> None:
        self._labels = {row["text"]: row["label"] for row in read_rows("messages.jsonl")}
        self._plan = Plan("none")
        self._begins = time.monotonic()
        self._ledger = Ledger()
        self._tries: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, request: Request) -> Reply:
        """The reply, after its time."""
        if request["model"] == CONTROL:
            return self._control(request)
        step, question = _step(request), _question(request)
        call = self._draw(request["model"], step, question)
        reply = _befallen(self._healthy(request, step, question), call.fault)
        is_gradual = bool(request.get("stream")) and reply.status == 200 and reply.raw is None and not reply.hangs
        time.sleep(call.seconds * (STREAMED_AHEAD if is_gradual else 1.0))
        if is_gradual:
            reply = replace(reply, pause=call.seconds * (1 - STREAMED_AHEAD) / chunks_of(reply))
        self._count(request, reply, call.fault)
        return reply

    def _control(self, request: Request) -> Reply:
        if "begin" in request:
            self._plan, self._begins = Plan(request["begin"]["severity"], pace=request["begin"]["pace"]), request["begin"]["at"]
            self._ledger, self._tries = Ledger(), Counter()
        with self._lock:
            return Reply(raw=json.dumps(asdict(self._ledger)).encode())

    def _draw(self, model: str, step: str, question: str) -> Call:
        with self._lock:
            key = f"{step}:{question}"
            self._tries[f"{model}:{key}"] += 1
            key = f"{key}:{self._tries[f'{model}:{key}']}"
        return self._plan.call(model, step, time.monotonic() - self._begins, key)

    def _healthy(self, request: Request, step: str, question: str) -> Reply:
        if step == "routing":
            offered = request["response_format"]["json_schema"]["schema"]["properties"]["specialist"]["enum"]
            label = self._labels.get(question, HUMAN)
            return routes_to(label if label in offered else next(name for name in offered if name != HUMAN))
        if step == "tool":
            return Reply(calls=((TOOL, {"query": question}),))
        can_conclude = "conclude" in _tools(request)
        return concludes(ANSWER) if can_conclude else Reply(ANSWER)

    def _count(self, request: Request, reply: Reply, fault: Fault | None) -> None:
        with self._lock:
            what = f"{request['model']} {fault.kind if fault else 'ok'}"
            self._ledger.calls[what] = self._ledger.calls.get(what, 0) + 1
            if reply.status == 200 and not reply.hangs:
                asked = {key: request[key] for key in ("messages", "tools", "response_format") if key in request}
                self._ledger.prompt_tokens += len(json.dumps(asked)) // 4
                self._ledger.completion_tokens += (len(reply.text) + len(json.dumps(reply.calls))) // 4


def _step(request: Request) -> str:
    if is_routing(request):
        return "routing"
    is_direct = zlib.crc32(_question(request).encode()) % 3 == 0
    has_searched = any(message["role"] == "tool" for message in request["messages"])
    return "tool" if TOOL in _tools(request) and not is_direct and not has_searched else "answer"


def _question(request: Request) -> str:
    said = [message["content"] for message in request["messages"] if message["role"] == "user"]
    return str(said[0]) if said else ""


def _tools(request: Request) -> set[str]:
    return {tool["function"]["name"] for tool in request.get("tools", [])}


def _befallen(reply: Reply, fault: Fault | None) -> Reply:
    """The reply that the fault makes of a good one."""
    if fault is None:
        return reply
    if fault.kind == "unavailable":
        return Reply(status=503)
    if fault.kind == "throttled":
        headers = {"retry-after": f"{fault.retry_after:g}"} if fault.retry_after is not None else {}
        return Reply(status=429, code="rate_limit_exceeded", headers=headers)
    if fault.kind == "hang":
        return Reply(hangs=True)
    if fault.kind == "cut":
        return replace(reply, cut_after=5)
    return Reply(raw=GARBAGE)


def main() -> None:
    """Serve on the loopback interface until told to stop."""
    behaviour: Callable[[Request], Reply] = CaseStudyProvider()
    with Provider(behaviour, port=int(sys.argv[1])).serving():
        Event().wait()


if __name__ == "__main__":
    main()
