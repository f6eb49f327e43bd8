"""What one specialist is: a frozen description that the supervisor, the runner and the contract test read."""

from dataclasses import dataclass
from importlib.resources import files

from agents.tools.base import Tool

QUICK = 5.0
"""Timeout of a specialist whose questions are answered from one look-up, seconds."""
COMPLEX = 15.0
"""Timeout of a specialist who looks several things up, or prepares an action, seconds."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One specialist.

    Args:
        name: File name, node name, model role and metric label at once; `[a-z_]+`.
        description: What it is for, under 120 characters. The supervisor's model chooses by this line.
        prompt: Its instructions, from `agents/prompts/<name>.md`.
        tools: What it may do, in the order in which the model is told.
        categories: The kinds of question that are its own.
        out_of_scope: What it must hand back, though it sounds like its own.
        escalate_when: When it must call a human, as a sentence the model reads.
        timeout: Longest it may work on one message, seconds; an answer that has begun to be read by then may go on.
        max_steps: Most model calls for one message.
    """

    name: str
    description: str
    prompt: str
    tools: tuple[Tool, ...]
    categories: tuple[str, ...]
    out_of_scope: tuple[str, ...]
    escalate_when: str
    timeout: float = COMPLEX
    max_steps: int = 6


def load_prompt(name: str) -> str:
    """The text of `agents/prompts/<name>.md`.

    Raises:
        FileNotFoundError: There is no such prompt.
    """
    return files("agents").joinpath("prompts", f"{name}.md").read_text("utf-8").strip()
