"""What the service does when more is asked of it than its provider can answer: `python -m benchmarks.bench_overload`.

The stand-in provider works on 8 calls at once, 0.25 s on each, and lets the others wait inside; a run makes two calls, so that its
capacity is 16 runs a second. Load comes in an open loop (Poisson, seeded): nobody waits for an answer before the next asks.

Two forms: as the service is, and without admission and adaptive limit (`RESILIENCE_OFF`), so that the bulkhead is all there is.
Nothing is asserted. The table goes to standard output, all figures to `benchmarks/out/overload.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.bench_client import Connection, Sample, Target
from benchmarks.bench_processes import Server

OUT = Path(__file__).parent / "out"
SLOTS, SECONDS = 8, 0.25
CAPACITY = SLOTS / SECONDS / 2
"""Runs a second that the provider can answer."""
WARM_UP = 20.0
"""Seconds of load before anything is counted: how long the limit may take to settle."""
FACTORS = (0.5, 1.0, 2.0, 3.0, 10.0)
FORMS = {"all policies": "", "without admission and adaptive limit": "admission,adaptive_limit"}
BODY: dict[str, object] = {
    "assistant_id": "supervisor",
    "input": {"messages": [{"role": "user", "content": "Why was I charged a fee for my transfer?"}]},
}


@dataclass
class Outcome:
    """What became of the runs of one load.

    Args:
        seconds: From the first request to the last answer.
        answered: How long each answered run took, seconds.
        refused: How long each refusal took, seconds.
        faults: Everything else, by what it was.
    """

    seconds: float
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Answered runs a second."""
        return len(self.answered) / self.seconds

    def quantile(self, share: float) -> float:
        """How long that share of the answered runs took at most, seconds."""
        return quantile(self.answered, share)


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


@contextmanager
def scene(folder: Path, **variables: str) -> Iterator[tuple[Server, Server]]:
    """The service and its provider, for as long as the block lasts; neither is ready at once."""
    provider = Server("benchmarks.bench_provider", folder, SLOTS=str(SLOTS), SECONDS=str(SECONDS))
    try:
        url = f"http://127.0.0.1:{provider.port}/v1"
        service = Server("app.main", folder, OPENAI_API_KEY="k", OPENAI_BASE_URL=url, LOG_LEVEL="WARNING", **variables)
        try:
            yield service, provider
        finally:
            service.close()
    finally:
        provider.close()


async def load(port: int, rate: float, seconds: float, rng: Random, *, on_sample: Callable[[Sample], None] = lambda _: None) -> Outcome:
    """`rate` runs a second for that long; returns when the last of them has ended."""
    target = Target(port, "/runs/wait", BODY, b"confirmed")
    free: list[Connection] = []
    outcome = Outcome(seconds)

    async def ask() -> None:
        free[:] = [connection for connection in free if connection.is_open]
        connection = free.pop() if free else await Connection.open(port)
        sample = await connection.run(target)
        on_sample(sample)
        if not sample.fault:
            outcome.answered.append(sample.seconds)
        elif sample.fault == "503 overloaded":
            outcome.refused.append(sample.seconds)
        else:
            outcome.faults[sample.fault[:60]] += 1
        if sample.fault in ("", "503 overloaded"):
            free.append(connection)
        else:
            connection.close()

    begun = next_at = time.perf_counter()
    end = begun + seconds
    async with asyncio.TaskGroup() as group:
        while (next_at := next_at + rng.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
            group.create_task(ask())
    outcome.seconds = time.perf_counter() - begun
    for connection in free:
        connection.close()
    return outcome


async def measure(off: str, factor: float, seconds: float, seed: int) -> Outcome:
    """One load on a fresh service, after the warm-up."""
    with tempfile.TemporaryDirectory(prefix="cz-", dir="/tmp") as folder:
        with scene(Path(folder), **({"RESILIENCE_OFF": off} if off else {})) as (service, provider):
            await provider.ready()
            await service.ready()
            rng = Random(seed)
            await load(service.port, CAPACITY * factor, WARM_UP, rng)
            return await load(service.port, CAPACITY * factor, seconds, rng)


def row(form: str, factor: float, outcome: Outcome, half: Outcome, peak: float) -> str:
    """One line of the table."""
    ratio = outcome.quantile(0.99) / half.quantile(0.99) if half.answered else 0.0
    others = ", ".join(f"{count} × {fault}" for fault, count in outcome.faults.most_common(3)) or "–"
    return (
        f"| {form} | {factor:g} × | {outcome.goodput:.1f} | {outcome.goodput / peak:.0%} | {outcome.quantile(0.5):.2f} "
        f"| {outcome.quantile(0.99):.2f} | {ratio:.2f} | {len(outcome.refused)} | {quantile(outcome.refused, 0.99) * 1000:.0f} | {others} |"
    )


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each load is counted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    given = parser.parse_args()
    head = ("policies", "load", "answers/s", "of peak", "P50 s", "P99 s", "P99 / half load", "refused", "P99 refusal ms", "others")
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    figures = []
    for form, off in FORMS.items():
        outcomes = {factor: await measure(off, factor, given.seconds, given.seed) for factor in given.factors}
        half, peak = outcomes[min(outcomes)], max(outcome.goodput for outcome in outcomes.values())
        for factor, outcome in outcomes.items():
            print(row(form, factor, outcome, half, peak), flush=True)
            figures.append(
                {
                    "policies": form,
                    "factor": factor,
                    "goodput": outcome.goodput,
                    "p50": outcome.quantile(0.5),
                    "p99": outcome.quantile(0.99),
                    "refused": len(outcome.refused),
                    "refusal_p99": quantile(outcome.refused, 0.99),
                    "faults": dict(outcome.faults),
                }
            )
    OUT.mkdir(exist_ok=True)
    (OUT / "overload.json").write_text(json.dumps({"seed": given.seed, "seconds": given.seconds, "rows": figures}, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
