"""Answers that may be given again (`agents.answers`), a string each that ends by itself; read only when a specialist has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from agents.answers import KeptAnswer
from app.storage.errors import StorageUnavailable
from app.storage.redis.connection import guarded
from app.storage.redis.keys import TenantKeys

KEPT = 24 * 3600.0
"""How long an answer is kept after it was last given, seconds: a day's questions come back, and yesterday's mistakes do not."""
READ_LIMIT = 0.2
"""Longest wait for an answer, seconds: the customer has waited for a specialist already, and the help centre is at hand."""
MAX_WAITING = 1_000
"""Most answers that wait to be written; about a megabyte."""


class RedisAnswers:
    """An `AnswerStore`. What is kept is written by `run`, off the path of any request.

    Args:
        client: The connection; while it is down nothing is found or kept, and nobody is told but the listener.
        listener: Hears what became of each: `kept`, `dropped`; `found`, `missing`, `unavailable`.
    """

    def __init__(self, client: Redis, *, listener: Callable[[str], None]) -> None:
        self._client = client
        self._listener = listener
        self._waiting: dict[str, bytes] = {}
        self._has_work = asyncio.Event()

    async def find(self, tenant: str, key: str) -> KeptAnswer | None:
        """See `AnswerStore.find`."""
        try:
            async with asyncio.timeout(READ_LIMIT):
                with guarded():
                    packed = await self._client.get(TenantKeys(tenant).answer(key))
        except (StorageUnavailable, RedisError, TimeoutError):
            self._listener("unavailable")
            return None
        self._listener("missing" if packed is None else "found")
        if packed is None:
            return None
        text, confidence, sources = orjson.loads(packed)
        return KeptAnswer(text, confidence, tuple(sources))

    def keep(self, tenant: str, key: str, answer: KeptAnswer) -> None:
        """See `AnswerStore.keep`."""
        name = TenantKeys(tenant).answer(key)
        if name not in self._waiting and len(self._waiting) >= MAX_WAITING:
            self._listener("dropped")
            return
        self._waiting[name] = orjson.dumps([answer.text, answer.confidence, answer.sources])
        self._has_work.set()

    async def run(self) -> None:
        """Write what is to be kept, for ever; what cannot be written is dropped."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            batch, self._waiting = self._waiting, {}
            pipeline = self._client.pipeline(transaction=False)
            for name, packed in batch.items():
                pipeline.set(name, packed, px=int(KEPT * 1000))
            try:
                with guarded():
                    await pipeline.execute()
                outcome = "kept"
            except (StorageUnavailable, RedisError):  # of whatever kind: this task outlives them all
                outcome = "dropped"
            for _ in batch:
                self._listener(outcome)
