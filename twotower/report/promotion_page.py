"""The page of a promotion (promotion.html): candidate and champion beside each other, and why the gate decided so."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from twotower.evaluation.comparison import Comparison, Row
from twotower.evaluation.verdicts import verdict, with_interval
from twotower.report.html import card, details, document, finding, grid, heading, table


def promotion_page(
    title: str,
    outcome: tuple[str, str],
    checks: Sequence[tuple[str, bool, str]],
    comparison: Comparison | None,
    examples: Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]],
    changes: Sequence[Sequence[str]],
) -> str:
    """Return the page as HTML.

    Args:
        title: names both versions.
        outcome: a level (good, warning or error) and what was decided, in words.
        checks: name, whether it is passed, and what was found, of each check of the gate.
        comparison: the candidate first; None without a champion.
        examples: history, the candidate's list and the champion's, as names of items.
        changes: rows of a table, the head first: what has changed in the data.
    """
    rows = [[f"{'✓' if passed else '✗'} {name}", text] for name, passed, text in checks]
    parts = [
        heading(title, "both tested on the candidate's newest window; ± is half of the 95 % interval", {}),
        finding(*outcome),
        grid([card("The gate", table(["check", "found"], rows, texts=True))]),
        grid([card("The data", table(changes[0], changes[1:], texts=True))]),
    ]
    if comparison is not None:
        note = "Queries of items that the champion does not know count as not found by it."
        parts.append(grid([card("All queries", _table(comparison.metrics, "metric"), note)]))
        parts.append(
            details(
                f"{comparison.metric.replace('_at_', '@')} by slice", _table(comparison.slices, "slice"), boxed=True
            )
        )
    if examples:
        parts.append(grid(_example(*example) for example in examples))
    return document(title, parts)


def _table(rows: Sequence[Row], name: str) -> Markup:
    cells = [
        [
            f"{row.by.replace('_at_', '@')} {row.group}".strip(),
            f"{row.queries:,}",
            *("" if mean[0] is None else f"{mean[0]:.4f}" for mean in (row.first, row.second)),
            with_interval(row.difference, "+.4f"),
            verdict(row.difference),
        ]
        for row in rows
    ]
    return table([name, "queries", "candidate", "champion", "difference", "candidate is"], cells)


def _example(history: Sequence[str], candidate: Sequence[str], champion: Sequence[str]) -> Markup:
    before = set(champion)
    rows = [
        [str(place), f"{new} (new)" if new not in before else new, old]
        for place, (new, old) in enumerate(zip(candidate, champion, strict=True), start=1)
    ]
    return card(f"After {', '.join(history)}", table(["", "candidate", "champion"], rows, texts=True))


def change_rows(before: Mapping[str, str] | None, after: Mapping[str, str]) -> list[list[str]]:
    """Return a table of facts of the champion's data and of the candidate's, the head first.

    >>> change_rows({"items": "90"}, {"items": "100"})
    [['', 'candidate', 'champion'], ['items', '100', '90']]
    """
    names = dict.fromkeys([*after, *(before or {})])
    return [["", "candidate", "champion"], *([n, after.get(n, ""), (before or {}).get(n, "")] for n in names)]
