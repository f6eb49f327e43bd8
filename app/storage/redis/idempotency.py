"""Which run an `Idempotency-Key` stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import TenantKeys

KEPT = 24 * 3600.0
"""How long a key stands for its run, seconds."""

_RESERVE = """
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
return redis.call('GET', KEYS[1])
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a key stands for: the body's fingerprint, the ids of the run and of its thread, and whether it has been accepted."""

    fingerprint: str
    run_id: str
    thread_id: str
    is_accepted: bool = False


class IdempotencyKeys:
    """The keys of all tenants.

    A key is reserved before its run is accepted: whoever comes second, also after a crash in between, is told the same ids, and
    accepting one id twice makes one run.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._reserve = client.register_script(_RESERVE)

    async def reserve(self, tenant: str, key: str, wanted: Reservation) -> Reservation:
        """What the key stands for: `wanted`, if it stood for nothing.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        with guarded():
            found: Any = await self._reserve(keys=[TenantKeys(tenant).idempotency(key)], args=[_packed(wanted), int(KEPT * 1000)])
        return Reservation(*orjson.loads(found))

    async def accepted(self, tenant: str, key: str, found: Reservation) -> None:
        """The run has been accepted: if it is missing from now on, it has been removed.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        value = _packed(replace(found, is_accepted=True))
        with guarded():
            await self._client.set(TenantKeys(tenant).idempotency(key), value, xx=True, keepttl=True)


def _packed(reservation: Reservation) -> bytes:
    return orjson.dumps([reservation.fingerprint, reservation.run_id, reservation.thread_id, reservation.is_accepted])
