"""What people said of answers: a field per key in the run's own record, so it lives, and goes, with the run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import ThreadKeys

MAX_KEYS = 20
"""Most keys of feedback that one run has."""
_FIELD = "feedback:"

# An entry keeps the time at which something was said first; the entry before is answered, so that a change can be told from a repetition.
# The run's own time to live stays as it is.
# → missing | full | kept, the entry that was there before or ''
_PUT = """
local run, field, entry, most, prefix = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if redis.call('EXISTS', run) == 0 then return {'missing'} end
local before = redis.call('HGET', run, field)
if not before then
  local kept = 0
  for _, name in ipairs(redis.call('HKEYS', run)) do
    if string.sub(name, 1, #prefix) == prefix then kept = kept + 1 end
  end
  if kept >= most then return {'full'} end
else
  entry = string.gsub(entry, '"created_at":"[^"]*"', function() return string.match(before, '"created_at":"[^"]*"') end, 1)
end
redis.call('HSET', run, field, entry)
return {'kept', before or '', entry}
"""


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """What was said of a run under one key.

    Args:
        key: What was judged.
        score: Between 0, bad, and 1, good.
        comment: In somebody's own words; empty: none.
        created_at: When it was said first.
        updated_at: When it was said last.
    """

    key: str
    score: float
    comment: str
    created_at: datetime
    updated_at: datetime


class RunMissing(LookupError):
    """The thread has no such run."""


class TooManyKeys(Exception):
    """The run has feedback under as many keys as it may have."""


class FeedbackRepository:
    """The feedback of all tenants.

    Every method raises `StorageUnavailable` if Redis cannot be asked.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._put = client.register_script(_PUT)

    async def put(self, tenant: str, thread_id: str, run_id: str, said: FeedbackRecord) -> tuple[FeedbackRecord, FeedbackRecord | None]:
        """Keep it in place of what was said under its key before; returns it as it is kept, and what it replaces.

        Raises:
            RunMissing: There is no such run.
            TooManyKeys: It is a further key, and the run has enough of them.
        """
        entry = orjson.dumps({"created_at": said.created_at, "updated_at": said.updated_at, "score": said.score, "comment": said.comment})
        key = ThreadKeys(tenant, thread_id).run(run_id)
        with guarded():
            answer: list[bytes] = await self._put(keys=[key], args=[_FIELD + said.key, entry, MAX_KEYS, _FIELD])
        match answer:
            case [b"missing"]:
                raise RunMissing(run_id)
            case [b"full"]:
                raise TooManyKeys(run_id)
            case [_, before, kept]:
                return _record(said.key, kept), _record(said.key, before) if before else None
        raise AssertionError(answer)

    async def of_run(self, tenant: str, thread_id: str, run_id: str) -> list[FeedbackRecord]:
        """What was said of the run, by key.

        Raises:
            RunMissing: There is no such run.
        """
        with guarded():
            found: Any = await self._client.hgetall(ThreadKeys(tenant, thread_id).run(run_id))
        if not found:
            raise RunMissing(run_id)
        said = {name.decode().removeprefix(_FIELD): entry for name, entry in found.items() if name.startswith(_FIELD.encode())}
        return [_record(key, said[key]) for key in sorted(said)]


def _record(key: str, entry: bytes) -> FeedbackRecord:
    said = orjson.loads(entry)
    times = {name: datetime.fromisoformat(said[name]) for name in ("created_at", "updated_at")}
    return FeedbackRecord(key=key, score=said["score"], comment=said["comment"], **times)
