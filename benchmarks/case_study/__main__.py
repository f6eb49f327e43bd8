"""The case study: `python -m benchmarks.case_study` (about 10 minutes; `--quick` about 2, at the middle severity only;
`--only middle` about 4).

Two forms of one support desk (see `benchmarks.case_study.naive`, and the service itself) answer the same customers while their
provider has a bad day; `docs/case-study.md` says what is simulated and how to read the figures. Nothing is asserted. The table
goes to standard output, all figures to `benchmarks/out/`, the plots to `docs/` (of `--quick`: to `benchmarks/out/`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from benchmarks.bench import OUT, machine
from benchmarks.bench_processes import ROOT, Server
from benchmarks.case_study.forms import FORMS, Form, Run, run
from benchmarks.case_study.plan import HEALTHY, SEVERITIES, Plan
from benchmarks.case_study.provider import CONTROL
from benchmarks.case_study.report import Lane, Summary, as_json, summarise, table

HEAD_START = 1.0
"""Seconds between the word to begin and the beginning."""
WARM_UP = 3
"""Runs of each form before the beginning."""
QUICK_PACE = 0.35


@dataclass(frozen=True)
class Schedule:
    """What is measured.

    Args:
        phases: Severities that are measured at the same time, phase after phase.
        pace: What the plan's times are multiplied with.
        patience: How long a customer waits, seconds.
    """

    phases: tuple[tuple[str, ...], ...] = ((HEALTHY, "middle"), ("mild", "severe"))
    pace: float = 1.0
    patience: float = 60.0


QUICK = Schedule(phases=((HEALTHY, "middle"),), pace=QUICK_PACE)


@dataclass(frozen=True)
class Processes:
    """Where a phase keeps what it has started, until everything is measured: a server that takes long to end holds up nobody."""

    folder: Path
    servers: ExitStack
    providers: ExitStack


async def measure(form: Form, severity: str, schedule: Schedule, processes: Processes, begin: asyncio.Barrier) -> Lane:
    """One form at one severity, with a provider of its own; all that wait at `begin` share one clock."""
    plan = Plan(severity, pace=schedule.pace)
    provider = Server("benchmarks.case_study.provider", processes.folder)
    processes.providers.callback(provider.close)
    await provider.ready()
    server = form.start(processes.folder, provider.port, plan)
    processes.servers.callback(server.close)
    await server.ready()
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(), trust_env=False) as client:
        arrivals = plan.arrivals()
        for arrival in arrivals[:WARM_UP]:
            await run(form, client, server.port, arrival, schedule.patience)
        await begin.wait()
        starts_at = time.monotonic() + HEAD_START
        await _control(client, provider, {"severity": severity, "pace": schedule.pace, "at": starts_at})
        before = psutil.cpu_times()
        pending: list[asyncio.Task[Run]] = []
        for arrival in arrivals:
            await asyncio.sleep(starts_at + arrival.at - time.monotonic())
            pending.append(asyncio.create_task(run(form, client, server.port, arrival, schedule.patience)))
        busy = _busy(before, psutil.cpu_times())
        runs = await asyncio.gather(*pending)
        return Lane(form.name, plan, tuple(runs), await _control(client, provider, None), await _metrics(client, server), busy)


def _busy(before: Any, after: Any) -> float:
    """Share of the machine that was in use between two looks at its clocks, by whatever."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    return float(1 - spent["idle"] / sum(spent.values()))


async def _control(client: httpx.AsyncClient, provider: Server, begin: dict[str, Any] | None) -> dict[str, Any]:
    """Tell the provider to begin, or ask what it counted."""
    body = {"model": CONTROL} | ({"begin": begin} if begin else {})
    response = await client.post(f"http://127.0.0.1:{provider.port}/v1/chat/completions", json=body)
    counted: dict[str, Any] = response.json()
    return counted


async def _metrics(client: httpx.AsyncClient, server: Server) -> dict[str, float]:
    """What the policies say that they did; nothing for a form that does not say."""
    text = (await client.get(f"http://127.0.0.1:{server.port}/metrics")).text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(("capataz_resilience_events_total", "capataz_degraded")))
    return {name: float(value) for name, value in lines}


async def case_study(schedule: Schedule, forms: Sequence[Form] = FORMS) -> list[Lane]:
    """Every form at every severity of the schedule, from none to severe."""
    lanes: list[Lane] = []
    for phase in schedule.phases:
        begin = asyncio.Barrier(len(phase) * len(forms))
        # Providers end first, and with them the runs that hang on them.
        with tempfile.TemporaryDirectory(prefix="case-study") as folder, ExitStack() as servers, ExitStack() as providers:
            processes = Processes(Path(folder), servers, providers)
            async with asyncio.TaskGroup() as group:
                measured = [group.create_task(measure(form, severity, schedule, processes, begin)) for severity in phase for form in forms]
        lanes += [task.result() for task in measured]
        print(f"{', '.join(phase)}: done", file=sys.stderr, flush=True)
    return sorted(lanes, key=lambda lane: SEVERITIES.index(lane.plan.severity))


def write(lanes: list[Lane], summaries: list[Summary]) -> Path:
    """All figures and every run, as a file."""
    OUT.mkdir(exist_ok=True)
    path = OUT / f"case-study-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps({"machine": machine(), **as_json(lanes, summaries)}, indent=1))
    return path


def main(arguments: list[str]) -> None:
    """Measure, print the table, write the figures and draw the plots."""
    parser = argparse.ArgumentParser(description="A provider's bad day, in the naive form and in ours.")
    parser.add_argument("--quick", action="store_true", help="two minutes, at the middle severity only")
    parser.add_argument("--only", nargs="+", choices=SEVERITIES, metavar="SEVERITY", help="these severities, all at the same time")
    parser.add_argument("--plots", type=Path, help="folder for the plots; default: docs, with --quick or --only benchmarks/out")
    options = parser.parse_args(arguments)
    print("faults: benchmarks/data/case_study.json; our rate limit is off, since nobody needs a key on loopback\n")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        schedule = QUICK if options.quick else Schedule()
        lanes = runner.run(case_study(replace(schedule, phases=(tuple(options.only),)) if options.only else schedule))
    summaries = summarise(lanes)
    print(table(summaries))
    path = write(lanes, summaries)
    from benchmarks.case_study.plot import draw

    drawn = draw(lanes, summaries, options.plots or (OUT if options.quick or options.only else ROOT / "docs"))
    print(f"\n{json.dumps(machine())}\n\nall figures: {path}\nplots: {', '.join(map(str, drawn))}")


if __name__ == "__main__":
    main(sys.argv[1:])
