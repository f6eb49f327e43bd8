"""Names of keys: tenants never meet, a thread stays in one slot, any id comes back as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from app.storage.redis.keys import CRON_INFIX, CRONS_DUE, CronKeys, StoreKeys, TenantKeys, ThreadKeys, decode, encode

ANY_TEXT = st.text(alphabet=st.characters(), max_size=40)


def _every_key(keys: ThreadKeys) -> list[str]:
    plain = [keys.thread(), keys.runs(), keys.lease(), keys.fence(), keys.sequence(), keys.queue(), keys.purge(), keys.outbox()]
    return [*plain, keys.run("r"), keys.events("r"), keys.checkpoints(), keys.checkpoint_index()]


@given(ANY_TEXT)
def test_an_encoded_text_comes_back(text):
    """Encoding loses nothing and leaves no character that means something in a key."""
    assert decode(encode(text)) == text
    assert not set(encode(text)) & set("{}:*?[]\\")


@given(ANY_TEXT, ANY_TEXT)
def test_all_keys_of_a_thread_share_a_slot(tenant, thread_id):
    """A cluster keeps a thread together, whatever its id is made of."""
    keys = _every_key(ThreadKeys(tenant, thread_id))

    assert len({key_slot(key.encode("utf-8")) for key in keys}) == 1
    assert len(set(keys)) == len(keys)
    assert {ThreadKeys.thread_id_of(key) for key in keys} == {thread_id}


@given(ANY_TEXT, st.uuids().map(str))
def test_the_key_of_a_run_is_a_prefix_and_its_id(thread_id, run_id):
    """A script may build the keys of other runs of the thread from their ids."""
    keys = ThreadKeys("acme", thread_id)

    assert keys.run(run_id) == keys.run("") + run_id
    assert keys.events(run_id) == keys.events("") + run_id


@given(st.tuples(ANY_TEXT, ANY_TEXT), st.tuples(ANY_TEXT, ANY_TEXT))
def test_two_threads_share_no_key(one, other):
    """Neither tenant nor thread can be chosen so that it names the keys of another."""
    if one != other:
        assert not set(_every_key(ThreadKeys(*one))) & set(_every_key(ThreadKeys(*other)))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_tenants_own_keys_are_no_threads_keys(tenant, thread_id, name):
    """Keys without a tag keep out of the way of those with one."""
    own = TenantKeys(tenant)

    mine = {own.thread_index(), own.threads(name, name), own.idempotency(name), own.assistants(), own.assistant_versions(name)}
    assert not mine & set(_every_key(ThreadKeys(tenant, thread_id)))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_tenants_assistants_share_a_slot_and_no_key(tenant, one, other):
    """One script changes an assistant and its versions, and no id names another's key."""
    keys = TenantKeys(tenant)
    slots = {key_slot(key.encode("utf-8")) for key in (keys.assistants(), keys.assistant_versions(one), keys.assistant_versions(other))}

    assert len(slots) == 1
    assert (keys.assistant_versions(one) == keys.assistant_versions(other)) == (one == other)
    assert keys.assistant_versions(one) != keys.assistants()


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_a_tenants_store_has_a_slot_and_keys_of_its_own(tenant, other, name):
    """Whatever an item is called; no thread and no other tenant has one of them."""
    keys = StoreKeys(tenant)
    whole = [keys.index(), keys.expiry(), keys.item() + name]

    assert len({key_slot(key.encode("utf-8")) for key in whole}) == 1
    assert not set(whole) & set(_every_key(ThreadKeys(tenant, f"{tenant}:store")))
    if tenant != other:
        assert not any(key.startswith((StoreKeys(other).index(), StoreKeys(other).item())) for key in whole)


@given(ANY_TEXT, ANY_TEXT)
def test_crons_of_all_tenants_share_a_slot(tenant, cron_id):
    """One script claims over all of them, and builds their keys; a thread that is called like their tag has others."""
    keys = CronKeys(tenant)
    whole = [CRONS_DUE, keys.crons(), keys.cron(cron_id)]

    assert len({key_slot(key.encode("utf-8")) for key in whole}) == 1
    assert keys.cron(cron_id) == keys.cron("") + encode(cron_id) == encode(tenant) + CRON_INFIX + encode(cron_id)
    assert not set(whole) & set(_every_key(ThreadKeys(tenant, "crons")))
