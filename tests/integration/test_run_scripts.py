"""What the scripts of a thread's runs promise, one by one; `test_run_machine.py` has them in any order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.storage.errors import LeaseLost
from app.storage.redis.connection import connect
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.runs import (
    MAX_EVENTS,
    AlreadyAccepted,
    AlreadyAnswered,
    Claim,
    QuestionsChanged,
    RunRecord,
    RunRepository,
    ThreadOccupied,
)
from app.storage.redis.threads import THREAD_TTL, ThreadRepository, new_thread
from tests.support.waiting import until

TENANT, THREAD = "acme", "t"
END = ("end", b"{}")


def a_run(run_id, strategy="enqueue", thread_id=THREAD, **changes):
    now = datetime.now(UTC)
    run = RunRecord(run_id, thread_id, "assistant", "graph", "pending", now, now, deadline_at=now + timedelta(hours=1))
    return replace(run, multitask_strategy=strategy, **changes)


@pytest.fixture
def runs(redis_client):
    return RunRepository(redis_client, lease=10.0)


@pytest.fixture
def threads(redis_client):
    return ThreadRepository(redis_client)


async def accept(runs, run_id, strategy="enqueue", *, claims="now", answers="", seen="", forget_after=None, **changes):
    thread = new_thread(THREAD, {}, forget_after=forget_after)
    return await runs.accept(TENANT, a_run(run_id, strategy, **changes), create=thread, claims=claims, answers=answers, seen=seen)


async def finish(runs, run_id, fence, *, status="success", thread_status="idle"):
    return await runs.finish(TENANT, a_run(run_id), fence, status=status, thread_status=thread_status, event=END)


async def names(runs, run_id):
    return [event.name for event in await runs.events(TENANT, THREAD, run_id, after=0)]


@pytest.mark.parametrize("form", ["?protocol=2", "?protocol=3", "?protocol=3&legacy_responses=False"])
async def test_a_run_goes_from_acceptance_to_its_end(shared_redis, redis_client, form):
    """Both versions of Redis's protocol give the same run, log and thread."""
    client = connect(shared_redis.url + form)
    runs = RunRepository(client, lease=10.0)
    try:
        await accept(runs, "a", claims="queued", metadata={"k": "ñ"}, webhook="https://a.example")
        claim = await runs.claim(TENANT, THREAD, "a")
        assert isinstance(claim, Claim)
        events = await runs.append(TENANT, claim.run, claim.fence, [("values", b"1"), ("values", b"2")])
        last, is_left = await finish(runs, "a", claim.fence)

        run = await runs.get(TENANT, THREAD, "a")
        assert run == replace(
            a_run("a", metadata={"k": "ñ"}, webhook="https://a.example"), status="success", attempt=1, first_event=1,
            created_at=run.created_at, updated_at=run.updated_at, deadline_at=run.deadline_at, started_at=run.started_at,
        )  # fmt: skip
        assert [event.id for event in [*events, last]] == [1, 2, 3]
        assert await runs.events(TENANT, THREAD, "a", after=1) == [events[1], last]
        state = await runs.inspect(TENANT, THREAD)
        assert (state.head, state.lease, state.to_post, is_left) == (None, 0.0, ("a",), True)
    finally:
        await client.aclose()


async def test_twenty_submits_at_once_of_one_run_make_one(runs):
    """An id is accepted once, however many ask; the others learn that it was."""
    answers = await asyncio.gather(*(accept(runs, "a") for _ in range(20)), return_exceptions=True)

    assert sum(isinstance(answer, AlreadyAccepted) for answer in answers) == 19
    assert await runs.ids(TENANT, THREAD) == ["a"]


async def test_reject_lets_one_of_twenty_in(runs):
    """The others are told which run is in their way."""
    answers = await asyncio.gather(*(accept(runs, f"r{n}", "reject") for n in range(20)), return_exceptions=True)

    (winner,) = await runs.ids(TENANT, THREAD)
    refusals = [answer for answer in answers if isinstance(answer, ThreadOccupied)]
    assert [refusal.args for refusal in refusals] == [(winner,)] * 19


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_the_last_of_twenty_replaces_all_others(runs, strategy):
    """One run is left; the others have ended, or are gone, and each log ends with one `end`."""
    await asyncio.gather(*(accept(runs, f"r{n}", strategy) for n in range(20)))

    (left,) = await runs.open_ids(TENANT, THREAD)
    others = [f"r{n}" for n in range(20) if f"r{n}" != left]
    found = [await runs.get(TENANT, THREAD, other) for other in others]
    assert [run and (run.status, run.ended_by) for run in found] == [
        None if strategy == "rollback" else ("interrupted", "superseded") for _ in others
    ]
    assert [await names(runs, other) for other in others] == [["end"]] * 19


async def test_enqueue_keeps_the_order(runs):
    """Twenty runs wait in the order in which they were accepted, and none but the first can be claimed."""
    for n in range(20):
        await accept(runs, f"r{n}", claims="queued")

    assert await runs.open_ids(TENANT, THREAD) == [f"r{n}" for n in range(20)]
    assert await runs.claim(TENANT, THREAD, "r1") == ("not_next",)


async def test_of_two_claims_at_once_one_holds(runs):
    """The lease has one owner."""
    await accept(runs, "a", claims="queued")

    answers = await asyncio.gather(*(runs.claim(TENANT, THREAD, "a") for _ in range(10)))

    assert sorted(map(str, (answer for answer in answers if not isinstance(answer, Claim)))) == ["('leased',)"] * 9


async def test_the_next_run_waits_until_the_cancelled_one_has_let_go(runs):
    """A process that still executes a run which was ended from outside keeps the thread until it says so."""
    first = await accept(runs, "a")
    await accept(runs, "b", "interrupt")

    assert await runs.claim(TENANT, THREAD, "b") == ("leased",)
    assert (await runs.inspect(TENANT, THREAD)).is_leaving
    await runs.release(TENANT, THREAD, first.fence)
    assert isinstance(await runs.claim(TENANT, THREAD, "b"), Claim)


async def test_a_process_that_never_lets_go_keeps_the_thread_for_one_lease(redis_client):
    """It may have died: the lease that was taken from it runs out by itself."""
    runs = RunRepository(redis_client, lease=0.3)
    await accept(runs, "a")
    await accept(runs, "b", "rollback")
    await runs.purged(TENANT, THREAD, ["a"])

    async def is_claimed():
        return isinstance(await runs.claim(TENANT, THREAD, "b"), Claim)

    await until(is_claimed, 3 * 0.3)


async def test_a_rolled_back_run_is_swept_before_the_next_one_begins(runs):
    """What it wrote is still there, so nobody may continue from it."""
    first = await accept(runs, "a")
    await accept(runs, "b", "rollback")
    await runs.release(TENANT, THREAD, first.fence)

    assert await runs.claim(TENANT, THREAD, "b") == ("purge", "a")
    await runs.purged(TENANT, THREAD, ["a"])
    assert isinstance(await runs.claim(TENANT, THREAD, "b"), Claim)


async def test_a_run_is_not_claimed_at_acceptance_before_the_sweep(runs):
    """The accepting process would execute it at once, but there is something to be swept first."""
    first = await accept(runs, "a")
    await runs.cancel(TENANT, THREAD, "a", "rollback")
    await runs.release(TENANT, THREAD, first.fence)

    assert (await accept(runs, "b")).fence is None
    assert await runs.claim(TENANT, THREAD, "b") == ("purge", "a")


async def test_a_run_that_was_handed_back_is_no_crash_and_one_whose_lease_ended_is(runs, redis_client):
    """Attempts count all claims, crashes only those after which nobody let go."""
    accepted = await accept(runs, "a")
    await runs.hand_back(TENANT, a_run("a"), accepted.fence)
    second = await runs.claim(TENANT, THREAD, "a")
    await redis_client.delete(ThreadKeys(TENANT, THREAD).lease())
    third = await runs.claim(TENANT, THREAD, "a")

    assert [(claim.run.attempt, claim.run.crashes) for claim in (second, third)] == [(2, 0), (3, 1)]


async def test_a_token_is_never_given_twice(runs, redis_client):
    """Even after all of a thread is gone and it was made again, who held its lease before holds it no more."""
    old = await accept(runs, "a")
    await redis_client.flushall()
    new = await accept(runs, "b")

    assert new.fence != old.fence
    with pytest.raises(LeaseLost):
        await runs.append(TENANT, a_run("a"), old.fence, [("values", b"1")])


async def test_a_question_is_answered_by_one_run(runs):
    """Of twenty answers at once one is accepted; another question of the same state can still be answered, once."""
    answers = await asyncio.gather(*(accept(runs, f"r{n}", answers="s/a") for n in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, AlreadyAnswered) for answer in answers) == 19

    await accept(runs, "b", answers="s/b")
    for questions in ("s/a", "s/b", "s/a s/b", "s/c s/b"):
        with pytest.raises(AlreadyAnswered):
            await accept(runs, "c", answers=questions)
    await accept(runs, "c", answers="s/c")


async def test_a_question_whose_answer_still_waits_is_not_asked_by_the_next_state_either(runs):
    """Another answer has moved the thread on; the same question is taken until its run has ended, and again after that."""
    first = await accept(runs, "a", answers="s/a")
    await accept(runs, "b", answers="s/b")
    await finish(runs, "a", first.fence)
    with pytest.raises(AlreadyAnswered):
        await accept(runs, "c", answers="t/b")
    claim = await runs.claim(TENANT, THREAD, "b")
    await finish(runs, "b", claim.fence)
    await accept(runs, "c", answers="u/b")


async def test_a_question_that_was_read_in_an_older_state_must_be_read_again(runs, threads):
    """The run that answered it may have ended in between."""
    accepted = await accept(runs, "a")
    seen = (await threads.get(TENANT, THREAD)).state_updated_at.isoformat()
    await finish(runs, "a", accepted.fence)
    with pytest.raises(QuestionsChanged):
        await accept(runs, "b", answers="s/a", seen=seen)
    await accept(runs, "b", answers="t/a", seen=(await threads.get(TENANT, THREAD)).state_updated_at.isoformat())


@pytest.mark.parametrize(("end", "can_be_answered"), [("success", False), ("error", True), ("cancel", True)])
async def test_an_answer_that_came_to_nothing_may_be_given_again(runs, end, can_be_answered):
    """A run that failed or was cancelled has not answered."""
    accepted = await accept(runs, "a", answers="s/a s/b")
    if end == "cancel":
        await runs.cancel(TENANT, THREAD, "a", "interrupt")
    else:
        await finish(runs, "a", accepted.fence, status=end)

    if can_be_answered:
        await accept(runs, "b", answers="s/b")
    else:
        with pytest.raises(AlreadyAnswered):
            await accept(runs, "b", answers="s/b")


@pytest.mark.parametrize("claims", ["queued", "later"])
@pytest.mark.parametrize("rest", ["interrupted", "error"])
async def test_a_run_that_never_began_leaves_the_thread_as_it_was(runs, threads, claims, rest):
    """A thread that asks goes on asking when a run that waited is cancelled."""
    accepted = await accept(runs, "a")
    await finish(runs, "a", accepted.fence, thread_status=rest)
    await accept(runs, "b", claims=claims)
    await runs.cancel(TENANT, THREAD, "b", "interrupt")

    assert (await threads.get(TENANT, THREAD)).status == rest


async def test_a_run_that_had_begun_takes_the_question_with_it(runs, threads):
    """It may have gone past what was asked, so the thread is idle when it is cancelled and its state stays."""
    accepted = await accept(runs, "a")
    await finish(runs, "a", accepted.fence, thread_status="interrupted")
    await accept(runs, "b")
    await runs.cancel(TENANT, THREAD, "b", "interrupt")

    assert (await threads.get(TENANT, THREAD)).status == "idle"


async def test_a_run_that_was_rolled_back_leaves_the_thread_as_it_was(runs, threads):
    """Its checkpoints go, so what was asked before it is asked again."""
    accepted = await accept(runs, "a")
    await finish(runs, "a", accepted.fence, thread_status="interrupted")
    await accept(runs, "b")
    await runs.cancel(TENANT, THREAD, "b", "rollback")

    assert (await threads.get(TENANT, THREAD)).status == "interrupted"


async def test_a_run_cancelled_before_it_began_has_a_log_that_lacks_nothing(runs):
    """Its record names its only event as the first one, so readers are shown no snapshot in place of earlier ones."""
    accepted = await accept(runs, "a")
    await finish(runs, "a", accepted.fence)
    await accept(runs, "b", claims="queued")
    await runs.cancel(TENANT, THREAD, "b", "interrupt")

    (event,) = await runs.events(TENANT, THREAD, "b", after=0)
    assert (await runs.get(TENANT, THREAD, "b")).first_event == event.id == 3


async def test_a_thread_that_goes_with_its_run_waits_for_one_that_is_delayed(runs):
    """It is forgotten after the run and not before it."""
    await accept(runs, "a", claims="later", forget_after=1.0)
    assert not await runs.forget(TENANT, THREAD, 1.0)

    assert await runs.enqueue(TENANT, THREAD, "a")
    claim = await runs.claim(TENANT, THREAD, "a")
    assert not await runs.forget(TENANT, THREAD, 1.0)
    await finish(runs, "a", claim.fence)
    assert await runs.forget(TENANT, THREAD, 1.0)


async def test_a_thread_that_is_forgotten_goes_as_a_whole(runs, redis_client):
    """Nothing of it stays behind."""
    accepted = await accept(runs, "a", webhook="https://a.example")
    await runs.append(TENANT, a_run("a"), accepted.fence, [("values", b"1")])
    await finish(runs, "a", accepted.fence)
    await runs.forget(TENANT, THREAD, 0.05)

    async def is_empty():
        return not await redis_client.keys("*")

    await until(is_empty, 1)


async def test_a_delayed_run_that_was_cancelled_never_enters_the_queue(runs):
    """Its time comes, and nothing happens."""
    await accept(runs, "a", claims="later")
    await runs.cancel(TENANT, THREAD, "a", "interrupt")

    assert not await runs.enqueue(TENANT, THREAD, "a")
    assert (await runs.inspect(TENANT, THREAD)).head is None


async def test_a_log_is_bounded_and_keeps_its_end(runs):
    """Twice as many events as fit: the older ones go, the terminal one stays, and the record says that some are gone."""
    accepted = await accept(runs, "a")
    for _ in range(2 * MAX_EVENTS // 1000):
        await runs.append(TENANT, a_run("a"), accepted.fence, [("values", b"1")] * 1000)
    last, _ = await finish(runs, "a", accepted.fence)

    log = await runs.events(TENANT, THREAD, "a", after=0, count=3 * MAX_EVENTS)
    assert MAX_EVENTS <= len(log) <= 1.1 * MAX_EVENTS
    assert (log[-1], last.id) == (last, 2 * MAX_EVENTS + 1)
    assert (await runs.get(TENANT, THREAD, "a")).first_event == 1 < log[0].id


async def test_a_log_lives_as_long_as_its_run_asks(runs, redis_client):
    """From the end of the run on; the record stays as long as the thread."""
    accepted = await accept(runs, "a", log_ttl=60.0)
    await finish(runs, "a", accepted.fence)

    keys = ThreadKeys(TENANT, THREAD)
    assert 59_000 < await redis_client.pttl(keys.events("a")) <= 60_000
    assert await redis_client.ttl(keys.run("a")) > THREAD_TTL - 60


async def test_only_a_run_that_has_ended_is_deleted(runs):
    """Neither one that waits nor one that executes; what is deleted is gone with its log."""
    accepted = await accept(runs, "a")
    await accept(runs, "b", claims="queued")

    assert [await runs.delete(TENANT, THREAD, run) for run in ("a", "b", "c")] == [False, False, None]
    await finish(runs, "a", accepted.fence)
    assert await runs.delete(TENANT, THREAD, "a") is True
    assert (await runs.get(TENANT, THREAD, "a"), await names(runs, "a"), await runs.ids(TENANT, THREAD)) == (None, [], ["b"])


async def test_a_run_of_another_tenant_is_no_run(runs):
    """The same ids mean nothing to anybody else."""
    await accept(runs, "a")

    assert await runs.get("globex", THREAD, "a") is None
    assert await runs.cancel("globex", THREAD, "a", "interrupt") is None
    assert await runs.delete("globex", THREAD, "a") is None
    assert await runs.claim("globex", THREAD, "a") == ("not_next",)
