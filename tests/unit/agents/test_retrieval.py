"""The help centre's search: what it finds, and that it is silent about what no article covers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agents.demo.company import help_centre
from agents.retrieval import Article, ArticleInvalid, HelpCentre, read_article


def article(id="pin", language="en", title="Changing your PIN", keywords=("forgot my pin",), text="Open Card, then Change PIN."):
    return Article(id, language, title, "technical_support", keywords, text)


@pytest.mark.parametrize(
    ("question", "language", "expected"),
    [
        ("How do I activate the card that came today?", "en", "activate-card"),
        ("¿Dónde están mis facturas?", "es", "invoices"),
        ("me cobraron dos veces", "es", "double-charge"),
        ("my virtual card was declined", "en", "virtual-card-not-working"),
    ],
)
def test_finds_the_article_that_answers(question, language, expected):
    """The first hit is the article about the question, in the customer's language."""
    first = help_centre().search(question, language)[0]

    assert (first.article_id, first.language) == (expected, language)


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("what is the capital of Peru", "en"),
        ("how do I cook rice", "en"),
        ("escribe un poema", "es"),
        ("recommend a restaurant in Madrid", "en"),
        ("¿quién descubrió América?", "es"),
        ("hello, can you help me please?", "en"),
        ("", "en"),
        ("no", "es"),
        ("¿y la segunda?", "es"),
        ("how do I open a can", "en"),
        ('" OR body:*', "en"),
    ],
)
def test_is_silent_when_no_article_covers_the_question(question, language):
    """What the company does not do finds nothing, not the nearest article."""
    assert help_centre().search(question, language) == []


def test_accents_case_and_one_typing_error_do_not_matter():
    """Customers type fast: capitals, missing accents and a wrong letter are forgiven."""
    assert help_centre().search("DESCARGAR FACTUTA", "es")[0].article_id == "invoices"
    assert help_centre().search("verificacion de identidad", "es")[0].article_id == "verify-identity"


def test_a_question_in_the_other_language_gets_the_article_in_the_customers():
    """Nothing in Spanish matches, the English index does, and the Spanish text is returned."""
    first = help_centre().search("tap to pay declined", "es")[0]

    assert (first.article_id, first.language) == ("contactless", "es")


def test_an_article_that_exists_in_one_language_only_is_still_found():
    """Without a translation the article comes as it is, and the hit says in which language."""
    centre = HelpCentre([article(), article("fees", "es", "Comisiones", ("cuánto cuesta",), "Nada.")])

    assert [hit.language for hit in centre.search("forgot my pin", "es")] == ["en"]


def test_the_score_is_the_share_of_the_question_that_is_covered():
    """A whole match scores 1; an unknown word lowers it."""
    centre = HelpCentre([article(), article("fees", title="Fees", keywords=("what it costs",), text="Nothing.")], threshold=0.1)

    assert centre.search("change pin", "en")[0].score == 1.0
    assert 0.1 < centre.search("change pin zanzibar", "en")[0].score < 1.0


def test_the_question_may_be_one_sentence_of_a_long_message():
    """Sentences about other things do not hide the question."""
    message = "We moved to Lisbon with three cats last spring. How do I change my PIN? Kind regards."

    assert help_centre().search(message, "en")[0].article_id == "change-pin"


def test_no_more_than_the_limit_is_returned():
    """A specialist reads a few articles, not all."""
    hits = help_centre().search("card payment fee", "en", limit=2)

    assert len(hits) == 2
    assert all(0.0 < hit.score <= 1.0 for hit in hits)


def test_threads_may_share_one_help_centre():
    """Many threads at once get what one thread gets."""
    questions = ["change my pin", "transfer fee", "double charge", "track my order"] * 10
    alone = [help_centre().search(question, "en") for question in questions]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: help_centre().search(question, "en"), questions))

    assert together == alone


def test_a_team_can_point_it_at_its_own_folder(tmp_path):
    """`<language>/<id>.md` with front matter is all it takes."""
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "parking.md").write_text(
        "---\nid: parking\ntitle: Parking\ncategory: general_support\nkeywords:\n- where can I park\n- car park\n---\nBehind the house.\n"
    )

    hit = HelpCentre.from_folder(tmp_path).search("where may I park my car?", "en")[0]

    assert (hit.article_id, hit.title, hit.text) == ("parking", "Parking", "Behind the house.")


@pytest.mark.parametrize("content", ["no front matter", "---\nid: x\ntitle: T\n---\nText.\n"])
def test_a_file_that_is_no_article_is_refused_by_name(tmp_path, content):
    """The error names the file, so that its author can find it."""
    path = tmp_path / "broken.md"
    path.write_text(content)

    with pytest.raises(ArticleInvalid, match=r"broken\.md"):
        read_article(path, "en")


def test_an_empty_folder_a_repeated_id_and_an_unknown_language_are_refused(tmp_path):
    """A help centre that could not work does not start."""
    with pytest.raises(ArticleInvalid, match="no articles"):
        HelpCentre.from_folder(tmp_path)
    with pytest.raises(ArticleInvalid, match="have the id pin"):
        HelpCentre([article(), article()])
    with pytest.raises(ArticleInvalid, match="no stemmer"):
        HelpCentre([article(language="tlh")])
