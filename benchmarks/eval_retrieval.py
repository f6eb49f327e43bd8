"""How well the help centre answers real customer questions, and how often it answers what it should not.

    python -m benchmarks.eval_retrieval [messages.jsonl] [--misses]

The intents of the messages are dealt into two halves by their names. The threshold of `agents.retrieval` and the keywords of
the articles were tuned on the first half; the numbers that count are those of the second ("held out"). It has two parts: what
a specialist answers, and what a human handles (fraud, loss, refunds), where silence is right too and the supervisor does not
even ask. `retrieval_questions.jsonl` says of each Spanish question whether it was tuned on; the off-topic ones never were.
"""

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agents.demo.company import help_centre

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Question:
    text: str
    language: str
    accepted: tuple[str, ...]
    may_be_silent: bool = False
    intent: str = ""
    is_held_out: bool = True


@dataclass(frozen=True)
class Score:
    """Shares, 0 to 1; `coverage` and `precision` are of the questions that an article answers, `false_answers` of all others."""

    questions: int
    coverage: float
    precision: float
    uncovered: int
    false_answers: float
    median_ms: float


def messages(path: Path) -> list[Question]:
    labels = json.loads((DATA / "retrieval_labels.json").read_text("utf-8"))
    questions = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        accepted = labels.get(row["source"], {}).get(row["intent"])
        if accepted is not None:
            is_held_out = sha256(row["intent"].encode()).digest()[0] % 2 == 1
            questions.append(
                Question(row["text"], row["lang"], tuple(accepted), row["intent"] in labels["human"], row["intent"], is_held_out)
            )
    return questions


def written_questions() -> list[Question]:
    rows = map(json.loads, (DATA / "retrieval_questions.jsonl").read_text("utf-8").splitlines())
    return [Question(row["text"], row["lang"], tuple(row["articles"]), is_held_out=row["held_out"]) for row in rows]


def measure(questions: Iterable[Question], *, show_misses: bool = False) -> Score:
    covered = answered = right = uncovered = false = 0
    times = []
    for question in questions:
        began = time.perf_counter()
        hits = help_centre().search(question.text, question.language)
        times.append(time.perf_counter() - began)
        top = hits[0].article_id if hits else None
        if not question.accepted:
            uncovered += 1
            false += top is not None
        elif top or not question.may_be_silent:
            covered += 1
            answered += top is not None
            right += top in question.accepted
        if show_misses and top not in (question.accepted or (None,)):
            print(f"  {question.intent or question.language:45} {top or '-':26} {hits[0].score if hits else 0:.2f}  {question.text[:110]}")
    return Score(
        covered,
        answered / covered if covered else 0.0,
        right / answered if answered else 0.0,
        uncovered,
        false / uncovered if uncovered else 0.0,
        1000 * sorted(times)[len(times) // 2] if times else 0.0,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the help centre's search.")
    parser.add_argument("messages", nargs="?", type=Path, default=DATA / "messages.jsonl")
    parser.add_argument("--misses", action="store_true", help="print every question of the tuning half that went wrong")
    options = parser.parse_args()

    english, written = messages(options.messages), written_questions()
    held_out = [q for q in english if q.is_held_out]
    scores = {
        "English, tuning half": measure((q for q in english if not q.is_held_out), show_misses=options.misses),
        "English, held-out half": measure(held_out),
        "- of it for specialists": measure(q for q in held_out if not q.may_be_silent),
        "- of it for humans": measure(q for q in held_out if q.may_be_silent),
        "Spanish, tuning": measure((q for q in written if q.accepted and not q.is_held_out), show_misses=options.misses),
        "Spanish, held out": measure(q for q in written if q.accepted and q.is_held_out),
        "off topic": measure(q for q in written if not q.accepted),
    }

    print(f"{'':24}{'questions':>10}{'coverage':>10}{'precision':>10}{'uncovered':>11}{'false answers':>15}{'median ms':>11}")
    for name, score in scores.items():
        print(
            f"{name:24}{score.questions:10}{score.coverage:10.1%}{score.precision:10.1%}"
            f"{score.uncovered:11}{score.false_answers:15.1%}{score.median_ms:11.2f}"
        )
    unseen, off_topic = scores["English, held-out half"], scores["off topic"]
    met = unseen.precision >= 0.85 and unseen.coverage >= 0.7 and off_topic.false_answers <= 0.05
    print(
        "aims met" if met else "aims missed: precision >= 85 %, coverage >= 70 % (English, held-out half), false answers <= 5 % (off topic)"
    )
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
