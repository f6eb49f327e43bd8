"""Where the conversation goes: the policy on confidence, and the limits that end a loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.routing import (
    MAX_HOPS,
    MAX_REPEATS,
    MAX_STILL_HOPS,
    RECURSION_LIMIT,
    after_reflect,
    after_specialist,
    after_supervise,
    loop_fault,
)
from graphs.state import Decision, Draft, Escalation, SupervisorState, Visit

ESCALATED = Escalation(reason="human_chosen", summary="", context={})
DECIDED = Decision(specialist="billing_support", confidence=0.9, reason="", alternatives=[])


def draft(confidence: float) -> Draft:
    return Draft(id="m", text="so", specialist="billing_support", confidence=confidence, sources=[])


def visit(specialist: str, knew: str) -> Visit:
    return Visit(specialist=specialist, outcome="handed_back", why="", suggestion=None, knew=knew)


visits = st.lists(st.builds(visit, st.sampled_from("abc"), st.sampled_from("123")), max_size=12)


@pytest.mark.parametrize(
    ("state", "goes_to"),
    [
        ({"decision": DECIDED}, "billing_support"),
        ({"decision": DECIDED, "escalation": ESCALATED}, "escalate"),
        ({"decision": None, "escalation": ESCALATED}, "escalate"),
        ({"decision": None}, "escalate"),
        ({}, "escalate"),
    ],
)
def test_after_the_supervisor_acts_whom_it_chose(state, goes_to):
    """An escalation wins over a decision, and nobody chosen is a human's matter."""
    assert after_supervise(state) == goes_to


@pytest.mark.parametrize(
    ("confidence", "critique", "goes_to"),
    [
        (1.0, None, "respond"),
        (0.7, None, "respond"),
        (0.699, None, "reflect"),
        (0.3, None, "reflect"),
        (0.299, None, "escalate"),
        (0.0, None, "escalate"),
        (0.7, "thin", "respond"),
        (0.5, "thin", "respond"),
        (0.499, "thin", "escalate"),
        (0.5, "", "respond"),
    ],
)
def test_a_draft_is_judged_by_its_confidence(confidence, critique, goes_to):
    """0.7 answers, below 0.3 escalates, between reflects once; after that 0.5 decides (design D10)."""
    assert after_specialist({"draft": draft(confidence), "critique": critique}) == goes_to


def test_after_a_specialist_without_a_draft_the_supervisor_decides_again():
    """It handed the question back."""
    assert after_specialist({"draft": None}) == "supervise"


def test_after_a_specialist_an_escalation_wins_over_a_draft():
    """However sure the draft is."""
    assert after_specialist({"draft": draft(1.0), "escalation": ESCALATED}) == "escalate"


@pytest.mark.parametrize(
    ("state", "goes_to"),
    [
        ({"draft": draft(0.4), "critique": "thin"}, "billing_support"),
        ({"draft": draft(0.5), "critique": ""}, "respond"),
        ({"draft": draft(0.4), "critique": ""}, "escalate"),
        ({"draft": None, "critique": "thin"}, "escalate"),
    ],
)
def test_after_reflection_the_same_specialist_acts_again(state, goes_to):
    """Without a critique the draft is judged as it stands."""
    assert after_reflect(state) == goes_to


@given(confidence=st.floats(0, 1), critique=st.none() | st.text())
def test_a_draft_is_never_reflected_on_twice(confidence, critique):
    """Every draft ends in an answer, a human, or the one reflection."""
    goes_to = after_specialist({"draft": draft(confidence), "critique": critique})

    assert goes_to in {"respond", "escalate", "reflect"}
    if critique is not None:
        assert goes_to != "reflect"


@given(visits=visits, hops=st.integers(0, MAX_HOPS + 2))
def test_a_turn_that_went_nowhere_has_a_reason_to_end(visits, hops):
    """Each limit holds for every history of visits, and the reason is the limit that was reached."""
    fault = loop_fault({"visits": visits, "hops": hops})

    most = max((visits.count(v) for v in visits), default=0)
    stands_still = len(visits) >= MAX_STILL_HOPS and len({v["knew"] for v in visits[-MAX_STILL_HOPS:]}) == 1
    if most >= MAX_REPEATS:
        assert fault == "repeated_call"
    elif stands_still:
        assert fault == "no_progress"
    elif hops >= MAX_HOPS:
        assert fault == "hop_limit"
    else:
        assert fault is None


@given(names=st.lists(st.sampled_from("abc"), min_size=MAX_STILL_HOPS, max_size=12))
def test_visits_that_find_out_nothing_always_end(names):
    """Whoever is visited: without news the limit of still hops is the last."""
    assert loop_fault({"visits": [visit(name, "same") for name in names], "hops": 0}) is not None


def test_a_fresh_turn_may_go_on():
    """Nothing was tried."""
    assert loop_fault(SupervisorState()) is None


def test_the_longest_turn_stays_below_the_recursion_limit():
    """Every hop, one reflection with its second try, one more decision, and the two last nodes."""
    assert 2 * MAX_HOPS + 2 + 1 + 2 < RECURSION_LIMIT
