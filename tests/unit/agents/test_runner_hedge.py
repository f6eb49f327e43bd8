"""A tool that only reads is asked a second time when it is slower than usual."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agents.spec import AgentSpec
from agents.tools.base import Effect, ToolContext, tool
from tests.support.cast import Cast
from tests.support.lexicon import Word, task


@pytest.mark.parametrize(
    ("effect", "calls", "error"),
    [(Effect.READ, 22, None), (Effect.IDEMPOTENT, 23, "attempt_timed_out"), (Effect.REVERSIBLE, 21, "attempt_timed_out")],
)
async def test_only_what_reads_is_asked_twice_at_once(spec: AgentSpec, effect: Effect, calls: int, error: str | None):
    """Twenty usual calls, then one that hangs: a reading tool answers by its second call; an idempotent one waits for three attempts."""
    made = 0

    @tool(effect=effect, timeout=2.0)
    async def ask(args: Word, ctx: ToolContext) -> dict[str, Any]:
        """Ask."""
        nonlocal made
        made += 1
        await asyncio.sleep(0.1 if made <= 20 or (effect is Effect.READ and made == 22) else 60)
        return {"call": made}

    spec = replace(spec, tools=(ask,))
    cast = Cast({}, specialists=[spec])

    async def use() -> Any:
        call = {"name": "ask", "args": {"word": "cat"}, "id": "1", "type": "tool_call"}
        return await cast.runner.use_approved(task(spec), call, {"word": "cat"})

    for _ in range(20):
        await use()
    last = await use()

    assert (made, last.error) == (calls, error)
    assert last.result == ({"call": 22} if error is None else None)
