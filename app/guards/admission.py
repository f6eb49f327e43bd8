"""Whether a run is taken: decided before anything of it is written, from what is known of this process.

A run that is refused costs a millisecond and is told when to come back; one that is taken keeps its place whatever comes later.
Refused is what could not end by its deadline, and what would have to wait for a noticeable part of the time that it takes: a longer
queue makes nobody's answer come sooner, and everybody's later (ADR-0020).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import median
from typing import Protocol

from app.errors import Overloaded
from app.telemetry.metrics import Metrics
from resilience.bulkhead import Bulkhead
from resilience.context import Priority, Standing

MOST_RUNS = 1_000
"""Runs that one process executes, or that wait for a worker, above which no run is taken."""
MOST_BATCHES = 10_000
"""Batch runs that wait for a process to execute them, above which no batch run is taken. An hour, their deadline, has room for these
at three runs a second."""
REMEMBERED = 100
"""Runs of a graph that its typical time is the median of."""
LEAST_PATIENCE = 0.05
"""Seconds of waiting that are always allowed, however short runs are; nobody notices them."""

FIRST_OF_A_TENANT = 4.0
"""How much longer a run may wait of whose tenant and priority none waits yet: the queues of others must not keep it out."""
INTERACTIVE = 3.0
"""The same for interactive runs, which go before all others: better a little later than not at all."""


@dataclass(frozen=True, slots=True)
class Asks:
    """A run that asks to be taken.

    Args:
        run_id: The run.
        tenant: Whose it is.
        graph_id: What it executes.
        priority: How urgent it is.
        seconds: How long it may take.
        is_delayed: Whether it begins later.
    """

    run_id: str
    tenant: str
    graph_id: str
    priority: Priority
    seconds: float
    is_delayed: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What the process has to do.

    Args:
        executes: Whether it executes runs itself.
        executing: How many.
        announced: Runs that wait for any process, as last counted, without batch runs.
        batches: Batch runs that wait for any process, as last counted.
    """

    executes: bool
    executing: int = 0
    announced: int = 0
    batches: int = 0


class Stages(Protocol):
    """The bulkheads that no run of a graph can go around, in the order in which it meets them; none: it meets none for sure."""

    def __call__(self, graph_id: str) -> Sequence[Bulkhead]:
        """Those of one graph, now."""
        ...


class Admission:
    """Takes runs or refuses them. For one event loop.

    Args:
        stages: What a run has to pass.
        metrics: Counts what is refused.
        queue_share: Longest wait, as a share of a typical run's time.
        is_on: Else everything is taken.
        rng: Spreads the times at which those who were refused come back.
    """

    def __init__(
        self, stages: Stages, metrics: Metrics, *, queue_share: float = 0.1, is_on: bool = True, rng: Random | None = None
    ) -> None:
        self._stages = stages
        self._metrics = metrics
        self._queue_share = queue_share
        self._is_on = is_on
        self._rng = rng or Random()
        self._times: dict[str, deque[float]] = {}
        self._typical: dict[str, float] = {}
        self._first_stages: dict[str, Bulkhead] = {}

    def admit(self, run: Asks, load: Load) -> None:
        """Take the run.

        Raises:
            Overloaded: It is refused.
        """
        if not self._is_on:
            return
        is_batch = run.priority is Priority.BATCH
        if is_batch and load.batches >= MOST_BATCHES:
            self._refuse(run, "backlog", "too many batch runs wait", 60.0)
        if not is_batch and (load.executing if load.executes else load.announced) >= MOST_RUNS:
            self._refuse(run, "capacity", "as many runs as this service can have are under way", 1.0)
        if load.executes and not run.is_delayed:
            self._check_queues(run)

    def forget(self, run_id: str) -> None:
        """The run will not ask any model any more, or never was accepted."""
        for stage in self._first_stages.values():
            stage.expect_no_longer(run_id)

    def ran(self, run_id: str, graph_id: str, seconds: float | None) -> None:
        """A run is over here; `seconds` is how long it was executed, None if it was no success and says nothing of others."""
        self.forget(run_id)
        if seconds is not None:
            times = self._times.setdefault(graph_id, deque(maxlen=REMEMBERED))
            times.append(seconds)
            self._typical[graph_id] = median(times)

    def _check_queues(self, run: Asks) -> None:
        stages = self._stages(run.graph_id)
        if not stages:
            return
        standing = Standing(run.tenant, run.priority, request=run.run_id)
        wait = stages[0].predicted_wait(standing)
        before = 0
        for earlier, stage in pairwise(stages):
            # Everybody who is at an earlier stage will be here before this run.
            before += earlier.active + earlier.waiting + earlier.expected
            wait += stage.predicted_wait(Standing(run.tenant, run.priority, is_under_way=True), more=before)
        typical = self._typical.get(run.graph_id, 0.0)
        if wait > 0.0 and wait + typical > run.seconds:
            self._refuse(run, "deadline", f"it would take about {wait + typical:.3g} s and has {run.seconds:.3g} s", wait)
        patience = max(LEAST_PATIENCE, typical * self._queue_share)
        if stages[0].is_next_of_its_tenant(standing):
            patience *= FIRST_OF_A_TENANT
        elif run.priority is Priority.INTERACTIVE:
            patience *= INTERACTIVE
        if run.priority is not Priority.BATCH and wait > patience:
            self._refuse(run, "queue", f"it would have to wait about {wait:.3g} s before it begins", wait)
        self._first_stages[stages[0].dependency] = stages[0]
        stages[0].expect(standing)

    def _refuse(self, run: Asks, reason: str, why: str, retry_after: float) -> None:
        self._metrics.run_refused(reason, run.priority.name.lower())
        raise Overloaded(f"the service is overloaded: {why}; try again later", max(1.0, retry_after) * self._rng.uniform(1.0, 2.0))
