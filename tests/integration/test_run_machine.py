"""The runs of a thread, driven at random through every operation on a real Redis, beside a model that says what must be.

`SEED=…` repeats a run of this test, `CHAOS=full` makes it long.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from langgraph.checkpoint.base import empty_checkpoint
from redis.asyncio import Redis

from app.runs.model import NEXT, TERMINAL_EVENTS
from app.storage.errors import LeaseLost
from app.storage.redis.checkpoints import Fence, RedisSaver
from app.storage.redis.connection import connect
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.run_scripts import RENEW
from app.storage.redis.runs import (
    AlreadyAccepted,
    AlreadyAnswered,
    Claim,
    RunRecord,
    RunRepository,
    ThreadMissing,
    ThreadOccupied,
)
from app.storage.redis.threads import ThreadRepository, new_thread
from tests.support.run_model import Model

TENANT, THREAD = "acme", "t"
KEYS = ThreadKeys(TENANT, THREAD)
EXAMPLES = 1_000 if os.environ.get("CHAOS") == "full" else 100
PICK = st.integers(0, 30)
STRATEGIES = st.sampled_from(["enqueue", "reject", "interrupt", "rollback"])
ACTIONS = st.sampled_from(["interrupt", "rollback"])
ANSWERS = st.sampled_from([(), (), ("s1/a",), ("s1/b",), ("s1/a", "s1/b"), ("s2/a",)])
ENDS = st.sampled_from(
    [("success", "idle", "end"), ("success", "interrupted", "end"), ("error", "error", "error"), ("timeout", "error", "error")]
)


class Runs(RuleBasedStateMachine):
    """One thread; whoever has claimed a run may come back at any time later and try to write."""

    runner: ClassVar[asyncio.Runner]
    client: ClassVar[Redis]

    def __init__(self) -> None:
        super().__init__()
        self.do(self.client.flushall())
        self.runs = RunRepository(self.client, lease=600.0)
        self.threads = ThreadRepository(self.client)
        self.renew = self.client.register_script(RENEW)
        self.model = Model()
        self.claims: list[tuple[RunRecord, Fence]] = []
        self.statuses: dict[str, str] = {}
        self.before: dict[bytes, bytes] = {}

    def do(self, work: Any) -> Any:
        return self.runner.run(work)

    def refused(self) -> None:
        """What was refused has changed nothing."""
        assert self.do(self.dump()) == self.before

    async def dump(self) -> dict[bytes, bytes]:
        keys = sorted(await self.client.keys("acme:{t}:*"))
        async with self.client.pipeline(transaction=True) as pipe:
            for key in keys:
                pipe.dump(key)
            return dict(zip(keys, await pipe.execute(), strict=True))

    def run_at(self, pick: int) -> str:
        known = list(self.model.runs)
        return known[-1 - pick % len(known)]

    def claim_at(self, pick: int) -> tuple[int, RunRecord, Fence]:
        number = len(self.claims) - 1 - pick % len(self.claims)
        return number, *self.claims[number]

    # --- what callers and the reaper do ---

    @initialize(exists=st.booleans())
    def begin(self, exists: bool) -> None:
        if exists:
            self.model.exists = True
            assert self.do(self.threads.create(TENANT, new_thread(THREAD, {})))

    @rule(
        strategy=STRATEGIES, claims=st.sampled_from(["now", "queued", "later"]), answers=ANSWERS, creates=st.booleans(), posts=st.booleans()
    )
    def accept(self, strategy: str, claims: str, answers: tuple[str, ...], creates: bool, posts: bool) -> None:
        run = record(f"r{len(self.model.runs)}", strategy, webhook="https://a.example" if posts else "")
        expected = self.model.accept(run.run_id, strategy, claims, answers, creates, posts)
        thread = new_thread(THREAD, {}) if creates else None
        refusals = {"missing": ThreadMissing, "busy": ThreadOccupied, "answered": AlreadyAnswered}
        work = self.runs.accept(TENANT, run, create=thread, claims=claims, answers=" ".join(answers))  # type: ignore[arg-type]
        if expected[0] in refusals:
            with pytest.raises(refusals[expected[0]]) as refusal:
                self.do(work)
            assert refusal.value.args[0] in (THREAD, *expected[1:], run.run_id)
            self.refused()
            return
        accepted = self.do(work)
        assert ("accepted", str(accepted.fence is not None), *accepted.cancelled) == expected
        if accepted.fence is not None:
            self.claims.append((run, accepted.fence))

    @precondition(lambda self: self.model.order)
    @rule(pick=PICK, strategy=STRATEGIES)
    def accept_again(self, pick: int, strategy: str) -> None:
        run = self.model.order[-1 - pick % len(self.model.order)]
        with pytest.raises(AlreadyAccepted):
            self.do(self.runs.accept(TENANT, record(run, strategy), create=new_thread(THREAD, {}), claims="now"))
        self.refused()

    @precondition(lambda self: self.model.runs)
    @rule(pick=PICK, action=ACTIONS)
    def cancel(self, pick: int, action: Any) -> None:
        run = self.run_at(pick)
        expected = self.model.cancel(run, action, "user")
        assert self.do(self.runs.cancel(TENANT, THREAD, run, action)) == expected
        if expected in ("ended", None):
            self.refused()

    @precondition(lambda self: self.model.runs)
    @rule(pick=PICK)
    def begin_what_was_delayed(self, pick: int) -> None:
        run = self.run_at(pick)
        assert self.do(self.runs.enqueue(TENANT, THREAD, run)) == self.model.enqueue(run)

    @precondition(lambda self: self.model.runs)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        run = self.run_at(pick)
        assert self.do(self.runs.delete(TENANT, THREAD, run)) is self.model.delete(run)

    @rule()
    def forget(self) -> None:
        assert self.do(self.runs.forget(TENANT, THREAD, 3600.0)) is self.model.forget()

    @precondition(lambda self: self.model.purge)
    @rule()
    def purge(self) -> None:
        self.do(self.runs.purged(TENANT, THREAD, list(self.model.purge)))
        self.model.purge.clear()

    @precondition(lambda self: self.model.outbox)
    @rule()
    def post(self) -> None:
        self.do(self.runs.posted(TENANT, THREAD, [self.model.outbox.pop(0)]))

    # --- what executors do ---

    @precondition(lambda self: self.model.queue)
    @rule()
    def claim_next(self) -> None:
        self._claim(self.model.queue[0])

    @precondition(lambda self: self.model.runs)
    @rule(pick=PICK)
    def claim_any(self, pick: int) -> None:
        self._claim(self.run_at(pick))

    def _claim(self, run: str) -> None:
        expected = self.model.claim(run)
        claim = self.do(self.runs.claim(TENANT, THREAD, run))
        if isinstance(claim, Claim):
            assert expected == ("claimed",)
            assert (claim.run.status, claim.run.attempt) == ("running", self.model.runs[run].attempt)
            self.claims.append((claim.run, claim.fence))
        else:
            assert claim == expected
            self.refused()

    @precondition(lambda self: self.model.holder is not None)
    @rule()
    def lose_lease(self) -> None:
        self.do(self.client.delete(KEYS.lease()))
        self.model.lose_lease()

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, names=st.lists(st.sampled_from(["values", "messages"]), min_size=1, max_size=3))
    def append(self, pick: int, names: list[str]) -> None:
        claim, run, fence = self.claim_at(pick)
        if self._writes(claim, self.runs.append(TENANT, run, fence, [(name, b"{}") for name in names])):
            self.model.append(run.run_id, names)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, end=ENDS)
    def finish(self, pick: int, end: tuple[Any, str, str]) -> None:
        claim, run, fence = self.claim_at(pick)
        status, thread_status, name = end
        work = self.runs.finish(TENANT, run, fence, status=status, thread_status=thread_status, event=(name, b"{}"))
        answer = self._writes(claim, work)
        if answer:
            self.model.finish(run.run_id, *end)
            event, is_left = answer
            assert event.id == self.model.sequence - 1
            assert is_left == bool(self.model.queue or self.model.outbox)

    @rule(after=st.integers(0, 40), count=st.integers(1, 4))
    def follow(self, after: int, count: int) -> None:
        """Whoever reads the thread from any event on, some events at a time, gets all that came after it, once and in order."""
        came: list[tuple[str, int, str]] = []
        seen = after
        while read := self.do(self.runs.thread_events(TENANT, THREAD, after=seen, count=count)):
            if not read[0]:
                break
            came += [(found.run_id, found.event.id, found.event.name) for found in read[0]]
            seen = came[-1][1]
        assert came == (self.model.events(after) if self.model.exists else [])

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def hand_back(self, pick: int) -> None:
        claim, run, fence = self.claim_at(pick)
        may_write = self.model.may_write(claim)
        self._writes(claim, self.runs.hand_back(TENANT, run, fence))
        if may_write:
            self.model.hand_back(run.run_id)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        claim, _, fence = self.claim_at(pick)
        self.model.release(claim)
        self.do(self.runs.release(TENANT, THREAD, fence))

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def keep(self, pick: int) -> None:
        claim, _, fence = self.claim_at(pick)
        assert bool(self.do(self.renew(keys=[fence.key], args=[fence.token, 600_000]))) is self.model.may_write(claim)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def write_checkpoint(self, pick: int) -> None:
        claim, run, fence = self.claim_at(pick)
        saver = RedisSaver(self.client, ttl=600.0).bind(tenant=TENANT, fence=fence)
        config: Any = {"configurable": {"thread_id": THREAD, "checkpoint_ns": "", "checkpoint_id": "c"}}
        checkpoint = {**empty_checkpoint(), "channel_values": {"a": 1}, "channel_versions": {"a": "1"}}
        self._writes(claim, saver.aput(config, checkpoint, {"run_id": run.run_id}, {"a": "1"}))  # type: ignore[arg-type]
        self._writes(claim, saver.aput_writes(config, [("a", 2)], "task"))

    def _writes(self, claim: int, work: Any) -> Any:
        """The answer if the claim holds; else it is refused as a whole."""
        if self.model.may_write(claim):
            return self.do(work)
        with pytest.raises(LeaseLost):
            self.do(work)
        self.refused()
        return None

    # --- what always holds ---

    @invariant()
    def the_records_are_those_of_the_model(self) -> None:
        for run_id, wanted in self.model.runs.items():
            found = self.do(self.runs.get(TENANT, THREAD, run_id))
            assert (found is not None) == wanted.is_recorded, f"{run_id} vanished or came back"
            if found is None:
                continue
            old = self.statuses.get(run_id, "pending")
            assert found.status == old or found.status in NEXT[old]  # type: ignore[index]
            self.statuses[run_id] = found.status
            assert (found.status, found.attempt, found.crashes, found.ended_by, found.first_event) == (
                wanted.status, wanted.attempt, wanted.crashes, wanted.ended_by, wanted.log[0][0] if wanted.log else 0
            )  # fmt: skip
        assert self.do(self.runs.ids(TENANT, THREAD)) == self.model.order[::-1]

    @invariant()
    def an_ended_run_has_one_terminal_event_and_it_is_the_last(self) -> None:
        ids = []
        for run_id, wanted in self.model.runs.items():
            log = self.do(self.runs.events(TENANT, THREAD, run_id, after=0))
            assert [(event.id, event.name) for event in log] == wanted.log
            ids += [event.id for event in log]
            terminal = [event.name in TERMINAL_EVENTS for event in log]
            assert terminal.count(True) == (0 if wanted.is_open or not log else 1)
            assert not any(terminal[:-1])
        assert len(ids) == len(set(ids))

    @invariant()
    def the_queue_and_the_lease_are_those_of_the_model(self) -> None:
        lease = self.do(self.client.get(KEYS.lease()))
        holders = [fence.token for _, fence in self.claims]
        assert len(holders) == len(set(holders)), "a token came twice"
        holder = self.model.holder
        wanted = None if holder is None else ("gone:" if self.model.is_gone else "") + holders[holder]
        assert (lease and lease.decode()) == wanted
        state = self.do(self.runs.inspect(TENANT, THREAD))
        assert self.do(self.runs.open_ids(TENANT, THREAD)) == self.model.queue
        assert state.head == next(iter(self.model.queue), None)
        assert (state.to_purge, state.to_post) == (tuple(self.model.purge), tuple(self.model.outbox))
        assert (state.lease > 0, state.is_leaving) == (holder is not None, holder is not None and self.model.is_gone)

    @invariant()
    def the_thread_is_busy_while_runs_wait_and_all_of_it_expires(self) -> None:
        thread = self.do(self.threads.get(TENANT, THREAD))
        assert (thread.status if thread else None) == (self.model.status if self.model.exists else None)
        self.before = self.do(self.dump())
        ttls = self.do(self._ttls())
        assert [key for key, ttl in ttls.items() if ttl <= 0] == []

    async def _ttls(self) -> dict[bytes, int]:
        async with self.client.pipeline(transaction=True) as pipe:
            for key in self.before:
                pipe.pttl(key)
            return dict(zip(self.before, await pipe.execute(), strict=True))


def record(run_id: str, strategy: str, *, webhook: str = "") -> RunRecord:
    now = datetime.now(UTC)
    run = RunRecord(run_id, THREAD, "assistant", "graph", "pending", now, now, deadline_at=now + timedelta(hours=1))
    return replace(run, multitask_strategy=strategy, log_ttl=3600.0, webhook=webhook)


def test_whatever_is_done_in_whatever_order_no_run_is_lost_or_ends_twice(shared_redis):
    """Statuses, logs, queue and lease are at every moment those of the model, and what a lost lease tries leaves no trace."""
    with asyncio.Runner() as runner:
        client = connect(shared_redis.url)
        number = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))
        print(f"SEED={number}")  # noqa: T201  pytest shows it when the test fails
        machine = seed(number)(type("Machine", (Runs,), {"runner": runner, "client": client}))
        plan = settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(machine, settings=plan)
        finally:
            runner.run(client.aclose())
