"""What the runs of one thread should do, without Redis: the other half of a property test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class ModelRun:
    """One run, as its record and its log should be."""

    status: str = "pending"
    has_webhook: bool = False
    has_begun: bool = False
    attempt: int = 0
    crashes: int = 0
    ended_by: str = ""
    is_recorded: bool = True
    log: list[tuple[int, str]] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.status in ("pending", "running")


@dataclass
class Model:
    """A thread and its runs; a holder is the number of a claim, and every method says what the real thing should answer."""

    exists: bool = False
    rest: str = "idle"
    runs: dict[str, ModelRun] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    queue: list[str] = field(default_factory=list)
    purge: list[str] = field(default_factory=list)
    outbox: list[str] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)
    holder: int | None = None
    is_gone: bool = False
    sequence: int = 0

    @property
    def status(self) -> str:
        return "busy" if self.queue else self.rest

    def accept(self, run: str, strategy: str, claims: str, answers: Sequence[str], creates: bool, has_webhook: bool) -> tuple[str, ...]:
        """`missing`, `busy`, `answered`, or `accepted`, whether it is claimed, and the runs cancelled for it."""
        if not self.exists and not creates:
            return ("missing",)
        if self.queue and strategy == "reject":
            return ("busy", self.queue[0])
        waiting = {question.partition("/")[2] for question, by in self.answered.items() if self._is_waiting(by)}
        if set(answers) & set(self.answered) or waiting & {question.partition("/")[2] for question in answers}:
            return ("answered",)
        if answers:
            state = answers[0].partition("/")[0]
            known = {q: by for q, by in self.answered.items() if q.startswith(f"{state}/") or self._is_waiting(by)}
            self.answered = known | dict.fromkeys(answers, run)
        self.exists = True
        cancelled = list(self.queue) if strategy in ("interrupt", "rollback") else []
        for other in cancelled:
            self.cancel(other, strategy, "superseded")
        self.runs[run] = ModelRun(has_webhook=has_webhook)
        self.order.append(run)
        is_claimed = False
        if claims != "later":
            self.queue.append(run)
            is_claimed = claims == "now" and self.queue == [run] and self.holder is None and not self.purge
            if is_claimed:
                self.claim(run)
        return ("accepted", str(is_claimed), *cancelled)

    def claim(self, run: str) -> tuple[str, ...]:
        """`claimed`, or why not."""
        if self.queue[:1] != [run]:
            return ("not_next",)
        if self.holder is not None:
            return ("leased",)
        if self.purge:
            return ("purge", *self.purge)
        record = self.runs[run]
        record.crashes += record.status == "running"
        record.status, record.has_begun, record.attempt = "running", True, record.attempt + 1
        self.holder, self.is_gone = len(self.claims), False
        self.claims.append(run)
        return ("claimed",)

    def may_write(self, claim: int) -> bool:
        return self.holder == claim and not self.is_gone

    def append(self, run: str, names: Sequence[str]) -> None:
        for name in names:
            self.sequence += 1
            self.runs[run].log.append((self.sequence, name))

    def finish(self, run: str, status: str, thread_status: str, name: str) -> None:
        self._close(run, status, name)
        if status != "success":
            self._forget_answer(run)
        self.holder, self.rest = None, thread_status

    def hand_back(self, run: str) -> None:
        self.runs[run].status, self.holder = "pending", None

    def lose_lease(self) -> None:
        self.holder = None

    def release(self, claim: int) -> None:
        if self.holder == claim and self.is_gone:
            self.holder = None

    def cancel(self, run: str, action: str, ended_by: str) -> str | None:
        """What it was, `ended`, or None if there is no record of it."""
        record = self.runs[run]
        if not record.is_recorded:
            return None
        was = record.status
        if not record.is_open:
            return "ended"
        self._close(run, "interrupted", "end", ended_by)
        self._forget_answer(run)
        self.is_gone = self.is_gone or was == "running"
        if action == "rollback":
            self.purge.append(run)
            record.is_recorded = False
            self.order.remove(run)
        elif record.has_begun:
            self.rest = "idle"
        return was

    def enqueue(self, run: str) -> bool:
        record = self.runs[run]
        if not record.is_recorded or record.status != "pending":
            return False
        if run not in self.queue:
            self.queue.append(run)
        return True

    def delete(self, run: str) -> bool | None:
        record = self.runs[run]
        if not record.is_recorded:
            return None
        if record.is_open:
            return False
        record.is_recorded = False
        record.log.clear()
        self.order.remove(run)
        return True

    def forget(self) -> bool:
        return not self.queue and self.holder is None and not any(self.runs[run].is_open for run in self.order)

    def _close(self, run: str, status: str, name: str, ended_by: str = "") -> None:
        record = self.runs[run]
        record.status, record.ended_by = status, ended_by
        self.append(run, [name])
        self.sequence += 1  # for the word that the run is done, in the stream of the thread
        if run in self.queue:
            self.queue.remove(run)
        if record.has_webhook:
            self.outbox.append(run)

    def events(self, after: int) -> list[tuple[str, int, str]]:
        """Run, id and name of every event of the thread after one, in order."""
        every = [(at, run, name) for run, record in self.runs.items() for at, name in record.log if at > after]
        return [(run, at, name) for at, run, name in sorted(every)]

    def _is_waiting(self, run: str) -> bool:
        return run in self.runs and self.runs[run].is_open

    def _forget_answer(self, run: str) -> None:
        self.answered = {question: by for question, by in self.answered.items() if by != run}
