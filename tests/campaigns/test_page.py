"""`docs/reliability.md` says what the figures say, and the figures say that everything held."""

import json

import pytest

from tests.campaigns import page

# Of campaigns that need not hold each time: the share that must, of those that can.
SHARES = {"mutations": 0.92}


def test_the_page_has_the_figures_of_the_files():
    text = page.PAGE.read_text("utf-8")
    assert text == page.refreshed(text), "python -m tests.campaigns.page"


@pytest.mark.parametrize("path", sorted(page.FIGURES.glob("*.json")), ids=lambda path: path.stem)
def test_everything_held(path):
    figures = json.loads(path.read_text("utf-8"))
    assert figures["done"] == figures["held"] + len(figures["failures"]) > 0
    assert path.stem in SHARES or not figures["failures"]
    assert sum(part["done"] for part in figures["parts"].values()) == figures["done"]


def test_nearly_all_mutations_are_noticed():
    figures = page.read("mutations")
    equivalent = sum(" equivalent: " in failure for failure in figures["failures"])
    assert figures["held"] >= SHARES["mutations"] * (figures["done"] - equivalent)


def test_every_file_of_figures_is_of_a_campaign():
    assert {path.stem for path in page.FIGURES.glob("*.json")} <= {campaign.name for campaign in page.CAMPAIGNS}
