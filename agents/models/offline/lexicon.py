"""The concepts of `lexicon.toml`, compiled: what a message speaks of, in either language."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

DESKS = ("billing_support", "general_support", "technical_support")
"""The desks that concepts belong to; a human's are the wishes."""


class Lexicon:
    """Concepts as patterns over folded text (`words.fold`).

    Args:
        names: Patterns that others use as `{name}`.
        strength: Concepts by how much they count for their desk; those not named count 1.
        sections: Per section (`wishes` or a desk) its concepts, each with patterns of which one has to match.
    """

    def __init__(
        self, names: Mapping[str, str], strength: Mapping[str, list[str]], sections: Mapping[str, Mapping[str, list[str]]]
    ) -> None:
        self._strength = {concept: float(weight) for weight, concepts in strength.items() for concept in concepts}
        self._sections = {
            section: {concept: _any(patterns, names) for concept, patterns in concepts.items()} for section, concepts in sections.items()
        }

    @classmethod
    @cache
    def bundled(cls) -> Lexicon:
        """The lexicon that comes with this package, compiled once."""
        sections = tomllib.loads(files("agents.models.offline").joinpath("lexicon.toml").read_text("utf-8"))
        return cls(sections.pop("names"), sections.pop("strength"), sections)

    def has(self, wish: str, folded: str) -> bool:
        """Whether the text expresses `wish`, a concept of the section `wishes`."""
        return self._sections["wishes"][wish].search(folded) is not None

    def concepts(self, section: str, folded: str) -> list[str]:
        """The concepts of `section` that the text speaks of."""
        return [concept for concept, pattern in self._sections[section].items() if pattern.search(folded)]

    def strength(self, concept: str) -> float:
        """How much `concept` counts for its desk."""
        return self._strength.get(concept, 1.0)


def _any(patterns: list[str], names: Mapping[str, str]) -> re.Pattern[str]:
    joined = "|".join(patterns)
    for name, pattern in names.items():
        joined = joined.replace(f"{{{name}}}", pattern)
    return re.compile(joined)
