"""Trains the offline router's weights: `python -m benchmarks.train_router` (needs scikit-learn, a development dependency)."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from agents.models.offline.features import features
from agents.models.offline.weights import Weights

DATA = Path(__file__).parent / "data"
WEIGHTS = Path(__file__).parents[1] / "agents" / "models" / "offline" / "weights.json"
INVERSE_REGULARISATION = 0.1
FEWEST_ROWS = 2
"""A word that one row alone has says nothing about the next."""
DECIMALS = 3
CALIBRATION_FOLDS = 5

Row = dict[str, Any]


def read_rows(name: str) -> list[Row]:
    """The rows of `benchmarks/data/<name>`."""
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def digest(rows: list[Row]) -> str:
    """What `train` sees of the rows, as a short hash: it changes with a row, a label, the lexicon or a feature."""
    seen = [(row["label"], sorted(features(row["text"]).items())) for row in rows]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]


def train(rows: list[Row]) -> Weights:
    """Weights of a logistic regression over the features of `rows`; the same rows give the same weights.

    The regression is held back so much that its probabilities are too small. They are sharpened by the factor that
    fits best where each row is judged by a model that saw no row of its intent.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict

    seen = [features(row["text"]) for row in rows]
    count = Counter(feature for found in seen for feature in found)
    vectors = DictVectorizer()
    table = vectors.fit_transform([{feature: value for feature, value in found.items() if count[feature] >= FEWEST_ROWS} for found in seen])
    labels = [row["label"] for row in rows]
    model = LogisticRegression(C=INVERSE_REGULARISATION, max_iter=1000).fit(table, labels)
    unseen = cross_val_predict(
        model, table, labels, groups=[row["intent"] for row in rows], cv=GroupKFold(CALIBRATION_FOLDS), method="decision_function"
    )
    sharper = _sharpest([dict(zip(model.classes_, scores, strict=True)) for scores in unseen.tolist()], labels)
    weights = {
        feature: tuple(round(float(weight) * sharper, DECIMALS) for weight in model.coef_[:, column])
        for feature, column in vectors.vocabulary_.items()
    }
    return Weights(
        desks=tuple(str(desk) for desk in model.classes_),
        bias=tuple(round(float(bias) * sharper, DECIMALS) for bias in model.intercept_),
        weights={feature: row for feature, row in weights.items() if any(row)},
        inputs=digest(rows),
    )


def _sharpest(scores: list[dict[str, float]], labels: list[str]) -> float:
    """The factor under which the scores make the labels most likely."""

    def surprise(factor: float) -> float:
        likelihoods = (
            math.exp(factor * own[label]) / sum(math.exp(factor * score) for score in own.values())
            for own, label in zip(scores, labels, strict=True)
        )
        return -sum(math.log(likelihood) for likelihood in likelihoods)

    return min((step / 10 for step in range(5, 41)), key=surprise)


def main() -> None:
    """Train on all committed English rows and write the weights beside the router."""
    weights = train(read_rows("messages.jsonl"))
    text = json.dumps(weights.as_json(), ensure_ascii=False, separators=(",", ":"))
    WEIGHTS.write_text(text.replace('],"', '],\n"') + "\n", "utf-8")
    print(f"{WEIGHTS.name}: {len(weights.weights)} features, {WEIGHTS.stat().st_size / 1000:.0f} kB, inputs {weights.inputs}")


if __name__ == "__main__":
    main()
