"""What travels with a call."""

from resilience.context import CallContext, Output
from resilience.deadline import Deadline
from resilience.testing import FakeClock


def test_output_tells_its_listeners_once():
    """Starting twice is starting once."""
    heard: list[str] = []
    output = Output()
    output.on_start(lambda: heard.append("started"))
    assert output.has_started is False

    output.start()
    output.start()

    assert output.has_started is True
    assert heard == ["started"]


def test_who_stopped_listening_hears_nothing():
    """Stopping works once, twice, and after the start."""
    heard: list[str] = []
    output = Output()
    stop = output.on_start(lambda: heard.append("started"))

    stop()
    stop()
    output.start()
    stop()

    assert heard == []


def test_a_context_is_copied_and_never_changed():
    """Attempts share the output and differ in their number; deadlines are replaced."""
    clock = FakeClock()
    ctx = CallContext("model:gpt-x", Deadline.after(10, clock))

    second = ctx.with_attempt(2)
    shorter = ctx.with_deadline(Deadline.after(5, clock))

    assert (ctx.attempt, second.attempt) == (1, 2)
    assert second.output is ctx.output is shorter.output
    assert (ctx.deadline.remaining(), shorter.deadline.remaining()) == (10, 5)
