"""Who should act on a message: rules where a rule is safe, learned weights everywhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from agents.models.offline import wishes
from agents.models.offline.conversation import Turn
from agents.models.offline.features import CONCEPT, features
from agents.models.offline.weights import Weights
from agents.models.offline.words import words

HUMAN = "human"
BY_RULE = 0.95
"""How often a rule is right, measured (ADR-0007)."""
BY_CONTEXT = 0.8
NEXT_BEST = 0.6
"""Most confidence in a desk that is only the next best."""
_NEW_SUBJECT = 0.6
_LONGEST_FOLLOW_UP = 8
_FOLLOWS_UP = re.compile(
    r"^(?:y|e|pero|entonces|and|but|what about|how about|or|so|then|also|ok(?:ay)?|si|yes|yeah|no|sure|claro|dale|vale|why|por que)\b"
    r"|\b(?:first|second|third|last|other|that|it|one|primer[ao]|segund[ao]|tercer[ao]|ultim[ao]|otr[ao]|es[aeo]|ambas|both)\b"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """A choice, how likely it is right (0 to 1), why, and the next best, best first."""

    specialist: str
    confidence: float
    reason: str
    alternatives: tuple[str, ...]

    def as_json(self) -> str:
        """The decision as the routing schema has it."""
        decision = {
            "specialist": self.specialist,
            "confidence": self.confidence,
            "reason": self.reason,
            "alternatives": list(self.alternatives),
        }
        return json.dumps(decision, ensure_ascii=False)


class Router:
    """Routes messages in Spanish and English; the same message in the same conversation always goes the same way.

    Args:
        weights: Decides where no rule does.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    @classmethod
    @cache
    def bundled(cls) -> Router:
        """The router with the weights that come with this package."""
        return cls(Weights.bundled())

    def decide(self, turn: Turn, offered: Sequence[str]) -> Decision:
        """Choose among `offered`; where the favourite is not offered, the next best desk with at most `NEXT_BEST`.

        Raises:
            ValueError: Nobody is offered.
        """
        if not offered:
            raise ValueError("the routing schema offers nobody")
        likely, reason = self._likely(turn)
        favourite = max(likely, key=lambda name: likely[name])
        if favourite not in offered:
            likely, reason = _without(favourite, likely, offered), f"{reason}; {favourite} is not offered"
        ranked = sorted(offered, key=lambda name: -likely.get(name, 0.0))
        return Decision(ranked[0], round(likely.get(ranked[0], 0.0), 2), reason, tuple(ranked[1:4]))

    def _likely(self, turn: Turn) -> tuple[dict[str, float], str]:
        """How likely each is the right one, and why."""
        text = turn.question
        found = features(text)
        learned = self._weights.probabilities(found)
        if turn.refunded_order:
            return _mostly("billing_support", BY_RULE, learned), "a refund of an order that is named"
        if wishes.needs_human(text):
            return _mostly(HUMAN, BY_RULE, learned), "a wish that only a human may settle"
        if wishes.small_talk(text):
            return _mostly("general_support", BY_RULE, learned), "small talk"
        previous = turn.previous_answer
        if previous is not None and previous.name and _is_follow_up(text):
            has_subject = any(feature.startswith(CONCEPT) for feature in found)
            if not has_subject or max(learned.values()) < _NEW_SUBJECT:
                return _mostly(previous.name, BY_CONTEXT, learned), "a follow-up to the answer before"
        return learned, "the words of the message"


def _mostly(favourite: str, confidence: float, learned: dict[str, float]) -> dict[str, float]:
    """`favourite` with `confidence`, the others in the order of the learned probabilities."""
    rest = {name: p for name, p in learned.items() if name != favourite}
    scale = (1.0 - confidence) / (sum(rest.values()) or 1.0)
    return {favourite: confidence} | {name: p * scale for name, p in rest.items()}


def _without(favourite: str, likely: dict[str, float], offered: Sequence[str]) -> dict[str, float]:
    """The desks that are left share what `favourite` had, up to `NEXT_BEST`; every desk can search the help centre."""
    rest = {name: p for name, p in likely.items() if name != favourite and name in offered and name != HUMAN}
    scale = NEXT_BEST / (sum(rest.values()) or 1.0)
    return {name: p * scale for name, p in rest.items()}


def _is_follow_up(text: str) -> bool:
    said = words(text)
    return len(said) <= _LONGEST_FOLLOW_UP and (len(said) <= 2 or _FOLLOWS_UP.search(" ".join(said)) is not None)
