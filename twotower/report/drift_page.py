"""The page of a drift (drift.html): what was compared, what chance explains, and what is beyond a limit."""

from collections.abc import Sequence

from twotower.report.html import card, document, finding, grid, heading, table

HEAD = ["", "value", "by chance below", "limit", "", "most"]


def drift_cells(rows: Sequence[tuple[str, float, float | None, float | None, str, str]]) -> list[list[str]]:
    """Return the cells of a table with HEAD, of rows of name, value, chance, limit, note and verdict."""
    return [
        [name, f"{value:.3f}", *("" if n is None else f"{n:.3f}" for n in (chance, limit)), verdict, note]
        for name, value, chance, limit, note, verdict in rows
    ]


def drift_page(title: str, level: str, words: str, cells: Sequence[Sequence[str]]) -> str:
    """Return the page as HTML.

    Args:
        title: names both sides.
        level: of the outcome: good, warning or error.
        words: the outcome.
        cells: of drift_cells.
    """
    note = "distances are Jensen-Shannon distances: 0 equal, 1 disjoint; the others are shares"
    parts = [heading("Drift", title, {}), finding(level, words)]
    return document("Drift", [*parts, grid([card("What was compared", table(HEAD, cells, texts=True), note)])])
