"""What the service counts, and under which names.

This file is the one place of metric names. Where OpenTelemetry's GenAI conventions have a word it is used, in Prometheus'
spelling (dots become underscores, the unit ends the name); everything that is ours begins with `capataz_`.

| Metric | Labels | Meaning |
|---|---|---|
| `capataz_runs_total` | graph, status | runs that ended, by final status; `pending`: drained and handed back |
| `capataz_run_duration_seconds` | graph | execution time of a run in this process |
| `capataz_runs_active` | graph | runs this process is executing |
| `capataz_escalations_total` | reason | conversations handed to a human |
| `capataz_degraded_total` | what | answers that were given in a lesser way; the words of docs/resilience/fallback.md without their names |
| `capataz_cached_answers_total` | outcome | answers `kept`, `dropped`; after a failure `found`, `missing`, `unavailable` |
| `gen_ai_client_operation_duration_seconds` | gen_ai_provider_name, gen_ai_request_model, role, error_type | model calls and their time |
| `gen_ai_client_token_usage_total` | gen_ai_provider_name, gen_ai_request_model, role, gen_ai_token_type | tokens, `input` and `output` |
| `capataz_model_cost_usd_total` | gen_ai_provider_name, gen_ai_request_model, role | money; 0 where the price is unknown |
| `capataz_resilience_events_total` | kind, dependency | what the policies did: retries, rejections, transitions, fallbacks |
| `capataz_breaker_transitions_total` | dependency, state, by | a breaker moved to `state`; `by`: `here`, `hand`, `fleet` |
| `capataz_breaker_state` | dependency, state | 1 for the state that a breaker is in, 0 for the others |
| `capataz_rate_limits_total` | limit, outcome, buckets | asked of a limit: `allowed`, `waited`, `refused`; buckets `local`: Redis is away |
| `capataz_bulkhead_limit` | dependency | calls at once that a dependency gets now |
| `capataz_bulkhead_active` | dependency | calls under way |
| `capataz_bulkhead_waiting` | dependency | calls that wait for a place |
| `capataz_bulkhead_wait_seconds` | dependency | how long calls waited that had to |
| `capataz_runs_refused_total` | reason, priority | runs that were not taken: `queue`, `deadline`, `capacity`, `backlog` |
| `capataz_webhooks_total` | kind | attempts to tell of a run's end: `delivered`, `failed` (tried again), `dead` (given up) |
| `capataz_feedback_total` | verdict | what people said of answers, each change of mind once: `good` (score above 0.5), `mixed`, `bad` |
| `capataz_redis_errors_total` | operation, error_type | requests that were refused because Redis failed; `operation` is the route's name |
| `capataz_traces_dropped_total` | – | spans that were lost, and runs that were not traced because of it |

Labels come from closed sets (specs, settings, codes), never from a request: no tenant, user, thread or run.

Source of the GenAI names: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from agents.usage import Usage
from resilience.breaker import BreakerState
from resilience.bulkhead import Bulkhead
from resilience.events import EventKind, ResilienceEvent

CONTENT_TYPE = CONTENT_TYPE_LATEST

# The boundaries that OpenTelemetry advises for gen_ai.client.operation.duration, in seconds.
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_DEGRADED = frozenset({"model", "routing", "routing_by_rules", "specialist", "cached_answer", "help_centre_answer", "reflection"})
_MODEL = ("gen_ai_provider_name", "gen_ai_request_model", "role")


class Metrics:
    """The counters of one process, in a registry of their own; the composition root makes it.

    Every method is safe from any thread and never waits.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._runs = Counter("capataz_runs", "Runs that ended", ("graph", "status"), registry=registry)
        self._run_seconds = Histogram(
            "capataz_run_duration_seconds", "Execution time of runs", ("graph",), buckets=_SECONDS, registry=registry
        )
        self._active = Gauge("capataz_runs_active", "Runs being executed", ("graph",), registry=registry)
        self._escalations = Counter("capataz_escalations", "Conversations handed to a human", ("reason",), registry=registry)
        self._degraded = Counter("capataz_degraded", "Answers given in a lesser way", ("what",), registry=registry)
        self._cached = Counter("capataz_cached_answers", "Answers kept, and looked for after a failure", ("outcome",), registry=registry)
        self._model_seconds = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Time of model calls",
            (*_MODEL, "error_type"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter("gen_ai_client_token_usage", "Tokens of model calls", (*_MODEL, "gen_ai_token_type"), registry=registry)
        self._cost = Counter("capataz_model_cost_usd", "Money spent on model calls", _MODEL, registry=registry)
        self._events = Counter("capataz_resilience_events", "What the policies did", ("kind", "dependency"), registry=registry)
        self._transitions = Counter(
            "capataz_breaker_transitions", "Changes of a breaker's state", ("dependency", "state", "by"), registry=registry
        )
        self._breakers = Gauge("capataz_breaker_state", "The state that a breaker is in", ("dependency", "state"), registry=registry)
        self._limits = Counter("capataz_rate_limits", "What was asked of rate limits", ("limit", "outcome", "buckets"), registry=registry)
        self._bulkhead_limits = Gauge("capataz_bulkhead_limit", "Calls at once that a dependency gets", ("dependency",), registry=registry)
        self._under_way = Gauge("capataz_bulkhead_active", "Calls under way", ("dependency",), registry=registry)
        self._waiting = Gauge("capataz_bulkhead_waiting", "Calls that wait for a place", ("dependency",), registry=registry)
        self._waits = Histogram(
            "capataz_bulkhead_wait_seconds", "How long calls waited that had to", ("dependency",), buckets=_SECONDS, registry=registry
        )
        self._refused = Counter("capataz_runs_refused", "Runs that were not taken", ("reason", "priority"), registry=registry)
        self._bulkheads: Callable[[], Iterable[Bulkhead]] = tuple
        self._webhooks = Counter("capataz_webhooks", "Attempts to tell of a run's end", ("kind",), registry=registry)
        self._feedback = Counter("capataz_feedback", "What people said of answers", ("verdict",), registry=registry)
        self._redis = Counter(
            "capataz_redis_errors", "Requests refused because Redis failed", ("operation", "error_type"), registry=registry
        )
        self._dropped = Counter("capataz_traces_dropped", "Spans that were lost, and runs that were not traced", registry=registry)

    @contextmanager
    def running(self, graph: str) -> Iterator[None]:
        """Count a run as active while the block lasts."""
        gauge = self._active.labels(graph)
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def run_ended(self, graph: str, status: str, seconds: float) -> None:
        """A run left this process with `status` after `seconds` of execution."""
        self._runs.labels(graph, status).inc()
        self._run_seconds.labels(graph).observe(seconds)

    def escalated(self, reason: str) -> None:
        """A conversation went to a human; `reason` is the escalation's stable code."""
        self._escalations.labels(reason).inc()

    def degraded(self, what: str) -> None:
        """An answer was given in a lesser way; `what` is the word of the degradation.

        The state that it comes from can be written by callers, so only known words become labels, and no names.
        """
        word = what.partition(":")[0]
        self._degraded.labels(word if word in _DEGRADED else "other").inc()

    def cached_answer(self, outcome: str) -> None:
        """An answer was `kept` or `dropped`, or one that was looked for was `found`, `missing` or `unavailable`."""
        self._cached.labels(outcome).inc()

    def model_called(self, *, provider: str, model: str, role: str, seconds: float, usage: Usage | None = None, error: str = "") -> None:
        """A model call ended: with `usage`, or with `error`, the error's stable code."""
        self._model_seconds.labels(provider, model, role, error).observe(seconds)
        if usage is None:
            return
        self._tokens.labels(provider, model, role, "input").inc(usage.input_tokens)
        self._tokens.labels(provider, model, role, "output").inc(usage.output_tokens)
        self._cost.labels(provider, model, role).inc(usage.cost_usd)

    def on_event(self, event: ResilienceEvent) -> None:
        """A policy did something; this is a `resilience.events.Listener`."""
        self._events.labels(event.kind, event.dependency).inc()
        if event.kind is EventKind.BREAKER_TRANSITION:
            new = event.fields["new"]
            self._transitions.labels(event.dependency, new, event.fields["by"]).inc()
            for state in BreakerState:
                self._breakers.labels(event.dependency, state).set(state == new)
        elif event.kind is EventKind.WAITED:
            self._waits.labels(event.dependency).observe(event.fields["seconds"])

    def watch(self, bulkheads: Callable[[], Iterable[Bulkhead]]) -> None:
        """Show these whenever somebody looks."""
        self._bulkheads = bulkheads

    def run_refused(self, reason: str, priority: str) -> None:
        """A run was not taken."""
        self._refused.labels(reason, priority).inc()

    def rate_limit(self, limit: str, outcome: str, *, is_local: bool) -> None:
        """`limit` was asked: `allowed`, `waited` or `refused`; by this process's own buckets if `is_local`."""
        self._limits.labels(limit, outcome, "local" if is_local else "shared").inc()

    def webhook(self, kind: str) -> None:
        """An attempt at a webhook ended as `delivered`, `failed` or `dead`."""
        self._webhooks.labels(kind).inc()

    def feedback(self, score: float) -> None:
        """Somebody gave an answer this score, between 0 and 1, or another one than before."""
        self._feedback.labels("good" if score > 0.5 else "bad" if score < 0.5 else "mixed").inc()

    def redis_failed(self, operation: str, error: BaseException) -> None:
        """A request to the route `operation` was refused because Redis failed."""
        self._redis.labels(operation, type(error).__name__).inc()

    def trace_dropped(self, spans: int = 1) -> None:
        """Spans were lost on the way to the tracing backend."""
        self._dropped.inc(spans)

    @contextmanager
    def serving(self, host: str, port: int) -> Iterator[None]:
        """Serve the page of `GET /metrics` from a thread of its own while the block lasts.

        Raises:
            OSError: Nobody can listen there.
        """
        server, thread = start_http_server(port, host, registry=self._registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def render(self) -> bytes:
        """The page of `GET /metrics`; its media type is `CONTENT_TYPE`."""
        for bulkhead in self._bulkheads():
            self._bulkhead_limits.labels(bulkhead.dependency).set(bulkhead.limit)
            self._under_way.labels(bulkhead.dependency).set(bulkhead.active)
            self._waiting.labels(bulkhead.dependency).set(bulkhead.waiting)
        return generate_latest(self._registry)
