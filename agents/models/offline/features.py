"""A message as weighted features: its concepts, what they amount to for each desk, and its words."""

from __future__ import annotations

from itertools import pairwise

from agents.models.offline import wishes
from agents.models.offline.lexicon import DESKS, Lexicon
from agents.models.offline.words import fold, words

CONCEPT = "c:"
"""How the names of features begin that say what a message speaks of."""
_WORD_WEIGHT = 0.4


def concept_features(text: str) -> dict[str, float]:
    """Features that do not depend on the language: `c:<concept>`, and `v:<desk>` for the desk's share of the concepts, 0 to 1."""
    folded, lexicon = fold(text), Lexicon.bundled()
    found = {desk: lexicon.concepts(desk, folded) for desk in DESKS}
    votes = {desk: sum(map(lexicon.strength, concepts)) for desk, concepts in found.items()}
    features = {f"{CONCEPT}{concept}": 1.0 for concepts in found.values() for concept in concepts}
    features |= {f"v:{desk}": count / sum(votes.values()) for desk, count in votes.items() if count}
    if wishes.needs_human(text):
        features[f"{CONCEPT}needs_human"] = 1.0
    return features


def features(text: str) -> dict[str, float]:
    """All features of a message; the words count less, for they say little about a question nobody has asked before."""
    said = [word[:6] for word in words(text)]
    pairs = [f"{first} {second}" for first, second in pairwise(said)]
    return {f"w:{word}": _WORD_WEIGHT for word in (*said, *pairs)} | concept_features(text)
