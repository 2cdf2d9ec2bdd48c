"""The answer of the claims' page: a card for each claim, and a matrix of claims by runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite, log10

from .claims import CLAIMS, NOT, PARTLY, REPRODUCED, UNDECIDED, Decided, Estimate, Run, Verdict

__all__ = ["SIGNS", "Shown", "badge", "cards", "legend", "matrix", "strip"]

#: A verdict's sign, and the class that gives it its colour in ``book/_static/toroid.css``.
SIGNS = {
    REPRODUCED: ("✓", "reproduced"), PARTLY: ("~", "partly"), NOT: ("✗", "not"),
    UNDECIDED: ("?", "undecided"),
}  # fmt: skip


class Shown(str):
    """HTML that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def badge(word: str) -> Shown:
    """A verdict as a coloured word.

    Args:
        word: One of `toroid.book.claims.WORDS`.

    Example:
        >>> badge("reproduced")
        '<span class="verdict verdict-reproduced">✓ reproduced</span>'
    """
    sign, name = SIGNS[word]
    return Shown(f'<span class="verdict verdict-{name}">{sign} {word}</span>')


def cards(decided: Mapping[str, Decided], kinds: Sequence[str]) -> Shown:
    """A card for each claim of some kinds.

    Args:
        decided: By claim.
        kinds: ``"empirical"``, ``"identity"``, ``"theory"``.

    Returns:
        HTML; the cards stand beside each other as far as there is room.
    """
    chosen = [_card(name, d) for name, d in decided.items() if CLAIMS[name].kind in kinds]
    return Shown(f'<div class="claim-cards">{"".join(chosen)}</div>')


def _card(name: str, decided: Decided) -> str:
    claim, verdict, run = CLAIMS[name], decided.verdict, decided.run
    number = ""
    if verdict.figure:
        number = (
            f'<p class="number"><strong>{escape(verdict.figure)}</strong> '
            f"{escape(verdict.label)}</p>{picture(verdict)}"
        )
    parts = "".join(
        f"<dt>{escape(part)}</dt><dd>{escape(value)}</dd>" for part, value in verdict.parts.items()
    )
    details = f"<details><summary>Part by part</summary><dl>{parts}</dl></details>" if parts else ""
    lacking = "".join(f"<li>{escape(what)}</li>" for what in verdict.missing)
    lacking = f'<p class="missing">Missing:</p><ul>{lacking}</ul>' if lacking else ""
    return (
        f'<section class="claim-card card-{SIGNS[verdict.word][1]}" id="claim-{name.lower()}">'
        f'<p class="head"><strong>{name}</strong> {badge(verdict.word)}</p>'
        f'<p class="statement">{escape(claim.statement)}</p>{number}'
        f'<p class="evidence">{escape(verdict.evidence)}</p>{lacking}{details}'
        f'<p class="scale">{escape(_scale(verdict, run))} '
        f'<a href="{claim.page}.html">{claim.page}</a></p></section>'
    )


def _scale(verdict: Verdict, run: Run | None) -> str:
    """How many networks and pairs, of which run, and whether it was seen before."""
    if run is None:
        return "No run is kept."
    counts = [
        f"{n} {word}" for n, word in ((verdict.networks, "networks"), (verdict.pairs, "pairs")) if n
    ]
    seen = "; seen before the test was fixed" if run.seen else ""
    return f"{', '.join([*counts, run.label])}{seen}."


#: The inside of a small picture, in its own units.
WIDTH, HEIGHT, MARGIN = 240, 34, 12


def picture(verdict: Verdict) -> str:
    """The number that decides with its interval, and the bound as a dashed line."""
    number = verdict.number
    value, *ends = number if isinstance(number, Estimate) else (float(number or 0),)
    points = [value, *ends]
    if not all(map(isfinite, points)):
        return ""
    small = min(x for x in (*points, verdict.bound))
    large = max(x for x in (*points, verdict.bound))
    logarithmic = small > 0 and large > 20 * small

    def place(x: float) -> float:
        """On the axis, from the smallest number to the largest."""
        low, high = (log10(small), log10(large)) if logarithmic else (min(small, 0.0), large)
        share = ((log10(x) if logarithmic else x) - low) / ((high - low) or 1)
        return MARGIN + share * (WIDTH - 2 * MARGIN)

    bound, middle = place(verdict.bound), HEIGHT / 2 - 4
    line = ""
    if ends:
        low, high = map(place, ends)
        line = (
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" class="interval"/>'
        )
    said = f"{verdict.label}: {verdict.figure}; the bound is {verdict.bound:g}"
    return (
        f'<svg class="interval-picture" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(said)}"><line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{middle}" '
        f'y2="{middle}" class="axis"/><line x1="{bound:.1f}" x2="{bound:.1f}" y1="2" '
        f'y2="{2 * middle - 2}" class="bound"/>{line}'
        f'<circle cx="{place(value):.1f}" cy="{middle}" r="4" class="value"/>'
        f'<text x="{bound:.1f}" y="{HEIGHT - 1}" text-anchor="{_anchor(bound)}">{verdict.bound:g}'
        "</text></svg>"
    )


def _anchor(x: float) -> str:
    """So that a label stays inside."""
    return "start" if x < 0.2 * WIDTH else "end" if x > 0.8 * WIDTH else "middle"


def matrix(decided: Mapping[str, Decided]) -> Shown:
    """Claims by runs, with the verdicts as coloured cells; that of a decisive run has a frame.

    Args:
        decided: By claim.

    Returns:
        HTML: a row for each run, in the order in which claims have them, a column for each claim,
        those that are empirical first.
    """
    names = sorted(decided, key=lambda name: (CLAIMS[name].kind != "empirical", name))
    labels = list(dict.fromkeys(run.label for name in names for run, _ in decided[name].all))
    head = "".join(
        f'<th scope="col" class="{CLAIMS[n].kind}"><a href="#claim-{n.lower()}">{n}</a></th>'
        for n in names
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(_cell(name, label, decided[name]) for name in names)
        + "</tr>"
        for label in labels
    )
    return Shown(
        f'<table class="claim-matrix"><thead><tr><th scope="col">run</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(name: str, label: str, decided: Decided) -> str:
    for run, verdict in decided.all:
        if run.label == label:
            sign, colour = SIGNS[verdict.word]
            decisive = " decisive" if run is decided.run else ""
            said = f"{name}, {label}: {verdict.word}. {verdict.sentence}"
            seen = "°" if run.seen else ""
            return (
                f'<td class="verdict-{colour}{decisive}" title="{escape(said)}">'
                f'<span aria-hidden="true">{sign}{seen}</span>'
                f'<span class="visually-hidden">{verdict.word}</span></td>'
            )
    return '<td class="none"></td>'


def legend() -> Shown:
    """What colours and signs of the matrix say."""
    signs = " ".join(map(badge, SIGNS))
    return Shown(
        f'<p class="claim-legend">{signs} <span>° seen before the test was fixed</span> '
        "<span>framed: the decisive run</span></p>"
    )


def strip(decided: Mapping[str, Decided]) -> Shown:
    """All claims in a line, each with its verdict as a coloured word.

    Args:
        decided: By claim.
    """
    shown = "".join(
        f'<a class="claim-chip verdict-{SIGNS[d.verdict.word][1]}" '
        f'href="claims.html#claim-{n.lower()}" title="{escape(CLAIMS[n].statement)}">'
        f"{n} {d.verdict.word}</a>"
        for n, d in decided.items()
    )
    return Shown(f'<div class="claim-strip">{shown}</div>')
