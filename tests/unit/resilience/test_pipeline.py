"""Policies are put together outermost first."""

from resilience.context import CallContext
from resilience.pipeline import Pipeline
from resilience.policy import Call, T
from resilience.testing import fail_then_return


class Named:
    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        self._log.append(f"{self._name} in")
        result = await call(ctx.with_attempt(ctx.attempt + 1))
        self._log.append(f"{self._name} out")
        return result


async def test_the_first_policy_is_the_outermost(ctx: CallContext):
    """It is entered first and left last; each hands its own context down."""
    log: list[str] = []
    call = fail_then_return(0, Exception(), "answer")

    assert await Pipeline(Named("outer", log), Named("inner", log)).execute(call, ctx) == "answer"
    assert log == ["outer in", "inner in", "inner out", "outer out"]
    assert call.contexts[0].attempt == 3


async def test_a_pipeline_is_a_policy(ctx: CallContext):
    """It can be part of another."""
    log: list[str] = []
    inner = Pipeline(Named("b", log), Named("c", log))

    await Pipeline(Named("a", log), inner).execute(fail_then_return(0, Exception(), "answer"), ctx)

    assert log == ["a in", "b in", "c in", "c out", "b out", "a out"]


async def test_no_policy_is_the_call_alone(ctx: CallContext):
    """The context goes down untouched."""
    call = fail_then_return(0, Exception(), "answer")

    assert await Pipeline().execute(call, ctx) == "answer"
    assert call.contexts == [ctx]
