"""The demo company is consistent with itself."""

from collections import Counter
from datetime import timedelta

import pydantic
import pytest

from agents.demo.company import company, help_centre


def test_every_record_belongs_to_an_account():
    """No order and no invoice of a customer who does not exist; ids are unique."""
    ids = {account.id for account in company().accounts}

    assert {record.customer_id for record in (*company().orders, *company().invoices)} <= ids
    for records in (company().accounts, company().orders, company().invoices):
        assert max(Counter(record.id for record in records).values()) == 1


def test_totals_are_the_sums_of_their_lines():
    """An order's total is items and delivery, an invoice's amount its lines."""
    for order in company().orders:
        assert order.total_eur == pytest.approx(sum(i.quantity * i.price_eur for i in order.items) + order.delivery_eur)
    for invoice in company().invoices:
        assert invoice.amount_eur == pytest.approx(sum(line.amount_eur for line in invoice.lines))


def test_records_follow_the_rules_of_the_articles():
    """Invoices are due after 14 days; standard delivery is free from 50 euros."""
    assert all(invoice.due_on - invoice.issued_on == timedelta(days=14) for invoice in company().invoices)
    for order in company().orders:
        items = sum(i.quantity * i.price_eur for i in order.items)
        assert order.delivery_eur == {"standard": 0.0 if items >= 50 else 3.9, "express": 8.9, "pickup_point": 1.9}[order.delivery_option]


def test_a_customers_invoices_come_newest_first():
    """C-1001 has at least three, so that a second one can be asked for."""
    issued = [invoice.issued_on for invoice in company().invoices_of("C-1001")]

    assert len(issued) >= 3
    assert issued == sorted(issued, reverse=True)


def test_records_cannot_be_changed():
    """One copy serves all requests."""
    with pytest.raises(pydantic.ValidationError):
        company().accounts[0].tier = "vip"


def test_exactly_one_service_has_an_incident_and_it_is_told_in_both_languages():
    """A demo of degradation, in either language."""
    incidents = [service.incident for service in company().services if service.incident]

    assert [set(incident.summary) for incident in incidents] == [{"en", "es"}]


def test_every_article_exists_in_both_languages_with_the_same_desk():
    """A customer of either language can be told the same."""
    by_language = {"en": {}, "es": {}}
    for article in help_centre().articles:
        by_language[article.language][article.id] = article.category

    assert by_language["en"] == by_language["es"]
    assert len(by_language["en"]) >= 40
    assert set(by_language["en"].values()) == {"technical_support", "billing_support", "general_support", "human"}


def test_articles_are_short_and_begin_with_the_answer():
    """60 to 150 words; the first paragraph, which may be quoted alone, is no more than 60."""
    for article in help_centre().articles:
        assert 60 <= len(article.text.split()) <= 150, article.id
        assert len(article.text.split("\n\n")[0].split()) <= 60, article.id


def test_every_article_is_found_by_its_own_title():
    """No article is out of reach of the search."""
    for article in help_centre().articles:
        found = [hit.article_id for hit in help_centre().search(article.title, article.language)]
        assert article.id in found, article.title
