"""What the state says of earlier tries."""

from langchain_core.messages import AIMessage, HumanMessage

from graphs.handoff import describe, knowledge, question
from graphs.state import Finding, SupervisorState, Visit


def finding(tool: str = "find_order", error: str | None = None, **arguments: str) -> Finding:
    return Finding(tool=tool, arguments=dict(arguments), result={"at": 1}, error=error)


def test_the_question_is_the_customers_latest_message():
    """Whatever came after it; none if there is none."""
    asked = HumanMessage("second")

    assert question({"messages": [HumanMessage("first"), AIMessage("yes"), asked, AIMessage("well")]}) is asked
    assert question({"messages": [AIMessage("hello")]}) is None
    assert question({}) is None


def test_to_know_the_same_is_to_have_asked_the_same():
    """The order of findings, their repetition and their results do not make news."""
    a, b = finding(order="1"), finding(order="2")
    state: SupervisorState = {"turn": "t", "critique": None, "findings": [a, b]}

    assert knowledge(state) == knowledge({**state, "findings": [b, a, a]})
    assert len(knowledge(state)) == 16


def test_another_question_finding_or_critique_is_news():
    """Each of them gives a visit something to go on."""
    state: SupervisorState = {"turn": "t", "critique": None, "findings": [finding(order="1")]}
    others: list[SupervisorState] = [
        {**state, "turn": "u"},
        {**state, "critique": "thin"},
        {**state, "findings": []},
        {**state, "findings": [finding(order="2")]},
        {**state, "findings": [finding(order="1", error="tool_not_found")]},
    ]

    assert len({knowledge(s) for s in (state, *others)}) == 6


def test_tries_are_told_a_line_each():
    """For the routing prompt: who, how it ended, why, and who was suggested."""
    back = Visit(specialist="a", outcome="handed_back", why="a fee", suggestion="b", knew="")
    done = Visit(specialist="b", outcome="answered", why="confidence 0.40", suggestion=None, knew="")

    assert describe([back, done]) == "- a handed back: a fee (suggests b)\n- b answered: confidence 0.40"
