"""LangGraph's own conformance suite, run over our saver."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from app.storage.redis.checkpoints import RedisSaver

CAPABILITIES = ["put", "put_writes", "get_tuple", "list", "delete_thread", "delete_for_runs", "copy_thread", "prune"]


@pytest.mark.parametrize("capability", CAPABILITIES)
async def test_the_saver_has_the_capability(redis_client, capability):
    """The capability is there, its suite ran, and nothing in it failed."""

    @checkpointer_test(name=f"RedisSaver-{capability}")
    async def saver():
        yield RedisSaver(redis_client)

    result = (await validate(saver, capabilities={capability})).results[capability]

    assert result.detected
    assert result.failures == []
    assert result.passed is True
    assert result.tests_passed > 0


async def test_the_suite_knows_no_other_capability(redis_client):
    """A capability that a later suite adds shows up here, so that nobody takes silence for a pass."""

    @checkpointer_test(name="RedisSaver")
    async def saver():
        yield RedisSaver(redis_client)

    report = await validate(saver)

    assert sorted(report.results) == sorted(CAPABILITIES)
    assert report.passed_all()
