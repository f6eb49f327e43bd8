"""The benchmark runs; what it measures is nobody's promise."""

import json

import pytest

from benchmarks.bench import Plan, bench


async def test_the_benchmark_measures_service_and_floor_with_the_same_load(capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny plan gives figures for every system and for the policies, no run fails, and all tables are printed."""
    plan = Plan(
        concurrencies=(2,),
        streams=(3,),
        rounds=1,
        stream_rounds=1,
        seconds=0.1,
        workloads=("two-calls",),
        pairs=1,
        searches=2,
        threads=1000,
    )

    figures = await bench(plan)

    measured = figures["workloads"]["two-calls"]
    for load in measured["wait"]["2"], measured["stream"]["3"]:
        assert [system["system"] for system in load] == ["capataz", "floor", "floor: plain", "floor: sdk"]
        assert all(system["runs"] > 0 and system["faults"] == {} for system in load)
    assert all(system["first_p50_ms"] > 0 for system in measured["stream"]["3"])
    assert figures["policies"]["loads"]["1"]["price"]["median"] > 0
    assert all(row["1000"]["median_ms"] > 0 for row in figures["threads"]["searches"].values())
    assert json.dumps(figures)
    printed = capsys.readouterr().out
    assert "CPU ÷ floor" in printed
    assert "on ÷ off" in printed
    assert "rate limits: off" in printed
