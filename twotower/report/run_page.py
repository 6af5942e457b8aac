"""The report of a test: one HTML page with what the tables of the terminal have no room for.

Shapes: Q queries, V items, D embedding dim, K places of a list.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.evaluation.assessment import MODEL, PRIMARY_METRIC
from twotower.evaluation.slices import Grouping, QueryFacts, largest
from twotower.evaluation.verdicts import judgements, with_interval
from twotower.metrics.beyond_accuracy import exposures
from twotower.metrics.results import RankingResults
from twotower.report import plots
from twotower.report.html import card, document, figure, finding, grid, heading, table
from twotower.report.projection import neighbourhoods, principal_components
from twotower.report.svg import COLORS

Array = npt.NDArray[Any]
Numbers = Mapping[str, float]
MAPPED = 2000  # items on the map: the most popular ones; t-SNE of them takes some seconds
FOLDED = 10  # rows of a table of slices that are not shown at once
EXAMPLES, SHOWN = 8, 5  # sessions; items of a history and of a list
METRICS = ("recall_at_10", "recall_at_20", "ndcg_at_20", "mrr_at_20")


class Result(NamedTuple):
    """All that a report is made from."""

    title: str
    metrics: Numbers  # flat, of the whole run
    found: Mapping[str, Any]  # evaluation.assessment.assess
    validated: Mapping[int, Numbers]  # by epoch
    answers: RankingResults
    facts: QueryFacts
    history: Array  # [Q, L] item_index, PAD on the right
    counts: Array  # [V + 1] training events
    items: Array  # [V, D]
    features: Sequence[Grouping]  # of the items, code by item_index [V + 1]
    names: Sequence[str]  # [V]
    data: Mapping[str, Any]  # the prepared directory's manifest
    has_card: bool  # whether the data card lies beside the report
    config: str  # YAML


def report(result: Result, seed: int) -> str:
    """The page: without scripts, and without anything that is loaded from elsewhere."""
    found, metrics = result.found, result.metrics
    own = found["rankers"][MODEL]
    tiles = {
        "recall@20": f"{own[PRIMARY_METRIC][0]:.4f}",
        "mrr@20": f"{own['mrr_at_20'][0]:.4f}" if "mrr_at_20" in own else "",
        "queries": f"{found['queries']:,}",
        "sessions": f"{found['sessions']:,}",
        "items": f"{len(result.items):,}",
        "of them in a list": f"{found['catalogue']['coverage']:.0%}",
    }
    note = (
        f"The whole catalogue is ranked for each query; 95 % intervals by a bootstrap of {found['sessions']:,} sessions"
    )
    cards = [
        *_slices(found),
        *_disparity(found),
        *_curves(result.validated),
        card("Lists of 20", _lists(found), "of the model, over all queries"),
        _popularity(result),
        *_maps(result, seed),
    ]
    beside = card(
        "The model beside baselines", _rankers(found, metrics), "± is half of the interval; model - it: recall@20"
    )
    parts = [
        heading(result.title, note, tiles),
        *(finding(level, text[:1].upper() + text[1:]) for level, text in judgements(found)),
        beside,
        grid(cards),
        *_examples(result),
        *_data(result),
        _config(result.config),
    ]
    return document(result.title, parts)


def _rankers(found: Mapping[str, Any], metrics: Numbers) -> str:
    names = [m for m in METRICS if m in found["rankers"][MODEL]]
    lines = []
    for name, means in found["rankers"].items():
        lead = found["model_minus"].get(name, {}).get(PRIMARY_METRIC)
        lines.append(
            (name, *(with_interval(means[m], ".4f") for m in names), with_interval(lead, "+.4f") if lead else "")
        )
    if f"ceiling/{PRIMARY_METRIC}" in metrics:
        ceiling = [metrics.get(f"ceiling/{m}") for m in names]
        lines.append(("ceiling (true distribution)", *("" if c is None else f"{c:.4f}" for c in ceiling), ""))
    head = ["", *(m.replace("_at_", "@") for m in names), "model - it"]
    for kind, rankers in found["weighted"].items():  # by target_weights and by price: what a shop earns with
        head.append(f"{kind} recall@20")
        worth = {name: with_interval(mean, ".4f") for name, mean in rankers.items()}
        lines = [(*line, worth.get(line[0], "")) for line in lines]
    return table(head, lines)


def _slices(found: Mapping[str, Any]) -> Iterable[str]:
    best = found["best_baseline"]
    for by in dict.fromkeys(row["by"] for row in found["slices"]):
        rows = [row for row in found["slices"] if row["by"] == by]
        if len(rows) < 2:
            continue
        means = np.array([row["model"][PRIMARY_METRIC] for row in rows], dtype=float)
        drawn = plots.groups([row["group"] for row in rows], *means.T)
        head = ("", "queries", "recall@20", *([f"model - {best}"] if best else []))
        lines = [
            (
                row["group"],
                f"{row['queries']:,}",
                with_interval(row["model"][PRIMARY_METRIC], ".4f"),
                *([with_interval(row["difference"][PRIMARY_METRIC], "+.4f")] if best else []),
            )
            for row in rows
        ]
        numbers = table(head, lines)
        if len(rows) > FOLDED:
            numbers = f"<details><summary>numbers</summary>{numbers}</details>"
        yield figure(f"By {escape(by)}", drawn + numbers)


def _disparity(found: Mapping[str, Any]) -> Iterable[str]:
    lines = [
        (row["by"], row["best"], row["worst"], with_interval(row["difference"], ".4f")) for row in found["disparity"]
    ]
    if lines:
        note = "recall@20 of the groups that are served best and worst; among many groups some gap is certain"
        yield card("Disparity", table(("by", "best", "worst", "apart"), lines), note)


def _curves(validated: Mapping[int, Numbers]) -> Iterable[str]:
    if len(validated) < 2:
        return
    names = ("recall_at_20", "ndcg_at_20", "mrr_at_20")
    curves = {n: [row.get(f"val/{n}", np.nan) for row in validated.values()] for n in names}
    yield figure(
        "Learning", plots.learning_curves(list(validated), curves), legend=[n.replace("_at_", "@") for n in names]
    )


def _lists(found: Mapping[str, Any]) -> str:
    lines = [(name.replace("_", " "), with_interval(mean, ".4g")) for name, mean in found["lists"].items()]
    lines += [(name, f"{value:.4f}") for name, value in found["catalogue"].items()]
    return table(("", "mean"), lines)


def _popularity(result: Result) -> str:
    shown = result.found["lists"]
    listed, liked = (
        next(m[0] for n, m in shown.items() if n.startswith(k)) for k in ("popularity", "history_popularity")
    )
    caption = f"a listed item has {listed:,.0f} training events on the mean, one of a history {liked:,.0f}"
    drawn = plots.shown_and_seen(result.counts[1:], exposures(result.answers.top, len(result.items)))
    return figure("Popularity: what is bought, what is shown", drawn, caption, ["training events", "places in lists"])


def _maps(result: Result, seed: int) -> Iterable[str]:
    some = np.argsort(-result.counts[1:], kind="stable")[:MAPPED]
    vectors = result.items[some]
    if len(some) < 3:
        return
    feature = result.features[0] if result.features else None
    if feature is None:
        code, names = np.zeros(len(some), dtype=int), []
    else:
        grouped = largest(feature._replace(code=feature.code[some + 1]), len(COLORS) - 1)
        code, names = grouped.code, grouped.groups
    about = f"the {len(some):,} most popular items" + (f", by {feature.name}" if feature else "")
    place, share = principal_components(vectors)
    caption = f"{about}; the two directions have {share:.0%} of the variance"
    yield figure("Item vectors: principal components", plots.item_map(place, code, names or [""]), caption, names)
    near = neighbourhoods(vectors, seed)
    if near is not None:
        caption = f"{about}; near points are near by cosine, distances between clusters mean nothing"
        yield figure("Item vectors: neighbourhoods (t-SNE)", plots.item_map(near, code, names or [""]), caption, names)


def _examples(result: Result) -> Iterable[str]:
    """Sessions evenly over the test: what was seen, what was shown, what came."""
    queries = len(result.answers.event)
    rows: Array = np.unique(np.linspace(0, queries - 1, min(EXAMPLES, queries)).astype(int))
    lines = []
    for row in rows:
        seen = result.history[row][result.history[row] > 0][-SHOWN:]
        target, better = int(result.facts.target[row]), int(result.answers.better[row])
        lines.append(
            (
                _names(result, seen),
                _names(result, result.answers.top[row][:SHOWN]),
                _names(result, [target]),
                f"{better + 1:,}",
            )
        )
    body = table(("history, newest last", "first of the list", "what came", "its rank"), lines)
    yield card("Examples", body.replace("<table>", '<table class="texts">'))


def _names(result: Result, items: Iterable[int]) -> str:
    return ", ".join(result.names[item - 1] for item in items)


def _data(result: Result) -> Iterable[str]:
    """What the model was tested on; the data card says more."""
    if "rows" not in result.data:
        return
    rows, split = result.data["rows"], result.data["split"]
    lines = [
        ("rows", f"{rows['read']:,} read, {rows['kept']:,} kept"),
        *(("dropped", f"{count:,}: {reason}") for reason, count in rows["dropped"].items() if count),
        ("sessions", f"{result.data['sessions']['count']:,} from {result.data['sessions']['source']}"),
        ("event types", ", ".join(result.data["event_types"])),
        ("event inputs", ", ".join(result.data["inputs"])),
        ("item features", ", ".join(result.data["item_features"]) or "none"),
        ("split", f"{split['kind']}: " + ", ".join(f"{part} {n:,} events" for part, n in split["events"].items())),
        ("outside the catalogue", f"{split['test_events_outside_catalogue']:.2%} of the test's events"),
    ]
    link = '<p><a href="card.html">the data card</a></p>' if result.has_card else ""
    yield card("Data", table(("", ""), lines).replace("<table>", '<table class="texts">') + link)


def _config(text: str) -> str:
    return f'<details class="card"><summary>Configuration</summary><pre>{escape(text)}</pre></details>'
