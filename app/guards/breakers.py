"""The breakers of the whole fleet: what moves one here reaches every process within a second, and none waits for Redis (ADR-0017)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from app.errors import NotFound
from app.storage.errors import StorageError
from app.storage.redis.breakers import Board, BreakerBoard, Notice, Posting
from app.telemetry.logging import get_logger
from resilience.breaker import Breaker, BreakerSettings, BreakerSnapshot, BreakerState, MovedBy
from resilience.clock import Clock, SystemClock
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyRegistry

INTERVAL = 0.4
"""Longest time between two looks at the board, seconds; what moves here is told at once. Design D7 promises one second."""
TELL_LIMIT = 2.0
"""Longest that an operator waits to hear whether the fleet knows, seconds."""
CAP_IN_OPEN_TIMES = 10.0
"""The longest open time, in first open times: five minutes for half a minute."""


def breaker_rules(open_time: float, slow_model_call: float) -> Mapping[str, BreakerSettings]:
    """The rules by kind of dependency.

    Only models have a limit from which on a call is slow: specialists and tools take as long as their work does, and their own
    timeouts, which count as failures, are as near to it as any such limit would be.

    Args:
        open_time: The first open time, seconds.
        slow_model_call: From when on a model's first token is slow, seconds; 0.0: never.
    """
    rules = BreakerSettings(open_time=open_time, open_time_cap=CAP_IN_OPEN_TIMES * open_time)
    return {"model": replace(rules, slow_call=slow_model_call or None), "specialist": rules, "tool": rules}


def log_transition(event: ResilienceEvent) -> None:
    """One line for every breaker that moves; a `resilience.events.Listener`."""
    if event.kind is EventKind.BREAKER_TRANSITION:
        get_logger().warning("breaker_moved", dependency=event.dependency, **event.fields)


@dataclass(frozen=True, slots=True)
class _Change:
    at: float  # of the monotonic clock
    by_hand: bool


class BreakerChanges:
    """Which breakers have moved here and were not told yet; a `resilience.events.Listener`.

    What is told is where a breaker stands when it is told, so many moves become one.

    Args:
        clock: Says how long ago something moved.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._changes: dict[str, _Change] = {}
        self.arrived = asyncio.Event()

    def __call__(self, event: ResilienceEvent) -> None:
        """Note a transition; what the fleet has told us is no news to it, and half open is everybody's own."""
        if event.kind is not EventKind.BREAKER_TRANSITION or event.fields["new"] == BreakerState.HALF_OPEN:
            return
        if event.fields["by"] != MovedBy.FLEET:
            self.note(event.dependency, by_hand=event.fields["by"] == MovedBy.HAND)

    def note(self, dependency: str, *, by_hand: bool, age: float = 0.0) -> None:
        """The breaker has moved, `age` seconds ago."""
        # A hand's word stands, whatever the breaker's own rules do after it: they must not lose against the isolation it has ended.
        before = self._changes.get(dependency)
        self._changes[dependency] = _Change(self._clock.monotonic() - age, by_hand or (before is not None and before.by_hand))
        self.arrived.set()

    def take(self) -> dict[str, _Change]:
        """What is to be told now."""
        taken, self._changes = self._changes, {}
        return taken

    def put_back(self, taken: Mapping[str, _Change]) -> None:
        """It could not be told."""
        for dependency, change in taken.items():
            newer = self._changes.get(dependency, change)
            self._changes[dependency] = replace(newer, by_hand=newer.by_hand or change.by_hand)

    def age(self, change: _Change) -> float:
        """How long ago it was, seconds."""
        return self._clock.monotonic() - change.at

    def __contains__(self, dependency: str) -> bool:
        return dependency in self._changes


class FleetBreakers:
    """The breakers of this process, kept in step with those of the others.

    Without Redis each process goes on alone; afterwards what is newest holds, and what operators isolated stays so.

    Args:
        policies: Has the breakers.
        changes: Hears what moves here; must be a listener of `policies`.
        board: Where the processes meet.
    """

    def __init__(self, policies: PolicyRegistry, changes: BreakerChanges, board: BreakerBoard) -> None:
        self._policies = policies
        self._changes = changes
        self._board = board
        self._board_id: str | None = None
        self._seen: dict[str, Notice] = {}
        self._turn = asyncio.Lock()
        self._is_cut_off = False

    def snapshots(self) -> list[BreakerSnapshot]:
        """How every breaker of this process stands, by dependency."""
        return [breaker.snapshot() for breaker in self._policies.breakers()]

    async def move(self, dependency: str, state: BreakerState) -> tuple[BreakerSnapshot, bool]:
        """An operator isolates or closes a breaker.

        Returns:
            How it stands now, and whether the fleet knows; if not, it is told as soon as Redis answers.

        Raises:
            NotFound: There is no such breaker.
        """
        breaker = self._find(dependency)
        if breaker is None:
            raise NotFound(f"there is no breaker of {dependency}", "breaker_not_found")
        if state is BreakerState.ISOLATED:
            breaker.isolate()
        else:
            breaker.release()
        # Also when nothing moved here: the others may stand elsewhere.
        self._changes.note(dependency, by_hand=True)
        is_fleet_wide = False
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(TELL_LIMIT):
                await self.exchange()
                is_fleet_wide = True
        return breaker.snapshot(), is_fleet_wide

    async def run(self) -> None:
        """Exchange news for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._changes.arrived.wait()
            self._changes.arrived.clear()
            try:
                await self.exchange()
            except Exception as exc:  # the outermost frame of a task that must not end
                if not self._is_cut_off:
                    get_logger().warning("breakers_local_only", error=repr(exc))
                self._is_cut_off = True
            else:
                if self._is_cut_off:
                    get_logger().info("breakers_shared_again")
                self._is_cut_off = False

    async def exchange(self) -> None:
        """Tell the others what moved here, and do what they tell.

        Raises:
            StorageUnavailable: Redis cannot be asked; what moved here is kept for the next time.
        """
        async with self._turn:
            taken = self._changes.take()
            postings = [posting for name, change in taken.items() if (posting := self._posting(name, change))]
            try:
                board = await self._board.exchange(postings)
            except BaseException:
                self._changes.put_back(taken)
                raise
            if self._board_id not in (None, board.board_id):
                self._begin_anew()
            self._board_id = board.board_id
            for posting in postings:
                self._seen.pop(posting.dependency, None)  # what is there now is ours, or has won against ours
            for notice in board.notices:
                self._heed(notice, board)

    def _posting(self, dependency: str, change: _Change) -> Posting | None:
        """What to tell of a breaker that has moved; None: it has come to try by itself, and what comes of that is told then."""
        now = self._policies.breaker(dependency).snapshot()
        state = now.state
        if state is BreakerState.HALF_OPEN or (state is BreakerState.OPEN and now.retry_in <= 0.0):
            if not change.by_hand:
                return None
            state = BreakerState.CLOSED  # the isolation that a hand has ended must not come back from the board
        return Posting(dependency, state, self._changes.age(change), now.retry_in, now.openings, now.why, change.by_hand)

    def _begin_anew(self) -> None:
        """The board was lost, and with it what is not over yet: tell it again."""
        self._seen.clear()
        for now in self.snapshots():
            if now.state in (BreakerState.OPEN, BreakerState.ISOLATED):
                self._changes.note(now.dependency, by_hand=now.state is BreakerState.ISOLATED, age=now.since)

    def _heed(self, notice: Notice, board: Board) -> None:
        if notice.dependency in self._changes or self._seen.get(notice.dependency) == notice:
            return  # what moved here in the meantime is told first: the board decides which was later
        self._seen[notice.dependency] = notice
        if notice.process == self._board.process:
            return
        left = board.left(notice)
        has_news = left > 0.0 if notice.state is BreakerState.OPEN else notice.state is BreakerState.ISOLATED
        breaker = self._policies.breaker(notice.dependency) if has_news else self._find(notice.dependency)
        if breaker is not None:
            breaker.adopt(notice.state, seconds=left, openings=notice.openings, reason=notice.why)

    def _find(self, dependency: str) -> Breaker | None:
        return next((breaker for breaker in self._policies.breakers() if breaker.dependency == dependency), None)
