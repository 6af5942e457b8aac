"""The page on the choice of an index (index.html): curves and tables of what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from twotower.evaluation.verdicts import with_interval
from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.svg import COLORS, svg, units

Row = Mapping[str, Any]


def index_page(
    facts: Mapping[str, Any], filters: Sequence[Row], next_item: Mapping[str, Any] | None, title: str
) -> str:
    """Return the page as HTML.

    Args:
        facts: the result of choose_index.
        filters: the result of filter_recall.
        next_item: recall of the test's targets, see exporting.bundle; None where the run keeps no test queries.
        title: of the page.
    """
    tried, target = facts["tried"], facts["target_recall"]
    chosen = next(row for row in tried if _is_chosen(row, facts))
    time_label = "ms a query (median, one thread)"
    tiles = {
        facts["factory"]: facts["kind"],
        "recall@20 against exact search": f"{chosen['recall']:.4f}",
        time_label: f"{chosen['p50_ms']:.3f}",
        "bytes an item": f"{chosen['bytes_per_item']:,.0f}",
    }
    note = f"Chosen: {facts['reason']}. Measured with validation queries, one at a time."
    if next_item:
        tiles["recall@20 of the next item"] = with_interval(next_item["recall_at_20"]["index"], ".4f")
        note += f" Recall of the next item: of {next_item['queries']:,} test queries, none of them learnt from."
    parts = [heading(title, note, tiles)]
    if len(tried) > 1:
        kinds = dict.fromkeys(row["kind"] for row in tried)
        time = curve(tried, chosen, target, "p50_ms", time_label)
        memory = curve(tried, chosen, target, "bytes_per_item", "bytes an item")
        ring = "Ring: chosen. Dashes: the target."
        parts += [grid([figure("Recall and time", time, ring, kinds), figure("Recall and bytes", memory, ring, kinds)])]
    head = ["index", "search", "candidates", "recall@20", "ms a query", "99 %", "bytes", "build s"]
    rows = [_cells(row, _is_chosen(row, facts)) for row in tried]
    parts += [grid([card("All that were tried", table(head, rows), "Bytes: index and the vectors that it reads.")])]
    if filters:
        head = ["filter", "items it allows", "recall@20", "ms a query"]
        rows = [(r["filter"], f"{r['allowed']:.1%}", f"{r['recall']:.4f}", f"{r['p50_ms']:.3f}") for r in filters]
        parts += [grid([card("The chosen index under filters", table(head, rows))])]
    return document(title, parts)


def _is_chosen(row: Row, facts: Mapping[str, Any]) -> bool:
    return all(row[name] == facts[name] for name in ("factory", "search", "rerank"))


def _cells(row: Row, chosen: bool) -> tuple[str, ...]:
    return (
        f"{row['factory']}{' (chosen)' if chosen else ''}",
        ", ".join(f"{name} {value}" for name, value in row["search"].items()) or "-",
        f"{row['rerank']} k",
        f"{row['recall']:.4f}",
        f"{row['p50_ms']:.3f}",
        f"{row['p99_ms']:.3f}",
        f"{row['bytes_per_item']:,.0f}",
        f"{row['build_s']:.1f}",
    )


@svg
def curve(axes: Any, tried: Sequence[Row], chosen: Row, target: float, cost: str, label: str) -> None:
    """Draw recall against a cost: a colour a family, a line through the settings of an index."""
    color = dict(zip(dict.fromkeys(row["kind"] for row in tried), COLORS, strict=False))
    for factory, rerank in dict.fromkeys((row["factory"], row["rerank"]) for row in tried):
        line = [row for row in tried if (row["factory"], row["rerank"]) == (factory, rerank)]
        places = [row[cost] for row in line], [row["recall"] for row in line]
        axes.plot(*places, color=color[line[0]["kind"]], linewidth=1.0, marker="o", markersize=3, alpha=0.8)
    axes.plot(chosen[cost], chosen["recall"], "o", markersize=11, markerfacecolor="none", color=color[chosen["kind"]])
    axes.axhline(target, linewidth=0.8, linestyle="--", color=COLORS[-1])
    units(axes, "x", log=True)
    axes.set_xlabel(label)
    axes.set_title("recall@20 against exact search", loc="left", fontsize=9)
