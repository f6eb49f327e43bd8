"""The learned part of the router: a linear model over the features of a message, scored in plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Weights:
    """A multinomial logistic regression.

    Args:
        desks: The classes.
        bias: One number per class.
        weights: Per feature one number per class; a feature that is not there weighs nothing.
        inputs: Digest of what it was trained on; a test compares it with the committed data.
    """

    desks: tuple[str, ...]
    bias: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    inputs: str = ""

    @classmethod
    @cache
    def bundled(cls) -> Weights:
        """The weights that come with this package, read once."""
        return cls.from_json(json.loads(files("agents.models.offline").joinpath("weights.json").read_bytes()))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Weights:
        """The weights as `as_json` wrote them."""
        weights = {feature: tuple(row) for feature, row in data["weights"].items()}
        return cls(tuple(data["desks"]), tuple(data["bias"]), weights, data["inputs"])

    def as_json(self) -> dict[str, Any]:
        """Plain values, features sorted."""
        return {
            "inputs": self.inputs,
            "desks": list(self.desks),
            "bias": list(self.bias),
            "weights": {feature: list(self.weights[feature]) for feature in sorted(self.weights)},
        }

    def probabilities(self, features: Mapping[str, float]) -> dict[str, float]:
        """How likely each desk is the right one; they add up to 1."""
        scores = list(self.bias)
        for feature, value in features.items():
            for desk, weight in enumerate(self.weights.get(feature, ())):
                scores[desk] += value * weight
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        return {desk: power / sum(powers) for desk, power in zip(self.desks, powers, strict=True)}
