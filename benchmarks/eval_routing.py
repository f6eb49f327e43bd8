"""Measures the offline router: `python -m benchmarks.eval_routing` (needs scikit-learn); fails below 0.75.

English is measured by cross-validation over intents: each message is routed with weights that saw no message of its
intent. Spanish is measured with the committed weights, which saw no Spanish at all.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from itertools import pairwise

from langchain_core.messages import HumanMessage

from agents.models.offline.conversation import Turn
from agents.models.offline.lexicon import DESKS, Lexicon
from agents.models.offline.router import HUMAN, Decision, Router
from agents.models.offline.weights import Weights
from agents.models.offline.wishes import needs_human
from agents.models.offline.words import fold
from benchmarks.train_router import Row, read_rows, train

FOLDS = 8
SEED = 20261121
REQUIRED = 0.75
OFFERED = (*DESKS, HUMAN)
BINS = (0.0, 0.4, 0.55, 0.7, 0.85, 1.01)


def route(router: Router, row: Row) -> Decision:
    """What the offline model decides on the row's message, without a conversation around it."""
    return router.decide(Turn.read([HumanMessage(row["text"])]), OFFERED)


def cross_validated(rows: Sequence[Row]) -> list[Decision]:
    """Decisions on `rows`, each by a router whose weights saw no row of the same intent."""
    intents = sorted({row["intent"] for row in rows})
    random.Random(SEED).shuffle(intents)
    fold = {intent: number % FOLDS for number, intent in enumerate(intents)}
    routers = [Router(train([row for row in rows if fold[row["intent"]] != number])) for number in range(FOLDS)]
    return [route(routers[fold[row["intent"]]], row) for row in rows]


def was_read(intent: str) -> bool:
    """Whether misses of this intent were read while the lexicon was written; the other half tells what that did."""
    return hashlib.md5(intent.encode(), usedforsecurity=False).digest()[-1] % 2 == 0


def plain_rules(row: Row) -> str:
    """The baseline: a human's wishes by rule, else the desk with the most concepts, each counting the same."""
    if needs_human(row["text"]):
        return HUMAN
    folded = fold(row["text"])
    return max(("general_support", "billing_support", "technical_support"), key=lambda desk: len(Lexicon.bundled().concepts(desk, folded)))


def report(title: str, rows: Sequence[Row], chosen: Sequence[str]) -> float:
    """Print the share of right choices per desk and overall; the latter is returned."""
    right = [choice == row["label"] for choice, row in zip(chosen, rows, strict=True)]
    cells = []
    for desk in OFFERED:
        own = [ok for ok, row in zip(right, rows, strict=True) if row["label"] == desk]
        cells.append(f"{sum(own) / len(own):>10.3f}" if own else f"{'-':>10}")
    overall = sum(right) / len(right)
    print(f"{title:<36}{len(rows):>6}{''.join(cells)}{overall:>10.3f}")
    return overall


def report_calibration(rows: Sequence[Row], decisions: Sequence[Decision]) -> None:
    """Print, per band of confidence, how sure the router was and how often it was right (held out)."""
    print("\nconfidence, held out:  band  rows  mean confidence  right")
    gap = 0.0
    for low, high in pairwise(BINS):
        band = [(d.confidence, d.specialist == row["label"]) for d, row in zip(decisions, rows, strict=True) if low <= d.confidence < high]
        if band:
            sure, right = (sum(column) / len(band) for column in zip(*band, strict=True))
            gap += abs(sure - right) * len(band) / len(rows)
            print(f"{f'{low:.2f}-{min(high, 1.0):.2f}':>27}{len(band):>6}{sure:>17.2f}{right:>7.2f}")
    print(f"expected calibration error {gap:.3f}")


def main() -> int:
    """Print the table; the result is the exit code."""
    english, spanish = read_rows("messages.jsonl"), read_rows("routing_es.jsonl")
    bundled = Router(Weights.bundled())
    print(f"{'':<36}{'rows':>6}", *(f"{desk.removesuffix('_support'):>10}" for desk in (*OFFERED, "overall")), sep="")
    decisions = cross_validated(english)
    chosen = [decision.specialist for decision in decisions]
    unread = [number for number, row in enumerate(english) if not was_read(row["intent"])]
    scores = [
        report(f"English, {FOLDS} folds over intents", english, chosen),
        report("  of these, intents never read", [english[i] for i in unread], [chosen[i] for i in unread]),
        report("Spanish, committed weights", spanish, [route(bundled, row).specialist for row in spanish]),
    ]
    for title, rows in (("English, plain rules (baseline)", english), ("Spanish, plain rules (baseline)", spanish)):
        report(title, rows, [plain_rules(row) for row in rows])
    report_calibration(english, decisions)
    return 0 if min(scores) >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
