"""Token buckets in a real Redis: exact, shared, forgetful, and the same as those of one process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from redis.asyncio import Redis

from agents.models.port import ModelReply
from agents.usage import Usage
from app.guards.rate_limits import FIRST_ANSWER, UNTOLD, ProviderLimiter, Quota, RequestLimit, SharedBuckets
from app.storage.errors import StorageUnavailable
from app.storage.redis.connection import connect
from app.storage.redis.keys import TenantKeys, provider_rate
from app.storage.redis.limits import HOLD, NOW, SETTLE, TAKE, RedisBuckets
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.rate_limit import Grant
from resilience.testing import FakeClock
from resilience.token_bucket import Charge, LocalBuckets, Rate

ROOT = Path(__file__).parents[2]
KEY = "acme:rate:0123456789abcdef"


class Counted:
    """A meter that remembers: limit, outcome, whether it was local."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def rate_limit(self, limit: str, outcome: str, *, is_local: bool) -> None:
        self.seen.append((limit, outcome, is_local))


@pytest.fixture
def buckets(redis_client: Redis) -> RedisBuckets:
    return RedisBuckets(redis_client)


def one(rate: Rate, cost: int = 1, bucket: str = KEY) -> list[Charge]:
    return [Charge(bucket, rate, cost)]


async def test_of_two_hundred_at_once_exactly_the_allowance_passes(buckets: RedisBuckets):
    """However they come; each that passed was told another remainder."""
    answers = await asyncio.gather(*(buckets.take(one(Rate(100, window=3600))) for _ in range(200)))

    passed = [answer for answer in answers if answer.is_allowed]
    assert sorted(answer.remaining for answer in passed) == list(range(100))
    refused = [answer for answer in answers if not answer.is_allowed]
    assert {answer.remaining for answer in refused} == {0}
    assert all(35.0 < answer.wait <= 36.0 for answer in refused)
    assert all(3590 < answer.full_in <= 3600 for answer in refused)


async def test_the_servers_clock_fills_a_bucket(buckets: RedisBuckets):
    """Whoever waits as long as the refusal says is served."""
    rate = Rate(10, window=0.5)
    assert (await buckets.take(one(rate, cost=10))).is_allowed

    refused = await buckets.take(one(rate))
    assert not refused.is_allowed
    assert 0.0 < refused.wait <= 0.05
    await asyncio.sleep(refused.wait)
    assert (await buckets.take(one(rate))).is_allowed


async def test_a_full_bucket_is_no_key(buckets: RedisBuckets, redis_client: Redis):
    """What nobody uses any more leaves Redis by itself, at the time at which it would be full."""
    taken = await buckets.take(one(Rate(100, window=3600), cost=50))
    left = await redis_client.pttl(KEY)
    assert taken.full_in == 1800
    assert 1_790_000 < left <= 1_800_000

    await buckets.settle(one(Rate(100, window=3600), cost=-50))
    assert await redis_client.exists(KEY) == 0


async def test_two_processes_share_a_bucket(redis_url: str):
    """What one has taken the other does not get; each tries the whole allowance."""
    program = f"""
import asyncio
from app.storage.redis.connection import connect
from app.storage.redis.limits import RedisBuckets
from resilience.token_bucket import Charge, Rate

async def main():
    client = connect({redis_url!r})
    buckets = RedisBuckets(client)
    answers = await asyncio.gather(*(buckets.take([Charge({KEY!r}, Rate(100, window=3600), 1)]) for _ in range(100)))
    await client.aclose()
    print(sum(answer.is_allowed for answer in answers))

asyncio.run(main())
"""
    command = [sys.executable, "-c", program]
    both = [await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    passed = [int((await process.communicate())[0]) for process in both]

    assert sum(passed) == 100


async def test_a_clock_that_is_set_back_locks_nobody_out_for_long(buckets: RedisBuckets, redis_client: Redis):
    """A bucket that would be full in an hour, by what is stored, is taken for one that owes two windows at most."""
    seconds, _ = await redis_client.time()
    await redis_client.set(KEY, (seconds + 3600) * 1000)

    refused = await buckets.take(one(Rate(100, window=60)))
    assert not refused.is_allowed
    assert refused.wait == pytest.approx(60.6, abs=0.01)


# --- the same rules in both ---------------------------------------------------------------------------------------------

_RATES = {"{r}:calls": Rate(7, window=60.0), "{r}:tokens": Rate(1000, window=60.0)}
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "settle", "hold"]),
        st.lists(st.tuples(st.sampled_from(sorted(_RATES)), st.integers(-300, 1500)), min_size=1, max_size=2, unique_by=lambda c: c[0]),
        st.sampled_from([0.0, 1.0, 30.0]),
        st.integers(0, 90_000),
    ),
    max_size=25,
)


@given(steps=_STEPS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_and_one_process_agree_on_every_history(steps, shared_redis):
    """Whatever is taken and settled, with whatever pauses: the same answers, to the millisecond."""

    async def play() -> None:
        client = connect(shared_redis.url)
        await client.flushall()
        clock = FakeClock()
        local = LocalBuckets(clock)
        # The same scripts, with a time that the test moves; keys must not expire by the server's.
        given_time = "local now = tonumber(redis.call('GET', 'time'))\n"
        moved = [script.replace(NOW, given_time).replace(", 'PX', math.ceil(debt)", "") for script in (TAKE, SETTLE, HOLD)]
        take, settle, hold = map(client.register_script, moved)
        at = 1_700_000_000_000
        for what, costs, patience, pause in steps:
            at += pause
            clock.advance(pause / 1000)
            await client.set("time", at)
            charges = [Charge(name, _RATES[name], max(cost, 0) if what == "take" else cost) for name, cost in costs]
            arguments = [value for c in charges for value in (c.rate.allowance, c.rate.window * 1000, c.cost)]
            keys = [c.bucket for c in charges]
            if what == "settle":
                local.settle(charges)
                await settle(keys=keys, args=arguments)
                continue
            if what == "hold":
                local.hold(charges, patience)
                await hold(keys=keys, args=[patience * 1000, *arguments])
                continue
            here = local.take(charges, patience=patience)
            is_allowed, wait, remaining, full_in = await take(keys=keys, args=[patience * 1000, *arguments])
            assert bool(is_allowed) == here.is_allowed
            assert wait / 1000 == pytest.approx(here.wait, abs=0.002)
            assert full_in / 1000 == pytest.approx(here.full_in, abs=0.002)
            assert remaining == here.remaining
        await client.aclose()

    asyncio.run(play())


# --- per API key --------------------------------------------------------------------------------------------------------


async def test_each_key_has_an_allowance_of_its_own(redis_client: Redis, buckets: RedisBuckets):
    """Also where one tenant has several; Redis sees the beginning of a digest, and the tenant in front."""
    limit = RequestLimit(SharedBuckets(buckets, Counted()), per_minute=2)

    for tenant, key_id in [("acme", "aa"), ("acme", "bb"), ("globex", "aa")]:
        assert [(await limit.spend(tenant, key_id)).is_allowed for _ in range(3)] == [True, True, False]
    keys = sorted(key.decode() for key in await redis_client.keys())
    assert keys == ["acme:rate:aa", "acme:rate:bb", "globex:rate:aa"]


async def test_while_redis_is_away_each_process_counts_for_itself(own_redis):
    """An outage is neither "no limit" nor "nobody": the same allowance holds here, without asking Redis again for a second."""
    client, meter = connect(own_redis.url), Counted()
    limit = RequestLimit(SharedBuckets(RedisBuckets(client), meter), per_minute=3)
    assert (await limit.spend("acme", "aa")).remaining == 2
    own_redis.kill()

    assert [(await limit.spend("acme", "aa")).is_allowed for _ in range(5)] == [True, True, True, False, False]
    assert [(outcome, is_local) for _, outcome, is_local in meter.seen] == [
        ("allowed", False),
        *[("allowed", True)] * 3,
        *[("refused", True)] * 2,
    ]
    await client.aclose()


async def test_when_redis_is_back_it_counts_again(own_redis):
    """After at most a second."""
    client, meter = connect(own_redis.url), Counted()
    limit = RequestLimit(SharedBuckets(RedisBuckets(client), meter), per_minute=1000)
    own_redis.kill()
    await limit.spend("acme", "aa")
    own_redis.start()
    while meter.seen[-1][2]:
        await limit.spend("acme", "aa")
        await asyncio.sleep(0.05)

    assert await client.exists(TenantKeys("acme").rate("aa"))
    await client.aclose()


async def test_a_redis_that_hangs_is_not_waited_for():
    """A server that accepts and never answers costs half a second once, not every request."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client, meter = connect(f"redis://127.0.0.1:{port}"), Counted()
    limit = RequestLimit(SharedBuckets(RedisBuckets(client), meter), per_minute=100)
    begun = asyncio.get_running_loop().time()

    for _ in range(20):
        assert (await limit.spend("acme", "aa")).is_allowed
    assert asyncio.get_running_loop().time() - begun < 1.5  # three times the promise; below Redis's own limit of 2 s
    assert [is_local for _, _, is_local in meter.seen] == [True] * 20
    await client.aclose()
    server.close()


# --- per provider -------------------------------------------------------------------------------------------------------

MODEL = "model:openai/gpt-x"
CALLS, TOKENS = provider_rate("openai", "openai", "calls"), provider_rate("openai", "openai/gpt-x", "tokens")
QUOTAS = (Quota("openai", calls=100), Quota("openai/gpt-x", tokens=10_000))


def asks(tokens: int) -> CallContext:
    return CallContext(MODEL, Deadline.after(60), weigh=lambda: tokens)


def reply(read: int, written: int) -> ModelReply:
    return ModelReply(AIMessage("hello"), Usage(read, written), "gpt-x")


async def left(buckets: RedisBuckets) -> tuple[int, int]:
    """Calls and tokens that are left, nearly: asking takes nothing that does not come back at once."""
    found = []
    for key, allowance in ((CALLS, 100), (TOKENS, 10_000)):
        found.append((await buckets.take(one(Rate(allowance), 0, key))).remaining)
    return found[0], found[1]


async def test_a_call_is_charged_to_the_model_and_to_the_provider(redis_client: Redis, buckets: RedisBuckets):
    """In one script, so in one hash slot; tokens as estimated: the prompt and a usual answer."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))

    grant = await limiter.take(asks(800), patience=0.0)
    assert (grant.is_allowed, grant.weight) == (True, 800 + FIRST_ANSWER)
    calls, tokens = await left(buckets)
    assert calls == 99
    assert tokens == pytest.approx(9_000, abs=100)
    assert {key.partition(b"}")[0] for key in await redis_client.keys()} == {b"capataz:rate:{openai"}


async def test_what_was_used_is_settled_and_learnt(buckets: RedisBuckets):
    """More than estimated is taken afterwards, less is given back; answers are expected to be like those before."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))
    grant = await limiter.take(asks(800), patience=0.0)
    limiter.settle(grant, reply(900, 4_100))
    await limiter.aclose()

    assert (await left(buckets))[1] == pytest.approx(5_000, abs=100)
    assert (await limiter.take(asks(0), patience=0.0)).weight == round(FIRST_ANSWER + 0.1 * (4_100 - FIRST_ANSWER))


async def test_a_call_that_used_far_more_than_there_was_overdraws(buckets: RedisBuckets):
    """Then the next has to wait until that is paid back."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))
    grant = await limiter.take(asks(100), patience=0.0)
    limiter.settle(grant, reply(15_000, 0))
    await limiter.aclose()

    refused = await limiter.take(asks(10), patience=1.0)
    assert not refused.is_allowed
    assert refused.wait == pytest.approx(30 + (10 + 180) * 60 / 10_000, abs=1)


async def test_what_was_taken_in_vain_is_given_back_whole(buckets: RedisBuckets):
    """The call as well as its tokens; many corrections become few commands."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))
    grants = [await limiter.take(asks(300), patience=0.0) for _ in range(10)]
    for grant in grants:
        limiter.give_back(grant)
    await limiter.aclose()

    assert await left(buckets) == (100, 10_000)


async def test_a_429_holds_the_models_own_allowance_everywhere(buckets: RedisBuckets):
    """For as long as the provider said, in every process; other models of the provider may be asked meanwhile."""
    quotas = (*QUOTAS, Quota("openai/gpt-x", calls=600))
    first = ProviderLimiter(MODEL, quotas[::2], SharedBuckets(buckets, Counted()))
    elsewhere = ProviderLimiter(MODEL, quotas[::2], SharedBuckets(buckets, Counted()))
    neighbour = ProviderLimiter("model:openai/gpt-y", QUOTAS[:1], SharedBuckets(buckets, Counted()))
    for seconds in (20.0, 3.0):
        first.throttled(seconds)
    await first.aclose()

    refused = await elsewhere.take(asks(10), patience=1.0)
    assert not refused.is_allowed
    assert refused.wait == pytest.approx(20.1, abs=0.2)
    assert (await neighbour.take(asks(10), patience=0.0)).is_allowed


async def test_a_429_that_does_not_say_how_long_holds_the_model_for_a_few_seconds(buckets: RedisBuckets):
    """Or everybody would ask in vain, several times each, until the quota is back."""
    limiter = ProviderLimiter(MODEL, (*QUOTAS, Quota("openai/gpt-x", calls=600))[::2], SharedBuckets(buckets, Counted()))
    limiter.throttled(0.0)
    await limiter.aclose()

    refused = await limiter.take(asks(10), patience=1.0)
    assert not refused.is_allowed
    assert refused.wait == pytest.approx(UNTOLD + 0.1, abs=0.2)


async def test_a_used_up_allowance_is_known_without_asking(buckets: RedisBuckets):
    """So that admission looks at the model that will be asked instead, and expects nobody here."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))
    assert (await limiter.take(asks(10), patience=0.0)).is_allowed
    assert not limiter.is_used_up

    limiter.throttled(5.0)
    await limiter.aclose()
    assert not (await limiter.take(asks(10), patience=1.0)).is_allowed
    assert limiter.is_used_up


async def test_a_429_of_a_model_without_an_allowance_of_its_own_holds_nobody(buckets: RedisBuckets):
    """The provider's common allowance is also that of its other models."""
    limiter = ProviderLimiter(MODEL, QUOTAS[:1], SharedBuckets(buckets, Counted()))
    limiter.throttled(20.0)
    await limiter.aclose()

    assert (await limiter.take(asks(10), patience=0.0)).is_allowed


async def test_a_reply_without_usage_keeps_its_estimate(buckets: RedisBuckets):
    """As does what is no model's reply, and nothing is learnt of it."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))
    grant = await limiter.take(asks(800), patience=0.0)
    limiter.settle(grant, reply(0, 0))
    limiter.settle(grant, "text")
    await limiter.aclose()

    assert (await left(buckets))[1] == pytest.approx(9_000, abs=100)


async def test_a_prompt_over_the_whole_allowance_passes_when_the_bucket_is_full(buckets: RedisBuckets):
    """The provider decides about it, not we; all others wait meanwhile."""
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(buckets, Counted()))

    assert await limiter.take(asks(50_000), patience=0.0) == Grant(True, 0.0, 10_000)
    assert not (await limiter.take(asks(10), patience=1.0)).is_allowed


async def test_turns_of_many_callers_are_spread(buckets: RedisBuckets):
    """Who is told to wait has a turn of its own: no two at the same instant."""
    meter = Counted()
    limiter = ProviderLimiter(MODEL, (Quota("openai/gpt-x", calls=600),), SharedBuckets(buckets, meter))
    for _ in range(600):
        await limiter.take(asks(0), patience=0.0)

    grants = await asyncio.gather(*(limiter.take(asks(0), patience=1.0) for _ in range(30)))
    waits = sorted(grant.wait for grant in grants if grant.is_allowed and grant.wait > 0.0)
    assert 5 <= len(waits) <= 11  # a tenth of a second apart, from now to the end of the second
    assert all(later - earlier > 0.05 for earlier, later in pairwise(waits))
    assert (MODEL, "waited", False) in meter.seen
    assert (MODEL, "refused", False) in meter.seen


async def test_without_redis_a_provider_is_not_flooded(own_redis):
    """Its allowance holds per process, settlements included."""
    client = connect(own_redis.url)
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(RedisBuckets(client), Counted()))
    own_redis.kill()

    grant = await limiter.take(asks(100), patience=0.0)
    limiter.settle(grant, reply(9_900, 100))
    await limiter.aclose()
    assert not (await limiter.take(asks(100), patience=1.0)).is_allowed
    limiter.throttled(30.0)
    await limiter.aclose()
    assert (await limiter.take(asks(100), patience=1.0)).wait > 29.0
    await client.aclose()


async def test_an_outage_between_a_call_and_its_settlement_is_settled_here(own_redis):
    """What it used above its estimate counts in this process until Redis is back."""
    client = connect(own_redis.url)
    limiter = ProviderLimiter(MODEL, QUOTAS, SharedBuckets(RedisBuckets(client), Counted()))
    grant = await limiter.take(asks(100), patience=0.0)
    own_redis.kill()

    limiter.settle(grant, reply(12_000, 0))
    await limiter.aclose()
    assert not (await limiter.take(asks(100), patience=1.0)).is_allowed
    await client.aclose()


async def test_an_outage_is_named(own_redis):
    """The buckets in Redis themselves raise our error, and decide nothing."""
    client = connect(own_redis.url)
    own_redis.kill()

    with pytest.raises(StorageUnavailable):
        await RedisBuckets(client).take(one(Rate(1)))
    with pytest.raises(StorageUnavailable):
        await RedisBuckets(client).settle(one(Rate(1)))
    with pytest.raises(StorageUnavailable):
        await RedisBuckets(client).hold(one(Rate(1)), 1.0)
    await client.aclose()
