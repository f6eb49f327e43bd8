import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.usage import Usage
from app.telemetry import metrics as names
from app.telemetry.metrics import Metrics
from resilience.events import EventKind, Listener, ResilienceEvent


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value by sample name and label values, those in the order of their names."""
    return {
        (sample.name, tuple(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_runs_are_counted_by_graph_and_status() -> None:
    """An ended run adds to its status and its time to its graph's histogram."""
    metrics = Metrics()

    metrics.run_ended("supervisor", "success", 0.3)
    metrics.run_ended("supervisor", "success", 0.1)
    metrics.run_ended("supervisor", "error", 2.0)

    found = samples(metrics)
    assert found["capataz_runs_total", ("supervisor", "success")] == 2
    assert found["capataz_runs_total", ("supervisor", "error")] == 1
    assert found["capataz_run_duration_seconds_count", ("supervisor",)] == 3
    assert found["capataz_run_duration_seconds_sum", ("supervisor",)] == pytest.approx(2.4)


def test_a_run_is_active_while_its_block_lasts() -> None:
    """The gauge falls again however the block ends."""
    metrics = Metrics()

    def fail() -> None:
        with metrics.running("supervisor"):
            assert samples(metrics)["capataz_runs_active", ("supervisor",)] == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert samples(metrics)["capataz_runs_active", ("supervisor",)] == 0


def test_a_model_call_adds_time_tokens_and_cost() -> None:
    """Successes carry usage; failures carry their code and no tokens."""
    metrics = Metrics()

    metrics.model_called(provider="openai", model="m", role="routing", seconds=0.2, usage=Usage(30, 5, 0.02))
    metrics.model_called(provider="openai", model="m", role="routing", seconds=5.0, error="model_timed_out")

    found = samples(metrics)
    assert found["gen_ai_client_token_usage_total", ("openai", "m", "input", "routing")] == 30
    assert found["gen_ai_client_token_usage_total", ("openai", "m", "output", "routing")] == 5
    assert found["capataz_model_cost_usd_total", ("openai", "m", "routing")] == pytest.approx(0.02)
    assert found["gen_ai_client_operation_duration_seconds_count", ("", "openai", "m", "routing")] == 1
    assert found["gen_ai_client_operation_duration_seconds_count", ("model_timed_out", "openai", "m", "routing")] == 1


def test_policies_redis_escalations_and_degradations_are_counted() -> None:
    """Each kind of trouble has its own counter, by stable words only."""
    metrics = Metrics()

    metrics.on_event(ResilienceEvent(EventKind.RETRY_SCHEDULED, "model:m", "openai:m", {"attempt": 2}))
    metrics.redis_failed("threads.get", ConnectionError("refused"))
    metrics.escalated("refund_requested")
    metrics.degraded("model")
    metrics.trace_dropped(3)

    found = samples(metrics)
    assert found["capataz_resilience_events_total", ("openai:m", "retry_scheduled")] == 1
    assert found["capataz_redis_errors_total", ("ConnectionError", "threads.get")] == 1
    assert found["capataz_escalations_total", ("refund_requested",)] == 1
    assert found["capataz_degraded_total", ("model",)] == 1
    assert found["capataz_traces_dropped_total", ()] == 3


@pytest.mark.parametrize(("state", "refuses"), [("open", 1), ("isolated", 1), ("half_open", 0), ("closed", 0)])
def test_a_breaker_that_refuses_calls_is_seen(state: str, refuses: int) -> None:
    """The gauge follows the last transition of each dependency."""
    metrics = Metrics()
    listener: Listener = metrics.on_event

    for new in ("open", state):
        listener(ResilienceEvent(EventKind.BREAKER_TRANSITION, "model:m", "openai:m", {"old": "closed", "new": new, "retry_in": 1.0}))

    assert samples(metrics)["capataz_breaker_open", ("openai:m",)] == refuses


def test_two_registries_do_not_meet() -> None:
    """Nothing is global: a second composition root counts for itself."""
    first, second = Metrics(), Metrics()

    first.run_ended("supervisor", "success", 0.1)

    assert ("capataz_runs_total", ("supervisor", "success")) not in samples(second)


def test_the_table_of_names_is_complete() -> None:
    """Every metric that is exported is explained in the module's docstring."""
    families = {
        line.split()[2]
        for line in Metrics().render().decode().splitlines()
        if line.startswith("# TYPE") and not line.split()[2].endswith("_created")
    }

    assert len(families) == 18
    assert [name for name in families if f"`{name}`" not in (names.__doc__ or "")] == []
