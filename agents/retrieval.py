"""Ranked search over a folder of help-centre articles: offline, bilingual, and silent about what no article covers (ADR-0008)."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import snowballstemmer

# Words that say nothing about what a question is about. Folded, in the customer's forms.
_STOP_WORDS = {
    "en": """
        a about actually after again ago all already also am an and another any anybody anyone anything appreciate appreciated are
        as ask asking assist assistance assisting at be because been before being bit bloody but by bye can come could currently
        damn dear definitely did do does doing don done else even ever everything explain few figure find for from fucking gave get
        gets getting give given go goddamn goes going gone gonna goodbye got guide had happen happened happening has have having
        hello help her here hes hey hi him his how however i id if ill im in inform informing interested into is it its ive just
        keep keeps know let like ll look made make makes many may maybe me mean might mine more much must my need needed needs
        notify notifying now of off ok okay on one only or our out over people please pls plz possible put question quick re really
        recently regards right s say see seeing seem seems several shes should show so some somebody someone something sort still
        such supposed sure t take tell than thank thanks that thats the their them then there these they theyre thing things think
        this those though thought thoughtful through thx to today too tried try trying under up us use using ve very via walk wanna
        want wanted wants was way we well went were weve what whats when where which while who whom why will with without wondering
        would yet you your youre yours
    """,
    "es": """
        a acerca actualmente ademas adios ahi ahora ahorita al algo alguien algun alguna alguno algunos alla alli ante antes aqui
        asi aun aunque ayuda ayudame ayudar ayudarme bien buenas bueno buenos cada chau como con consulta cual cuales cualquier
        cuando cuantas cuanto cuantos da dar de debe deberia debo decir decirme del desde deseo dias dime donde dos duda el ella
        ello ellos en entonces entre era eres es esa ese eso esos esta estaba estan estar estas este esto estos estoy favor fue
        gracias gustaria ha haber habia hace hacen hacer haces hago han has hasta hay haya he hola hoy informacion intentar intento
        la las le les lo los mas me mi mia mio mira mis mismo mucha muchas mucho muchos muy nada necesitaria necesito noches nos
        nosotros nuestro o ocurre os otra otro oye para pasa pasado paso pero poco podeis podria podrias por porfa porfavor porque
        pregunta preguntar pueda puede pueden puedes puedo pues que queria quien quiero quisiera realmente recien resulta saber
        saberlo saludos se sea segun ser si sido siempre sigue sirve sobre solo son soy su sus tal tambien tan tanto tardes te
        tendria tener tengo ti tiene tienen tienes toda todas todavia todo todos tras tratando trato tu tus un una uno unos usar va
        vale vamos ver vez vosotros voy vuestra vuestro y ya yo
    """,
}
# All ways to say no count as one word: "payment I did not make" is another question than "payment I made".
_NEGATIONS = """
    cannot cant couldnt didnt doesnt dont hasnt havent isnt never ni no not nothing nunca shouldnt sin unable wasnt werent wont wouldnt
"""
_NO = "no"
_STEMMERS = {"en": "english", "es": "spanish"}
_WORD = re.compile(r"[a-z]+")
_WITH_DIGIT = re.compile(r"\S*\d\S*")  # order numbers, amounts and dates belong to the customer, not to the question
_TITLE, _KEYWORDS, _BODY = 4.0, 2.0, 1.0
_CANDIDATES = 10
# Tuned on one half of the labelled questions (ADR-0008).
_BODY_SHARE = 0.3  # a word that only the body has says less about what the article is about
_SHORTEST_CORRECTED = 5
# One sentence of a long message is often the question; one with a smaller share of its informative words is not.
_SENTENCE_END = re.compile(r"(?<=[.!?;\n])\s+")
_SENTENCE_SHARE = 0.2


class ArticleInvalid(ValueError):
    """An article file lacks its front matter, or repeats another's id."""


@dataclass(frozen=True, slots=True)
class Article:
    """One article in one language.

    Args:
        id: The same in every language.
        language: `en` or `es`.
        title: What it answers.
        category: The desk it belongs to.
        keywords: Other ways in which customers say it.
        text: Markdown; the first paragraph answers the question.
    """

    id: str
    language: str
    title: str
    category: str
    keywords: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """An article that covers the question, in the customer's language where it exists in it.

    Args:
        score: 0 to 1: how much of what the question is about the article covers.
    """

    article_id: str
    title: str
    text: str
    score: float
    language: str


def read_article(path: Path, language: str) -> Article:
    """The article in a Markdown file whose front matter, between two lines of `---`, has `id`, `title`, `category` and `keywords`.

    `keywords:` is followed by one line `- phrase` each; all other keys have their value on their own line.

    Raises:
        ArticleInvalid: The front matter or one of its keys is missing.
    """
    match = re.fullmatch(r"---\n(.*?)\n---\n(.*)", path.read_text("utf-8"), re.DOTALL)
    if match is None:
        raise ArticleInvalid(f"{path}: no front matter between two lines of ---")
    lines = match[1].splitlines()
    keywords = tuple(line[2:].strip() for line in lines if line.startswith("- "))
    head = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines if not line.startswith("- "))}
    missing = [key for key in ("id", "title", "category") if not head.get(key)] + ([] if keywords else ["keywords"])
    if missing:
        raise ArticleInvalid(f"{path}: the front matter lacks {', '.join(missing)}")
    return Article(head["id"], language, head["title"], head["category"], keywords, match[2].strip())


class HelpCentre:
    """Articles and the index over them.

    Safe to share between threads: searches take turns. A search is CPU only, about 0.5 ms for a chat message and 7 ms for
    2,000 characters, so it may run on the event loop.

    Args:
        articles: All articles; an id may occur once a language.
        threshold: Least score of a hit. Tuned on one half of a labelled set, measured on the other (ADR-0008).

    Raises:
        ArticleInvalid: Two articles share id and language, or a language has no stemmer.
    """

    def __init__(self, articles: Iterable[Article], *, threshold: float = 0.5) -> None:
        self._threshold = threshold
        self._articles: dict[tuple[str, str], Article] = {}
        for article in articles:
            if (article.language, article.id) in self._articles:
                raise ArticleInvalid(f"two articles in {article.language} have the id {article.id}")
            self._articles[article.language, article.id] = article
        self._version = hashlib.sha256(repr(sorted(self._articles.items())).encode()).hexdigest()[:16]
        by_language: dict[str, list[Article]] = {}
        for article in self._articles.values():
            by_language.setdefault(article.language, []).append(article)
        self._lock = threading.Lock()
        self._indexes = {language: _Index(language, members) for language, members in by_language.items()}

    @classmethod
    def from_folder(cls, folder: Path) -> HelpCentre:
        """The articles of `<folder>/<language>/*.md`.

        Raises:
            ArticleInvalid: A file is no article, or there is none at all.
        """
        articles = [read_article(path, path.parent.name) for path in sorted(folder.glob("*/*.md"))]
        if not articles:
            raise ArticleInvalid(f"{folder}: no articles; expected <language>/<id>.md")
        return cls(articles)

    @property
    def version(self) -> str:
        """Changes with any article; 16 hex digits."""
        return self._version

    @property
    def articles(self) -> tuple[Article, ...]:
        """All articles, by language and id."""
        return tuple(self._articles.values())

    def search(self, query: str, language: str, limit: int = 3) -> list[Hit]:
        """The articles that cover `query`, best first; empty when none does.

        Articles in `language` are searched first, those of other languages only when it has nothing.
        """
        for tried in sorted(self._indexes, key=lambda other: other != language):
            with self._lock:
                found = self._indexes[tried].search(query, self._threshold, limit)
            if found:
                return [self._hit(article, score, language) for article, score in found]
        return []

    def _hit(self, article: Article, score: float, language: str) -> Hit:
        shown = self._articles.get((language, article.id), article)
        return Hit(shown.id, shown.title, shown.text, round(score, 3), shown.language)


class _Index:
    """The articles of one language in an in-memory FTS5 table. Not thread-safe.

    bm25 chooses the candidates; what a customer might have said (title and keywords) decides between those that are close;
    coverage decides whether any of them is an answer.
    """

    def __init__(self, language: str, articles: list[Article]) -> None:
        if language not in _STEMMERS:
            raise ArticleInvalid(f"no stemmer for the language {language!r}; there are {', '.join(_STEMMERS)}")
        self._stem = lru_cache(8192)(snowballstemmer.stemmer(_STEMMERS[language]).stemWord)
        self._stop_words = frozenset(_STOP_WORDS[language].split())
        self._negations = frozenset(_NEGATIONS.split())
        self._articles = articles
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute("CREATE VIRTUAL TABLE article USING fts5(title, keywords, body, tokenize = 'ascii')")
        self._phrases: list[list[frozenset[str]]] = []
        self._head: list[frozenset[str]] = []
        self._all: list[frozenset[str]] = []
        for article in articles:
            columns = [list(self._terms(text)) for text in (article.title, "; ".join(article.keywords), article.text)]
            self._db.execute("INSERT INTO article VALUES (?, ?, ?)", [" ".join(column) for column in columns])
            self._phrases.append([frozenset(self._terms(phrase)) for phrase in (article.title, *article.keywords)])
            self._head.append(frozenset(columns[0] + columns[1]))
            self._all.append(self._head[-1] | frozenset(columns[2]))
        count = len(articles)
        frequency = Counter(term for terms in self._all for term in terms)
        self._idf = {term: math.log(1 + (count - n + 0.5) / (n + 0.5)) for term, n in frequency.items()}
        self._idf_of_unknown = math.log(1 + (count - 0.5) / 1.5)
        self._neighbours = _deletions(self._idf)

    def search(self, query: str, threshold: float, limit: int) -> list[tuple[Article, float]]:
        parts = [self._query_terms(part) for part in (query, *_SENTENCE_END.split(query))]
        terms = parts[0]
        known = [term for term in terms if term in self._idf]
        if not known:
            return []
        rows = self._db.execute(
            "SELECT rowid - 1, -bm25(article, ?, ?, ?) AS strength FROM article WHERE article MATCH ? ORDER BY strength DESC LIMIT ?",
            (_TITLE, _KEYWORDS, _BODY, " OR ".join(f'"{term}"' for term in known), _CANDIDATES),
        ).fetchall()
        asked = [part for part in parts if len(part) >= _SENTENCE_SHARE * len(terms)]
        found = []
        for position, strength in rows:
            coverage = max(self._coverage(position, part) for part in asked)
            rank = strength / rows[0][1] + max(self._likeness(position, part) for part in asked) + coverage
            found.append((rank, position, coverage))
        found.sort(reverse=True)
        return [(self._articles[position], coverage) for _, position, coverage in found if coverage >= threshold][:limit]

    def _query_terms(self, text: str) -> frozenset[str]:
        return frozenset(self._corrected(term) for term in self._terms(text))

    def _weight(self, term: str) -> float:
        return self._idf.get(term, self._idf_of_unknown)

    def _coverage(self, position: int, terms: frozenset[str]) -> float:
        """The share of the terms that the article has, by weight; less for those that only its body has."""
        head, everything = self._head[position], self._all[position]
        matched = terms & everything
        # One word in common is a coincidence, unless it is the whole question and something that customers do ask.
        if len(matched - {_NO}) < 2 and terms not in self._phrases[position]:
            return 0.0
        covered = sum(self._weight(t) * (1.0 if t in head else _BODY_SHARE) for t in matched)
        return covered / sum(map(self._weight, terms))

    def _likeness(self, position: int, terms: frozenset[str]) -> float:
        """How much the query is like the most similar phrase of the article, 0 to 1 (weighted Dice)."""
        wanted = sum(map(self._weight, terms))
        return max(
            2 * sum(map(self._weight, terms & phrase)) / (wanted + sum(map(self._weight, phrase))) for phrase in self._phrases[position]
        )

    def _terms(self, text: str) -> Iterator[str]:
        folded = unicodedata.normalize("NFKD", text.lower().replace("'", "").replace("’", ""))
        plain = "".join(c for c in folded if not unicodedata.combining(c))
        for word in _WORD.findall(_WITH_DIGIT.sub(" ", plain)):
            if word not in self._stop_words:
                yield _NO if word in self._negations else self._stem(word)

    def _corrected(self, term: str) -> str:
        """The term, or the commonest one of the articles that is one typing error away from it."""
        if term in self._idf or len(term) < _SHORTEST_CORRECTED:
            return term
        near = {candidate for form in _forms(term) for candidate in self._neighbours.get(form, ())}
        return min(near, key=lambda candidate: (self._idf[candidate], candidate), default=term)


def _forms(term: str) -> Iterator[str]:
    """The term, and the term with any one letter left out: two terms one error apart share a form."""
    yield term
    for i in range(len(term)):
        yield term[:i] + term[i + 1 :]


def _deletions(terms: Iterable[str]) -> dict[str, list[str]]:
    neighbours: dict[str, list[str]] = {}
    for term in sorted(terms):
        if len(term) >= _SHORTEST_CORRECTED - 1:
            for form in _forms(term):
                neighbours.setdefault(form, []).append(term)
    return neighbours
