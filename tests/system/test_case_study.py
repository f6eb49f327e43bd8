"""The case study runs, and its provider behaves as its plan says; the figures are nobody's promise."""

import json
from pathlib import Path

import pytest

from benchmarks.case_study.__main__ import Schedule, case_study
from benchmarks.case_study.forms import Run, Verdict
from benchmarks.case_study.plan import SEVERITIES, Plan
from benchmarks.case_study.plot import draw
from benchmarks.case_study.report import Lane, as_json, summarise, table

PRIMARY, SECOND = "primary-routing", "second"


async def test_both_forms_answer_the_same_customers_through_the_same_faults(tmp_path: Path) -> None:
    """Some seconds of the plan give figures, a table and plots for both forms."""
    lanes = await case_study(Schedule(phases=(("middle",),), pace=0.02, patience=12.0))

    summaries = naive, ours = summarise(lanes)
    assert (naive.form, ours.form) == ("naive", "capataz")
    assert naive.runs == ours.runs > 0
    assert naive.failed > 0
    assert all(sum(lane.ledger["calls"].values()) > 0 and lane.ledger["prompt_tokens"] > 0 for lane in lanes)
    assert any(run.verdict.has_second_model for run in lanes[1].runs)
    assert json.dumps(as_json(lanes, summaries))
    assert "calls/run" in table(summaries)
    assert [picture.stat().st_size > 1000 for picture in draw(lanes, summaries, tmp_path)] == [True, True]


def test_a_form_is_compared_with_itself_without_faults() -> None:
    """Calls and escalations are told as more than the same traffic has when nobody is ill."""

    def lane(severity: str, calls: int, *verdicts: Verdict) -> Lane:
        runs = tuple(Run(at=float(i), seconds=1.0 + i, verdict=verdict) for i, verdict in enumerate(verdicts))
        return Lane("capataz", Plan(severity), runs, {"calls": {"x ok": calls}, "prompt_tokens": 30, "completion_tokens": 10}, {}, 0.1)

    good, handed, second = Verdict(), Verdict(is_escalated=True), Verdict(degraded=("model:x: circuit_open",))
    reduced = Verdict(degraded=("model:x: circuit_open", "routing: circuit_open"))
    _, ill = summarise([lane("none", 8, good, good, good, handed), lane("middle", 10, second, reduced, handed, Verdict("no answer"))])

    assert (ill.failed, ill.faults) == (0.25, {"no answer": 1})
    assert (ill.second_model, ill.reduced, ill.degraded, ill.escalated, ill.escalated_beyond) == (0.25, 0.25, 0.5, 0.25, 0.0)
    assert (ill.calls_per_run, ill.calls_ratio, ill.tokens_per_run) == (2.5, 1.25, 10.0)
    assert (ill.p50, ill.p95_good) == (2.5, pytest.approx(2.9))


@pytest.mark.parametrize(
    ("entries", "has_second_model", "is_reduced"),
    [
        ((), False, False),
        (("model:x/primary: rate_limited",), True, False),
        (("model:x/primary: circuit_open", "model:x/second: circuit_open", "routing_by_rules: circuit_open"), True, True),
        (("specialist:billing_support: circuit_open", "cached_answer: circuit_open"), False, True),
        (("specialist:billing_support: attempt_timed_out", "help_centre_answer: attempt_timed_out"), False, True),
    ],
)
def test_what_an_answer_says_about_itself_is_told_apart(entries: tuple[str, ...], has_second_model: bool, is_reduced: bool) -> None:
    """A second model's answer is a whole one; one by rules, from before or from the help centre is less."""
    verdict = Verdict(degraded=entries)

    assert (verdict.has_second_model, verdict.is_reduced) == (has_second_model, is_reduced)


def test_the_plan_is_the_same_for_everybody() -> None:
    """Customers, latencies and faults come from the seed and from nothing else."""
    one, other = Plan("middle"), Plan("middle")

    assert one.arrivals() == other.arrivals()
    assert [one.call(PRIMARY, "routing", 1.0, str(key)) for key in range(100)] == [
        other.call(PRIMARY, "routing", 1.0, str(key)) for key in range(100)
    ]


def test_every_severity_has_the_same_customers() -> None:
    """What differs between severities is the provider."""
    assert len({tuple(Plan(severity).arrivals()) for severity in SEVERITIES}) == 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_second_model_stays_healthy(severity: str) -> None:
    """It is slow now and then, like every model, and that is all."""
    plan = Plan(severity)

    assert all(plan.call(SECOND, "answer", at, f"{at}").fault is None for at in range(int(plan.seconds)))


def test_outside_the_windows_at_most_one_call_in_twenty_fails() -> None:
    """Most faults come together, as they do in life."""
    plan = Plan("middle")
    quiet = [at for at in range(int(plan.seconds)) if not any(window.begins <= at < window.ends for window in plan.windows)]

    calls = [plan.call(PRIMARY, "routing", at, f"{at}:{key}") for at in quiet for key in range(100)]

    assert quiet
    assert 0 < sum(call.fault is not None for call in calls) <= len(calls) / 20


def test_one_specialists_model_is_out_for_a_minute() -> None:
    """The window of which the issue speaks is in the plan, and the other models do not share it."""
    plan = Plan("middle")
    window = plan.windows[0]

    assert window.ends - window.begins == 60
    asked = [(model, plan.call(model, "tool", window.begins + 1, f"{key}").fault) for key in range(20) for model in plan.models.values()]
    assert all(fault == window.fault for model, fault in asked if model == "primary-technical")
    assert not all(fault == window.fault for model, fault in asked if model == "primary-billing")


def test_severities_differ_by_how_long_the_windows_are() -> None:
    """From mild to severe no window grows shorter."""
    mild, middle, severe = ([window.ends - window.begins for window in Plan(severity).windows] for severity in SEVERITIES[1:])
    assert all(a < b <= c for a, b, c in zip(mild, middle, severe, strict=True))
