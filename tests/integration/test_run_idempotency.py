"""An `Idempotency-Key` stands for one run: the first reservation wins, for everybody, for a day."""

from __future__ import annotations

import asyncio

from app.storage.redis.connection import connect
from app.storage.redis.idempotency import IdempotencyKeys, Reservation
from app.storage.redis.keys import TenantKeys


def wanted(number, fingerprint="f"):
    return Reservation(fingerprint, f"r{number}", f"t{number}")


async def test_of_many_reservations_at_once_all_are_told_the_same(redis_client, shared_redis):
    """Two processes, fifty requests: one run, one thread."""
    other = connect(shared_redis.url)
    processes = [IdempotencyKeys(redis_client), IdempotencyKeys(other)]
    found = await asyncio.gather(*(processes[n % 2].reserve("acme", "k", wanted(n)) for n in range(50)))
    await other.aclose()

    assert len(set(found)) == 1


async def test_another_request_is_told_what_the_key_stands_for(redis_client):
    """The caller compares the fingerprints; nothing is overwritten."""
    keys = IdempotencyKeys(redis_client)
    await keys.reserve("acme", "k", wanted(1))

    assert await keys.reserve("acme", "k", wanted(2, "other")) == wanted(1)
    assert await keys.reserve("acme", "k", wanted(3)) == wanted(1)


async def test_keys_of_two_tenants_have_nothing_to_do_with_each_other(redis_client):
    """Nor do two keys of one tenant, whatever they are made of."""
    keys = IdempotencyKeys(redis_client)
    names = [("acme", "k"), ("globex", "k"), ("acme", "k:"), ("acme", ""), ("acme", "{k}"), ("acme", "ñ\n")]

    assert [await keys.reserve(*name, wanted(n)) for n, name in enumerate(names)] == [wanted(n) for n in range(len(names))]


async def test_a_key_is_kept_for_a_day_from_its_first_use(redis_client):
    """Asking again does not make it last longer."""
    keys, name = IdempotencyKeys(redis_client), TenantKeys("acme").idempotency("k")
    await keys.reserve("acme", "k", wanted(1))
    assert 24 * 3600 - 10 < await redis_client.ttl(name) <= 24 * 3600

    await redis_client.expire(name, 100)
    await keys.reserve("acme", "k", wanted(2))
    assert await redis_client.ttl(name) <= 100
