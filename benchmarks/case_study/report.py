"""From runs to figures, and from figures to a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.bench_report import markdown, percentile
from benchmarks.case_study.forms import Run
from benchmarks.case_study.plan import HEALTHY, Plan


@dataclass(frozen=True)
class Lane:
    """One form at one severity.

    Args:
        form: Its name.
        plan: What befell it.
        runs: Every run, in the order of arrival.
        ledger: What its provider counted.
        metrics: What it counted itself.
        busy: Share of the machine's processors that was in use, by whatever, 0..1: far above the usual, times mean little.
    """

    form: str
    plan: Plan
    runs: tuple[Run, ...]
    ledger: dict[str, Any]
    metrics: dict[str, float]
    busy: float


@dataclass(frozen=True)
class Summary:
    """One form at one severity; shares are of all runs, 0..1, times are seconds over all runs, failed ones included.

    Args:
        form: Its name.
        severity: What befell it.
        runs: How many runs there were.
        failed: Share without a usable answer in time.
        faults: Failed runs by reason.
        second_model: Share answered with the second model's help, not escalated.
        reduced: Share whose answer says that it is less than a model's, not escalated.
        degraded: Share whose result says anything in `degraded`, the second model's help included, escalated or not.
        escalated: Share handed to a human.
        escalated_beyond: The same, less what the form escalates without faults; None: not measured.
        p50: Half of the runs ended within this.
        p95: 95 %.
        p99: 99 %.
        p95_good: 95 % of those that did not fail.
        calls_per_run: Provider calls, whatever came of them.
        calls_ratio: The same over that without faults; None: not measured.
        tokens_per_run: Tokens of calls that were answered.
        good_per_minute: Runs per minute that did not fail.
        busy: See `Lane`.
    """

    form: str
    severity: str
    runs: int
    failed: float
    faults: dict[str, int]
    second_model: float
    reduced: float
    degraded: float
    escalated: float
    escalated_beyond: float | None
    p50: float
    p95: float
    p99: float
    p95_good: float
    calls_per_run: float
    calls_ratio: float | None
    tokens_per_run: float
    good_per_minute: float
    busy: float


def summarise(lanes: Iterable[Lane]) -> list[Summary]:
    """One summary per lane, in their order; each is compared with the same form's lane without faults."""
    lanes = list(lanes)
    healthy = {lane.form: lane for lane in lanes if lane.plan.severity == HEALTHY}
    return [_summary(lane, healthy.get(lane.form)) for lane in lanes]


def _summary(lane: Lane, healthy: Lane | None) -> Summary:
    good = [run for run in lane.runs if not run.verdict.fault]
    answered = [run.verdict for run in good if not run.verdict.is_escalated]
    times, count = [run.seconds for run in lane.runs], len(lane.runs)
    return Summary(
        form=lane.form,
        severity=lane.plan.severity,
        runs=count,
        failed=1 - len(good) / count,
        faults=dict(Counter(run.verdict.fault for run in lane.runs if run.verdict.fault)),
        second_model=sum(verdict.has_second_model and not verdict.is_reduced for verdict in answered) / count,
        reduced=sum(verdict.is_reduced for verdict in answered) / count,
        degraded=sum(bool(run.verdict.degraded) for run in good) / count,
        escalated=_escalated(lane),
        escalated_beyond=None if healthy is None else _escalated(lane) - _escalated(healthy),
        p50=percentile(times, 50),
        p95=percentile(times, 95),
        p99=percentile(times, 99),
        p95_good=percentile([run.seconds for run in good], 95) if good else 0.0,
        calls_per_run=_calls(lane),
        calls_ratio=None if healthy is None else _calls(lane) / _calls(healthy),
        tokens_per_run=(lane.ledger["prompt_tokens"] + lane.ledger["completion_tokens"]) / count,
        good_per_minute=len(good) / lane.plan.seconds * 60,
        busy=lane.busy,
    )


def _escalated(lane: Lane) -> float:
    return sum(run.verdict.is_escalated and not run.verdict.fault for run in lane.runs) / len(lane.runs)


def _calls(lane: Lane) -> float:
    calls: dict[str, int] = lane.ledger["calls"]
    return sum(calls.values()) / len(lane.runs)


def table(summaries: Iterable[Summary]) -> str:
    """The summaries, severity by severity."""
    rows = [
        [
            one.severity,
            one.form,
            f"{one.runs}",
            f"{one.failed:.1%}",
            f"{one.second_model:.1%}",
            f"{one.reduced:.1%}",
            f"{one.degraded:.1%}",
            f"{one.escalated:.1%}",
            "–" if one.escalated_beyond is None else f"{one.escalated_beyond:+.1%}",
            f"{one.p50:.2f}",
            f"{one.p95:.2f}",
            f"{one.p99:.2f}",
            f"{one.p95_good:.2f}",
            f"{one.calls_per_run:.2f}",
            "–" if one.calls_ratio is None else f"{one.calls_ratio:.2f}",
            f"{one.tokens_per_run:.0f}",
            f"{one.good_per_minute:.0f}",
            f"{one.busy:.0%}",
        ]
        for one in summaries
    ]
    head = [
        "faults",
        "form",
        "runs",
        "failed",
        "second model",
        "reduced",
        "any degraded",
        "escalated",
        "beyond no faults",
        "P50 s",
        "P95 s",
        "P99 s",
    ]
    return markdown([*head, "P95 s of the good", "calls/run", "÷ no faults", "tokens/run", "good/min", "machine busy"], rows)


def as_json(lanes: Iterable[Lane], summaries: Iterable[Summary]) -> dict[str, Any]:
    """The same for a program, with every run."""
    return {
        "summaries": [asdict(one) for one in summaries],
        "lanes": [
            {
                "form": lane.form,
                "severity": lane.plan.severity,
                "ledger": lane.ledger,
                "metrics": lane.metrics,
                "busy": lane.busy,
                "runs": [asdict(run) for run in lane.runs],
            }
            for lane in lanes
        ],
    }
