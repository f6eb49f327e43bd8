"""The board on which processes tell each other of their breakers: one hash, written and read in one script (ADR-0017).

All times on it are the server's. A process says how long ago something happened and for how long it holds, and hears the same,
so no two clocks are ever compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import BREAKERS
from resilience.breaker import BreakerState

BOARD_TTL = 7 * 24 * 3600.0
"""How long the board outlives the last process that looked at it, seconds. An isolation by hand is forgotten with it and not before."""
KEPT = 24 * 3600.0
"""How long what is not isolated stays on the board after it was written, seconds: enough for everybody to have read it."""
_ID = "board"  # no dependency has this name: they contain a colon

# A process that cannot win against what is there (older, or a rule against a hand) finds it in the answer and follows it.
_EXCHANGE = """
local function read(text) -- what another version wrote in a way of its own counts as old
  local is_json, entry = pcall(cjson.decode, text)
  return is_json and type(entry) == 'table' and entry or {}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local posted = cjson.decode(ARGV[1])
for _, new in ipairs(posted) do
  local at = now - new.age
  local wins = true
  local found = redis.call('HGET', KEYS[1], new.dependency)
  if found then
    local old = read(found)
    local old_at = tonumber(old.at) or 0
    if old_at > now then old_at = 0 end -- the server's clock was set back: nothing is older than this
    if old.state == 'isolated' and not new.by_hand then wins = false
    elseif new.state == 'isolated' and not old.by_hand then wins = true
    else wins = at >= old_at end
  end
  if wins then
    redis.call('HSETNX', KEYS[1], ARGV[4], ARGV[2])
    redis.call('HSET', KEYS[1], new.dependency, cjson.encode({
      state = new.state, at = string.format('%.0f', at), ['until'] = string.format('%.0f', now + new.open_for),
      openings = new.openings, why = new.why, by_hand = new.by_hand, process = ARGV[2]}))
  end
end
local all = redis.call('HGETALL', KEYS[1])
if #posted > 0 then
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[4] then
      local old = read(all[i + 1])
      if old.state ~= 'isolated' and (tonumber(old['until']) or 0) < now - ARGV[5] then redis.call('HDEL', KEYS[1], all[i]) end
    end
  end
end
local left = redis.call('PTTL', KEYS[1])
if left ~= -2 and left < ARGV[3] / 2 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return {string.format('%.0f', now), all}
"""


@dataclass(frozen=True, slots=True)
class Posting:
    """What a process says of a breaker of its own.

    Args:
        dependency: Whose breaker it is.
        state: Where it has moved: closed, open or isolated.
        age: How long ago, seconds.
        open_for: For how much longer it refuses, seconds; 0.0 unless open.
        openings: How many openings in a row it counts.
        why: The reason, a stable code.
        by_hand: Whether an operator moved it.
    """

    dependency: str
    state: BreakerState
    age: float
    open_for: float
    openings: int
    why: str
    by_hand: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """What the board says of a breaker; equal to another one if nothing new was written. Times are the server's, in ms.

    Args:
        dependency: Whose breaker it is.
        state: Closed, open or isolated.
        at: When it moved there.
        until: Until when it refuses, if it is open.
        openings: How many openings in a row the writer has counted.
        why: The reason, a stable code.
        process: Who wrote it.
    """

    dependency: str
    state: BreakerState
    at: int
    until: int
    openings: int
    why: str
    process: str


@dataclass(frozen=True, slots=True)
class Board:
    """What the board says.

    Args:
        board_id: Changes when the board was lost and begun anew; None: there is none.
        now: The server's time, ms.
        notices: One per breaker.
    """

    board_id: str | None
    now: int
    notices: tuple[Notice, ...]

    def left(self, notice: Notice) -> float:
        """For how much longer an open breaker refuses, seconds; not more than 0.0: no longer."""
        return (notice.until - self.now) / 1000


class BreakerBoard:
    """The board, for one process.

    Args:
        client: Reaches Redis.
        process: Names this process on the board; no other has this name.
    """

    def __init__(self, client: Redis, process: str) -> None:
        self._exchange = client.register_script(_EXCHANGE)
        self._process = process

    @property
    def process(self) -> str:
        """The name of this process on the board."""
        return self._process

    async def exchange(self, postings: Sequence[Posting]) -> Board:
        """Write what is newer than what is there, and read it all.

        An isolation by hand wins over everything but a hand.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        packed = orjson.dumps([_packed(posting) for posting in postings])
        with guarded():
            found: Any = await self._exchange(keys=[BREAKERS], args=[packed, self._process, int(BOARD_TTL * 1000), _ID, int(KEPT * 1000)])
        now, flat = found
        fields = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        board_id = fields.pop(_ID, None)
        notices = (_notice(dependency, value) for dependency, value in sorted(fields.items()))
        return Board(board_id.decode() if board_id else None, int(now), tuple(notice for notice in notices if notice))


def _packed(posting: Posting) -> dict[str, Any]:
    return {
        "dependency": posting.dependency,
        "state": posting.state.value,
        "age": round(posting.age * 1000),
        "open_for": round(posting.open_for * 1000),
        "openings": posting.openings,
        "why": posting.why,
        "by_hand": posting.by_hand,
    }


def _notice(dependency: str, value: bytes) -> Notice | None:
    """None: another version of the service wrote it, in a way that this one does not understand."""
    try:
        said = orjson.loads(value)
        state = BreakerState(said["state"])
        return Notice(dependency, state, int(said["at"]), int(said["until"]), int(said["openings"]), str(said["why"]), str(said["process"]))
    except (ValueError, KeyError, TypeError):
        return None
