"""Feedback: what people said of a run's answer; kept with the run, counted, and told to the tracing backend as a score."""

from __future__ import annotations

from datetime import UTC, datetime

from agents.tracing import Tracer
from app.errors import AlreadyExists, NotFound
from app.storage.redis.feedback import MAX_KEYS, FeedbackRecord, FeedbackRepository, RunMissing, TooManyKeys
from app.telemetry.metrics import Metrics


class FeedbackService:
    """Takes feedback and gives it back.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        feedback: Where it is kept.
        tracer: Told of every score that is new or has changed; never waited for.
        metrics: Counts the same.
    """

    def __init__(self, feedback: FeedbackRepository, tracer: Tracer, metrics: Metrics) -> None:
        self._feedback = feedback
        self._tracer = tracer
        self._metrics = metrics

    async def put(self, tenant: str, thread_id: str, run_id: str, *, key: str, score: float, comment: str) -> FeedbackRecord:
        """Keep what somebody says of the run under `key`, in place of what was said there before.

        The same again changes nothing but its time, and is not counted.

        Raises:
            NotFound: The thread has no such run.
            AlreadyExists: The run has feedback under `MAX_KEYS` other keys.
        """
        now = datetime.now(UTC)
        try:
            kept, before = await self._feedback.put(tenant, thread_id, run_id, FeedbackRecord(key, score, comment, now, now))
        except RunMissing:
            raise _no_run(thread_id, run_id) from None
        except TooManyKeys:
            raise AlreadyExists(f"run {run_id} has feedback under {MAX_KEYS} keys, which is the most", "too_many_feedback_keys") from None
        if before is None or before.score != score:
            self._metrics.feedback(score)
        if before is None or (before.score, before.comment) != (score, comment):
            self._tracer.score(run_id, key, score, comment)
        return kept

    async def of_run(self, tenant: str, thread_id: str, run_id: str) -> list[FeedbackRecord]:
        """What was said of the run, by key.

        Raises:
            NotFound: The thread has no such run.
        """
        try:
            return await self._feedback.of_run(tenant, thread_id, run_id)
        except RunMissing:
            raise _no_run(thread_id, run_id) from None


def _no_run(thread_id: str, run_id: str) -> NotFound:
    return NotFound(f"thread {thread_id} has no run {run_id}", "run_not_found")
