"""The answer of the claims' page: what stands on a card, in a cell, in a small picture."""

import re
import xml.etree.ElementTree as Tree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toroid.book import cards, claims
from toroid.book.claims import NOT, PARTLY, REPRODUCED, UNDECIDED, Decided, Estimate, Run, Verdict


def decided(*found, decisive=0):
    """A claim with a verdict for each run, by the label of the run."""
    runs = [
        (Run.of(label, {}, {}, stamp="c9505d3a" * seen), verdict) for label, verdict, seen in found
    ]
    run, verdict = runs[decisive]
    return Decided(run, verdict, runs)


GOOD = Verdict(
    REPRODUCED, "Twice <as> high.", "ratio", Estimate(3.0, 2.5, 3.5), 2.0, 6, 9, {"before": "1.1"}
)
LACKING = Verdict(UNDECIDED, "Little.", missing=("3 seeds of each algorithm (2)",))


def parsed(html):
    """Tags that are closed, as a tree; a page would take more."""
    return Tree.fromstring(f"<all>{html}</all>")


@pytest.mark.parametrize("word", claims.WORDS)
def test_every_verdict_has_a_word_a_sign_and_a_colour(word):
    badge = parsed(cards.badge(word))[0]
    sign, name = cards.SIGNS[word]
    assert badge.text == f"{sign} {word}"
    assert badge.get("class") == f"verdict verdict-{name}"
    assert word in cards.legend()


def test_a_card_says_what_decides_and_what_is_missing():
    shown = {
        "C2": decided(("large", GOOD, False)), "C4": decided(("<small>", LACKING, True)),
        "C8": decided(("large", Verdict(NOT, "Off."), False)),
    }  # fmt: skip
    cells = parsed(cards.cards(shown, ["empirical"]))[0]
    assert [card.get("id") for card in cells] == ["claim-c2", "claim-c4"]
    good, lacking = ("".join(card.itertext()) for card in cells)
    for words in (claims.CLAIMS["C2"].statement, "3.00 (2.50 to 3.50)", "Twice <as> high.", "1.1"):
        assert words in good
    assert "6 networks, 9 pairs, large. connectivity" in good
    assert "Missing:3 seeds of each algorithm (2)" in lacking
    assert "<small>; seen before the test was fixed." in lacking
    assert "svg" not in cards.cards({"C4": shown["C4"]}, ["empirical"])
    nothing = {"C2": claims.decide("C2", [])}
    assert "No run is kept." in cards.cards(nothing, ["empirical"])


def test_a_matrix_has_a_cell_for_each_run_of_each_claim():
    shown = {
        "C8": decided(("a & b", Verdict(NOT, "Off."), False)),
        "C2": decided(("a & b", LACKING, True), ("c", GOOD, False), decisive=1),
    }
    table = parsed(cards.matrix(shown))[0]
    head, *_ = table.iter("tr")
    assert [cell.find("a").text for cell in head[1:]] == ["C2", "C8"]  # empirical ones first
    rows = {row[0].text: list(row[1:]) for row in table.find("tbody")}
    assert list(rows) == ["a & b", "c"]
    first, second = rows["a & b"]
    assert (first.get("class"), second.get("class")) == (
        "verdict-undecided",
        "verdict-not decisive",
    )
    assert "".join(first.itertext()) == f"?°{UNDECIDED}"
    assert "3 seeds of each algorithm" in first.get("title")
    assert [cell.get("class") for cell in rows["c"]] == ["verdict-reproduced decisive", "none"]


@given(
    st.lists(st.floats(-1e3, 1e6), min_size=3, max_size=3), st.sampled_from([0.0, 0.05, 1e-8, 4.0])
)
def test_everything_in_a_picture_is_inside_and_in_order(numbers, bound):
    low, value, high = sorted(numbers)
    verdict = Verdict(PARTLY, "", "number", Estimate(value, low, high), bound)
    picture = parsed(cards.picture(verdict))[0]
    axis, line, interval = picture.iter("line")
    places = [*(float(interval.get(k)) for k in ("x1", "x2")), float(line.get("x1"))]
    dot = float(picture.find("circle").get("cx"))
    assert places[0] <= dot <= places[1]
    assert all(float(axis.get("x1")) <= x <= float(axis.get("x2")) for x in (*places, dot))
    assert (
        (places[2] <= places[0]) or bound >= low or places[2] == pytest.approx(places[0], abs=0.1)
    )
    assert f"the bound is {bound:g}" in picture.get("aria-label")


def test_there_is_no_picture_of_what_is_not_finite():
    for number in (Estimate(1.0, 0.5, float("inf")), float("nan")):
        assert cards.picture(Verdict(NOT, "", "number", number, 2.0)) == ""


def test_a_strip_links_every_claim():
    shown = {"C2": decided(("large", GOOD, False)), "C4": decided(("large", LACKING, False))}
    links = parsed(cards.strip(shown))[0]
    assert [link.get("href") for link in links] == ["claims.html#claim-c2", "claims.html#claim-c4"]
    assert links[1].text == f"C4 {UNDECIDED}"
    assert re.search(r"verdict-undecided$", links[1].get("class"))
    assert cards.strip(shown)._repr_html_() == str(cards.strip(shown))
