"""From rounds to figures, and from figures to a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from benchmarks.bench_client import Load


@dataclass(frozen=True)
class Round:
    """One system under one load, once.

    Args:
        load: What the client saw.
        server_cpu: CPU seconds of the server process.
        storage_cpu: CPU seconds of its Redis; 0 for a system without one.
        load_cpu: CPU seconds of client and provider.
        grown: How far the server's resident memory was above that of the warm, idle server, at its peak, bytes.
    """

    load: Load
    server_cpu: float
    storage_cpu: float
    load_cpu: float
    grown: int

    @property
    def rate(self) -> float:
        """Runs per second."""
        return len(self.load.samples) / self.load.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per run, storage included."""
        return (self.server_cpu + self.storage_cpu) * 1000 / len(self.load.samples)

    @property
    def stream_kb(self) -> float:
        """Kilobytes of memory per stream."""
        return self.grown / 1024 / len(self.load.samples)


@dataclass(frozen=True)
class Figure:
    """A median over rounds, and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """The figure of at least one value."""
        return cls(median(values), min(values), max(values))

    def shown(self, digits: int = 1) -> str:
        """For the table: median, lowest and highest."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


@dataclass(frozen=True)
class Summary:
    """All rounds of one system under one load. Latencies are over all runs of all rounds, milliseconds; `cost` and `speed`
    compare round by round with the system of reference, None for itself."""

    system: str
    rate: Figure
    p50_ms: float
    p99_ms: float
    first_p50_ms: float | None
    first_p99_ms: float | None
    done_ms: Figure
    cpu_ms: Figure
    storage_cpu_ms: float
    load_share: float
    stream_kb: Figure
    open_at_once: int
    cost: Figure | None
    speed: Figure | None
    runs: int
    failed: int
    faults: dict[str, int]


def summarise(rounds: dict[str, list[Round]], reference: str) -> list[Summary]:
    """One summary per system, in their order; the n-th rounds of all systems followed one another."""
    return [_summary(system, own, None if system == reference else rounds[reference]) for system, own in rounds.items()]


def _summary(system: str, rounds: list[Round], reference: list[Round] | None) -> Summary:
    samples = [sample for one in rounds for sample in one.load.samples]
    times = [sample.seconds * 1000 for sample in samples]
    first = [sample.first * 1000 for sample in samples if sample.first is not None]
    faults = [sample.fault for sample in samples if sample.fault]
    pairs = list(zip(rounds, reference, strict=True)) if reference else []
    return Summary(
        system=system,
        rate=Figure.of([one.rate for one in rounds]),
        p50_ms=percentile(times, 50),
        p99_ms=percentile(times, 99),
        first_p50_ms=percentile(first, 50) if first else None,
        first_p99_ms=percentile(first, 99) if first else None,
        done_ms=Figure.of([one.load.seconds * 1000 for one in rounds]),
        cpu_ms=Figure.of([one.cpu_ms for one in rounds]),
        storage_cpu_ms=sum(one.storage_cpu for one in rounds) * 1000 / len(samples),
        load_share=sum(one.load_cpu for one in rounds) / sum(one.load.seconds for one in rounds),
        stream_kb=Figure.of([one.stream_kb for one in rounds]),
        open_at_once=min(one.load.open_at_once for one in rounds),
        cost=Figure.of([one.cpu_ms / other.cpu_ms for one, other in pairs]) if pairs else None,
        speed=Figure.of([one.rate / other.rate for one, other in pairs]) if pairs else None,
        runs=len(samples),
        failed=len(faults),
        faults=dict(Counter(faults)),
    )


def percentile(values: Sequence[float], share: int) -> float:
    """The value that `share` per cent of `values` do not exceed."""
    return quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


def wait_table(loads: dict[int, list[Summary]]) -> str:
    """Runs that are waited for, by concurrency."""
    rows = [
        [
            f"{concurrency}",
            one.system,
            one.rate.shown(),
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            one.cpu_ms.shown(),
            f"{one.storage_cpu_ms:.2f}",
            *_ratios(one),
            _failed(one),
        ]
        for concurrency, summaries in loads.items()
        for one in summaries
    ]
    head = ["at once", "system", "runs/s", "P50 ms", "P99 ms", "CPU ms/run", "of it Redis", "CPU ÷ floor", "runs/s ÷ floor", "failed"]
    return markdown(head, rows)


def stream_table(loads: dict[int, list[Summary]]) -> str:
    """Streams that begin at one moment, by their number."""
    rows = [
        [
            f"{streams} ({one.open_at_once})",
            one.system,
            "–" if one.first_p50_ms is None else f"{one.first_p50_ms:.0f}",
            "–" if one.first_p99_ms is None else f"{one.first_p99_ms:.0f}",
            one.done_ms.shown(0),
            one.cpu_ms.shown(),
            one.stream_kb.shown(0),
            *_ratios(one),
            _failed(one),
        ]
        for streams, summaries in loads.items()
        for one in summaries
    ]
    head = ["streams (open)", "system", "first token P50 ms", "P99 ms", "all done ms", "CPU ms/run", "kB/stream", "CPU ÷ floor"]
    return markdown([*head, "runs/s ÷ floor", "failed"], rows)


def _ratios(summary: Summary) -> list[str]:
    return [ratio.shown(2) if ratio else "1" for ratio in (summary.cost, summary.speed)]


def _failed(summary: Summary) -> str:
    kinds = "; ".join(f"{kind} × {count}" for kind, count in sorted(summary.faults.items()))
    return f"{summary.failed} of {summary.runs}: {kinds}" if kinds else "0"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table that can be read as it is, too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)


def as_json(loads: dict[int, list[Summary]]) -> dict[str, Any]:
    """The same figures for a program."""
    return {str(size): [asdict(one) for one in summaries] for size, summaries in loads.items()}
