"""The report of a run (report.html): the test in plots and tables, in more detail than the terminal shows.

Shapes: Q queries, V items, D embedding dim, K items of a list.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from twotower.core.arrays import evenly
from twotower.core.schema import Prepared
from twotower.evaluation.asked import asked_rows, at_time_rows
from twotower.evaluation.evaluate_run import Evaluation
from twotower.evaluation.slices import Grouping, largest
from twotower.evaluation.summary import MODEL, PRIMARY_METRIC, STANDING, WEIGHTED
from twotower.evaluation.verdicts import (
    conclusions,
    horizon_rows,
    slice_cells,
    slice_name,
    standing_rows,
    with_interval,
)
from twotower.metrics.beyond_accuracy import exposures
from twotower.report import plots
from twotower.report.html import card, details, document, figure, finding, grid, heading, table
from twotower.report.names import item_names
from twotower.report.projection import neighbourhoods, principal_components
from twotower.report.svg import COLORS

Array = npt.NDArray[Any]
Numbers = Mapping[str, float]
MOST_ON_MAP = 2000  # the most popular items; t-SNE of them takes some seconds
MOST_ROWS = 10  # longer tables of slices are folded
EXAMPLES, EXAMPLE_ITEMS = 8, 5  # sessions; items of a history and of a list
METRICS = ("recall_at_10", "recall_at_20", "ndcg_at_20", "mrr_at_20")


def run_page(
    title: str,
    metrics: Numbers,
    evaluation: Evaluation,
    items: Array,
    validation: Mapping[int, Numbers],
    prepared: Prepared,
    about: Mapping[str, str],
    files: Sequence[str],
    settings: str,
) -> str:
    """Return the page as HTML.

    Args:
        title: of the page.
        metrics: flat, of the whole run.
        evaluation: of the run's test.
        items: [V, D] item vectors.
        validation: metrics of each epoch's validation.
        prepared: the data that was tested on.
        about: facts of the run, by name.
        files: names of files in the report's folder, to link to.
        settings: of the run, as YAML.
    """
    summary = evaluation.summary
    sections = [
        *_slices(summary),
        *_disparity(summary),
        *_learning_curves(validation),
        card("Lists of 20", _list_metrics(summary), "of the model, over all queries"),
        _popularity(evaluation),
        *_item_maps(items, evaluation.counts, evaluation.features),
    ]
    note = "Best first; the best of each column is bold. ± is half of the 95 % interval; model - it: recall@20."
    head, *rows = standing_rows(summary)
    parts = [
        _heading(title, summary, len(items)),
        *(finding(level, text[:1].upper() + text[1:]) for level, text in conclusions(summary)),
        card("For whom", table(head, rows), "Same: the interval of the difference contains zero."),
        *_horizon(summary),
        *_asked(metrics),
        card("Model and baselines", _rankers(summary, metrics), note),
        grid([*_charts(summary), _run(about, files), *sections]),
        card("Examples", _examples(evaluation, item_names(prepared.path))),
        *_data(prepared.manifest),
        details("Configuration", Markup("<pre>{}</pre>").format(settings), boxed=True),
    ]
    return document(title, parts)


def _horizon(summary: Mapping[str, Any]) -> list[Markup]:
    """Return a card of recall within the horizon; nothing of an evaluation without one."""
    if not (rows := horizon_rows(summary)):
        return []
    note = "Share of the distinct items ahead, of at most 20, that are in the list; by type: of queries with one ahead."
    return [card("Within the horizon", table(rows[0], rows[1:]), note)]


def _asked(metrics: Numbers) -> list[Markup]:
    """Return cards of what objectives and the time of the query give; nothing of a model without them."""
    by_type = "The same queries: lists of what comes next of any type, and lists asked for with the type of the target."
    at_time = "The same queries: lists asked for at the newest event, and lists with the time of the target known."
    cards = [
        ("Asked for an event type", asked_rows(metrics), by_type),
        ("Asked for at a time", at_time_rows(metrics), at_time),
    ]
    return [card(title, table(rows[0], rows[1:]), note) for title, rows, note in cards if rows]


def _heading(title: str, summary: Mapping[str, Any], num_items: int) -> Markup:
    model, sessions = summary["rankers"][MODEL], f"{summary['sessions']:,}"
    tiles = {"recall@20": f"{model[PRIMARY_METRIC][0]:.4f}"}
    for row in summary["standing"]:
        if row["by"] in STANDING:
            tiles[f"of {slice_name(row)}"] = f"{row['rankers'][MODEL][PRIMARY_METRIC][0]:.4f}"
    tiles |= {
        "mrr@20": f"{model['mrr_at_20'][0]:.4f}",
        "queries": f"{summary['queries']:,}",
        "sessions": sessions,
        "items": f"{num_items:,}",
        "of them in a list": f"{summary['catalogue']['coverage']:.0%}",
    }
    ranked = summary.get("ranked")
    over = f"{ranked['items']:,} items ({ranked['rules']})" if ranked else "the whole catalogue"
    note = f"Ranking is over {over}; 95 % intervals by a bootstrap of {sessions} sessions."
    return heading(title, note, tiles)


def _run(about: Mapping[str, str], files: Sequence[str]) -> Markup:
    """Return a card of what the run is, with links to the files beside the report."""
    links = Markup(" · ").join(Markup('<a href="{}">{}</a>').format(file, file) for file in files)
    return card("This run", table(("", ""), about.items(), texts=True) + Markup("<p>{}</p>").format(links))


def _rankers(summary: Mapping[str, Any], metrics: Numbers) -> Markup:
    names = [m for m in METRICS if m in summary["rankers"][MODEL]]
    cells: dict[str, list[Any]] = {name: [name] for name in _best_first(summary)}
    weighted = [row for row in summary["standing"] if row["by"] == WEIGHTED]  # by target_weights, and by price
    columns = [(m, summary["rankers"]) for m in names] + [(PRIMARY_METRIC, row["rankers"]) for row in weighted]
    for metric, rankers in columns:
        best = max(rankers[name][metric][0] or 0.0 for name in cells)
        for name, row in cells.items():
            text = with_interval(rankers[name][metric], ".4f")
            row.append(Markup("<b>{}</b>").format(text) if rankers[name][metric][0] == best else text)
    for name, row in cells.items():
        lead = summary["model_minus"].get(name, {}).get(PRIMARY_METRIC)
        row.append(with_interval(lead, "+.4f") if lead else "")
    rows = [*cells.values()]
    if f"ceiling/{PRIMARY_METRIC}" in metrics:
        ceiling = (metrics.get(f"ceiling/{m}") for m in names)
        texts = ["" if c is None else f"{c:.4f}" for c in ceiling]
        rows.append(["ceiling (true distribution)", *texts, *([""] * (1 + len(weighted)))])
    head = [*(m.replace("_at_", "@") for m in names), *(f"{row['group']} recall@20" for row in weighted)]
    return table(["", *head, "model - it"], rows)


def _best_first(summary: Mapping[str, Any]) -> list[str]:
    return sorted(summary["rankers"], key=lambda name: -(summary["rankers"][name][PRIMARY_METRIC][0] or 0.0))


def _charts(summary: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield charts of the model beside each baseline, and beside the best one for all queries and standing slices."""
    names, none = _best_first(summary), [None, None, None]
    if len(names) < 2:
        return
    means = [summary["rankers"][name][PRIMARY_METRIC] for name in names]
    model = [mean if name == MODEL else none for name, mean in zip(names, means, strict=True)]
    others = [none if name == MODEL else mean for name, mean in zip(names, means, strict=True)]
    yield figure("Beside each baseline", plots.groups(names, model, others), legend=[MODEL, "baselines"])
    views = [("all queries", summary["rankers"]), *((slice_name(row), row["rankers"]) for row in summary["standing"])]
    if len(views) > 1:
        model = [rankers[MODEL][PRIMARY_METRIC] for _, rankers in views]
        beside = [[each[PRIMARY_METRIC] for name, each in rankers.items() if name != MODEL] for _, rankers in views]
        best = [max(each, key=lambda mean: mean[0] or 0.0) for each in beside]
        short = [name.removesuffix(" targets").replace("all queries by", "by") for name, _ in views]
        plot = plots.groups(short, model, best)
        yield figure("For whom: beside the best baseline there", plot, legend=[MODEL, "best baseline"])


def _slices(summary: Mapping[str, Any]) -> Iterator[Markup]:
    best = summary["best_baseline"]
    head = ("", "queries", "recall@20", *([f"model - {best}"] if best else []))
    for by in dict.fromkeys(row["by"] for row in summary["slices"]):
        rows = [row for row in summary["slices"] if row["by"] == by]
        if len(rows) < 2:
            continue
        plot = plots.groups([row["group"] for row in rows], [row["model"][PRIMARY_METRIC] for row in rows])
        numbers = table(head, [slice_cells(row, best) for row in rows])
        yield figure(f"By {by}", plot + (details("numbers", numbers) if len(rows) > MOST_ROWS else numbers))


def _disparity(summary: Mapping[str, Any]) -> Iterator[Markup]:
    rows = [
        (row["by"], row["best"], row["worst"], with_interval(row["difference"], ".4f")) for row in summary["disparity"]
    ]
    if rows:
        note = "recall@20 of the best and the worst group of each slicing; among many groups some gap is certain"
        yield card("Disparity", table(("by", "best", "worst", "difference"), rows), note)


def _learning_curves(validation: Mapping[int, Numbers]) -> Iterator[Markup]:
    if len(validation) > 1:
        names = [name.replace("_at_", "@") for name in METRICS[1:]]
        curves = {m: [[row.get(f"val/{m}"), None, None] for row in validation.values()] for m in METRICS[1:]}
        plot = plots.over_time(list(validation), curves, "epoch", "validation")
        yield figure("Learning curves", plot, legend=names)


def _list_metrics(summary: Mapping[str, Any]) -> Markup:
    rows = [(name.replace("_", " "), with_interval(mean, ".4g")) for name, mean in summary["lists"].items()]
    return table(("", "mean"), [*rows, *((name, f"{value:.4f}") for name, value in summary["catalogue"].items())])


def _popularity(evaluation: Evaluation) -> Markup:
    lists, counts = evaluation.summary["lists"], evaluation.counts[1:]
    means = [next(mean[0] for name, mean in lists.items() if name.startswith(k)) for k in ("popularity", "history_pop")]
    caption = (
        f"mean number of training events: {means[0]:,.0f} of a listed item, {means[1]:,.0f} of an item in histories"
    )
    plot = plots.exposure_and_popularity(counts, exposures(evaluation.saved.ranking.top, len(counts)))
    return figure("Popularity of bought and of listed items", plot, caption, ["training events", "places in lists"])


def _item_maps(items: Array, counts: Array, features: Sequence[Grouping]) -> Iterator[Markup]:
    """Yield maps of the most popular items, coloured by the first item feature."""
    rows = np.argsort(-counts[1:], kind="stable")[:MOST_ON_MAP]
    if len(rows) < 3:
        return
    code, names, about = np.zeros(len(rows), dtype=int), [""], f"the {len(rows):,} most popular items"
    if features:
        _, names, code = largest(features[0]._replace(code=features[0].code[rows + 1]), len(COLORS) - 1)
        about += f", by {features[0].name}"
    legend = names if features else ()
    place, share = principal_components(items[rows])
    caption = f"{about}; the two directions have {share:.0%} of the variance"
    yield figure("Item vectors: principal components", plots.item_map(place, code, names), caption, legend)
    near = neighbourhoods(items[rows])
    if near is not None:
        caption = f"{about}; near points are near by cosine, distances between clusters mean nothing"
        yield figure("Item vectors: neighbourhoods (t-SNE)", plots.item_map(near, code, names), caption, legend)


def _examples(evaluation: Evaluation, names: Sequence[str]) -> Markup:
    """Return a table of queries evenly spread over the test: history, list, target and its rank."""
    ranking, facts = evaluation.saved.ranking, evaluation.facts
    queries = len(ranking.event)

    def named(items: Iterable[int]) -> str:
        return ", ".join(names[item - 1] for item in items)

    cells = []
    for row in evenly(queries, EXAMPLES):
        history = evaluation.history[row][evaluation.history[row] > 0][-EXAMPLE_ITEMS:]
        top, target = ranking.top[row][:EXAMPLE_ITEMS], int(facts.target[row])
        cells.append((named(history), named(top), named([target]), f"{ranking.better[row] + 1:,}"))
    return table(("history, newest last", "top of the list", "target", "its rank"), cells, texts=True)


def _data(manifest: Mapping[str, Any]) -> Iterator[Markup]:
    """Yield a table of what the model was tested on; the data card has more."""
    if "rows" not in manifest:
        return
    counts, split = manifest["rows"], manifest["split"]
    rows = [
        ("rows", f"{counts['read']:,} read, {counts['kept']:,} kept"),
        ("sessions", f"{manifest['sessions']['count']:,} from {manifest['sessions']['source']}"),
        *((name.replace("_", " "), ", ".join(manifest[name]) or "none") for name in ("event_types", "item_features")),
        ("split", f"{split['kind']}: " + ", ".join(f"{part} {n:,} events" for part, n in split["events"].items())),
        ("outside the catalogue", f"{split['test_events_outside_catalogue']:.2%} of the test's events"),
    ]
    yield card("Data", table(("", ""), rows, texts=True))
