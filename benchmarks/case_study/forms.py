"""The two forms as a customer meets them: how to ask, and what of the answer counts."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx

from benchmarks.bench_processes import Server
from benchmarks.case_study.plan import Arrival, Plan

HUMAN = "human"
SECOND_MODEL = "model:"
"""How an entry of `degraded` begins that only says which model was passed over: the answer itself is a whole one."""


@dataclass(frozen=True)
class Verdict:
    """What an answer was worth.

    Args:
        fault: Why the run counts as failed; empty: it does not.
        is_escalated: A human takes over; the customer was told so.
        degraded: What the answer says about itself, `what: why`.
    """

    fault: str = ""
    is_escalated: bool = False
    degraded: tuple[str, ...] = ()

    @property
    def has_second_model(self) -> bool:
        """Whether the second model took over for one that failed."""
        return any(entry.startswith(SECOND_MODEL) for entry in self.degraded)

    @property
    def is_reduced(self) -> bool:
        """Whether the answer is less than a model's: anything that `degraded` names besides a model that was passed over."""
        return any(not entry.startswith(SECOND_MODEL) for entry in self.degraded)


@dataclass(frozen=True)
class Run:
    """One run as its customer saw it; `at` and `seconds` from its arrival, seconds."""

    at: float
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)


class Form(Protocol):
    """A service that answers customers."""

    name: str

    def start(self, folder: Path, provider: int, plan: Plan) -> Server:
        """A process of it that asks the provider at the port `provider`."""
        ...

    async def ask(self, client: httpx.AsyncClient, port: int, arrival: Arrival) -> Verdict:
        """Ask, wait for the end and judge."""
        ...


class Naive:
    """See `benchmarks.case_study.naive`. It waits for every answer: that form has no stream."""

    name = "naive"

    def start(self, folder: Path, provider: int, plan: Plan) -> Server:
        """See `Form.start`."""
        return Server("benchmarks.case_study.naive", folder, **_provider(provider))

    async def ask(self, client: httpx.AsyncClient, port: int, arrival: Arrival) -> Verdict:
        """See `Form.ask`."""
        response = await client.post(f"http://127.0.0.1:{port}/chat", json={"message": arrival.message})
        if response.status_code != 200:
            return Verdict(f"status {response.status_code}")
        answer = response.json()
        return Verdict("" if _is_text(answer["answer"]) else "no answer", is_escalated=answer["specialist"] == HUMAN)


LIMITS = "connect=1,first_token=0.9,between_tokens=0.9,total=4"
"""What 999 of 1,000 healthy calls take here for the whole answer (lognormal, median 0.42 s); `total` leaves time for the second model."""
LIMITS_ROUTING = "first_token=0.7"
"""The same for the quickest call (median 0.30 s), with a little room for a busy machine."""
QUOTA = "3000rpm"
"""What the account may do per model: ten times the traffic, so it never binds. An entry makes all processes believe a 429."""


class Capataz:
    """The service, started as an operator would: a model per role, a second model, times that fit them, everything else as it comes.

    Args:
        settings: More variables, or others.
    """

    name = "capataz"

    def __init__(self, **settings: str) -> None:
        self._settings = settings

    def start(self, folder: Path, provider: int, plan: Plan) -> Server:
        """See `Form.start`."""
        models = {f"MODEL_{role.upper()}": model for role, model in plan.models.items()}
        primary = sorted({model for role, model in plan.models.items() if role != "fallback"})
        quotas = ";".join(f"127.0.0.1:{provider}/{model}={QUOTA}" for model in primary)
        settings = {"LOG_LEVEL": "ERROR", "LIMITS": LIMITS, "LIMITS_ROUTING": LIMITS_ROUTING, "PROVIDER_LIMITS": quotas, **self._settings}
        return Server("app.main", folder, **_provider(provider), **models, **settings)

    async def ask(self, client: httpx.AsyncClient, port: int, arrival: Arrival) -> Verdict:
        """See `Form.ask`."""
        body: dict[str, Any] = {"assistant_id": "supervisor", "input": {"messages": [{"role": "user", "content": arrival.message}]}}
        if not arrival.is_streamed:
            response = await client.post(f"http://127.0.0.1:{port}/runs/wait", json=body)
            return _judged(response.status_code, response.json())
        body["stream_mode"] = ["values", "messages-tuple"]
        response = await client.post(f"http://127.0.0.1:{port}/runs/stream", json=body)
        return _judged(response.status_code, _last_state(response.text))


FORMS: tuple[Form, ...] = (Naive(), Capataz())


async def run(form: Form, client: httpx.AsyncClient, port: int, arrival: Arrival, patience: float) -> Run:
    """One customer, who leaves after `patience` seconds."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            verdict = await form.ask(client, port, arrival)
    except TimeoutError:
        verdict = Verdict("no answer in time")
    except httpx.TransportError as exc:
        verdict = Verdict(type(exc).__name__)
    return Run(arrival.at, time.perf_counter() - begun, verdict)


def _provider(port: int) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "stand-in"}


def _judged(status: int, state: dict[str, Any]) -> Verdict:
    error = state.get("__error__")
    if status != 200 or error is not None:
        return Verdict(f"status {status} {(error or state).get('code', '')}".strip())
    degraded = tuple(f"{entry['what']}: {entry['why']}" for entry in state.get("degraded") or ())
    return Verdict(
        "" if _is_text(state.get("answer")) else "no answer", is_escalated=state.get("escalation") is not None, degraded=degraded
    )


def _last_state(events: str) -> dict[str, Any]:
    """The last state of a stream, or its error; without an end it has broken off."""
    state: dict[str, Any] = {"__error__": {"code": "stream broke off"}}
    latest: dict[str, Any] = {}
    for event in events.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line and not line.startswith(":"))
        if lines.get("event") == "values":
            latest = json.loads(lines["data"])
        elif lines.get("event") == "error":
            state = {"__error__": json.loads(lines["data"])}
        elif lines.get("event") == "end":
            state = latest
    return state


def _is_text(answer: Any) -> bool:
    return isinstance(answer, str) and bool(answer.strip())
