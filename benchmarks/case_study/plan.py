"""What happens in the case study, read from one file: who asks what and when, and when which model is ill.

Everything is drawn from the plan's seed, so that both forms meet the same customers, the same latencies and the same faults.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from random import Random
from typing import Any, Literal

from benchmarks.train_router import DATA, read_rows

PLAN = DATA / "case_study.json"
HEALTHY = "none"
"""The severity without any fault; latencies and stragglers are those of the others."""
SEVERITIES = (HEALTHY, "mild", "middle", "severe")

FaultKind = Literal["unavailable", "throttled", "hang", "garbage", "cut"]


@dataclass(frozen=True)
class Fault:
    """What a provider does instead of answering.

    Args:
        kind: A 503, a 429, no answer at all, bytes that are no answer, or an answer that breaks off.
        retry_after: What a 429 says about when to come back, seconds; None: nothing.
    """

    kind: FaultKind
    retry_after: float | None = None


@dataclass(frozen=True)
class Window:
    """A time in which models are ill together, seconds since the beginning.

    Args:
        what: Name, for plots.
        fault: What happens.
        models: Patterns of model names.
        share: Share of their calls that meets it.
        begins: Its first moment.
        ends: The first moment after it.
    """

    what: str
    fault: Fault
    models: tuple[str, ...]
    share: float
    begins: float
    ends: float


@dataclass(frozen=True)
class Arrival:
    """One customer: when, seconds since the beginning, with which message, and whether the answer is streamed."""

    at: float
    message: str
    is_streamed: bool


@dataclass(frozen=True)
class Call:
    """What a provider does with one call: wait `seconds`, then answer or commit `fault`."""

    seconds: float
    fault: Fault | None


class Plan:
    """The plan at one severity.

    Args:
        severity: One of `SEVERITIES`.
        pace: What times are multiplied with, windows and length alike; latencies and the rate of arrivals stay.
        path: The file; `docs/case-study.md` explains it.
    """

    def __init__(self, severity: str, *, pace: float = 1.0, path: Path = PLAN) -> None:
        self._plan: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self.severity = severity
        self.seconds: float = self._plan["seconds"] * pace
        self.models: dict[str, str] = self._plan["models"]
        self.windows = () if severity == HEALTHY else tuple(_window(entry, severity, pace) for entry in self._plan["windows"])
        self._independent = [] if severity == HEALTHY else [(_fault(entry), entry["share"]) for entry in self._plan["independent"]]

    def arrivals(self) -> list[Arrival]:
        """The customers, in the order in which they come (a Poisson process)."""
        rng = Random(f"{self._plan['seed']}:arrivals")
        messages = [row["text"] for row in read_rows("messages.jsonl")]
        rng.shuffle(messages)
        arrivals: list[Arrival] = []
        at = rng.expovariate(self._plan["runs_per_minute"] / 60)
        while at < self.seconds:
            arrivals.append(Arrival(at, messages[len(arrivals) % len(messages)], rng.random() < self._plan["streamed_share"]))
            at += rng.expovariate(self._plan["runs_per_minute"] / 60)
        return arrivals

    def call(self, model: str, step: str, at: float, key: str) -> Call:
        """What comes of a call.

        Args:
            model: Which model is asked.
            step: What for: `routing`, `tool` or `answer`.
            at: When, seconds since the beginning.
            key: Tells this call from others; the same key has the same luck.
        """
        rng = Random(f"{self._plan['seed']}:{model}:{key}")
        seconds, luck, misfortune = self._latency(step, rng), rng.random(), rng.random()
        window = next((window for window in self.windows if window.begins <= at < window.ends and _meets(window, model)), None)
        fault = window.fault if window is not None and luck < window.share else self._mishap(model, misfortune)
        if fault is not None and fault.kind in ("unavailable", "throttled"):
            seconds = self._plan["refusal_seconds"]
        return Call(seconds, fault)

    def _latency(self, step: str, rng: Random) -> float:
        usual, slow = self._plan["latency"][step], self._plan["stragglers"]
        seconds: float = usual["median"] * rng.lognormvariate(0.0, usual["sigma"])
        factor = rng.uniform(slow["quickest"], slow["slowest"])
        return seconds * (factor if rng.random() < slow["share"] else 1.0)

    def _mishap(self, model: str, luck: float) -> Fault | None:
        """A fault of one call alone; the second model has none."""
        if model == self.models["fallback"]:
            return None
        for fault, share in self._independent:
            luck -= share
            if luck < 0:
                return fault
        return None


def _window(entry: dict[str, Any], severity: str, pace: float) -> Window:
    begins = entry["at"] * pace
    return Window(entry["what"], _fault(entry), tuple(entry["models"]), entry["share"], begins, begins + entry["seconds"][severity] * pace)


def _fault(entry: dict[str, Any]) -> Fault:
    return Fault(entry["kind"], entry.get("retry_after"))


def _meets(window: Window, model: str) -> bool:
    return any(fnmatch(model, pattern) for pattern in window.models)
