"""Evaluate a model's ranking of the test queries: baselines on the same queries, intervals, slices, list metrics.

Shapes: Q queries, V items, D embedding dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from twotower.core.batch import build_history
from twotower.core.files import read_json
from twotower.core.schema import CEILING_FILE, FEATURES_FILE, Prepared, read_item_features
from twotower.data.horizon import NEXT, events_ahead
from twotower.data.loader import SessionLoader
from twotower.data.target_weights import type_weights
from twotower.evaluation.baselines.baselines import BaselineFit, fit_baselines, rank_with_baselines
from twotower.evaluation.horizon_metrics import values_by_type
from twotower.evaluation.ranked import ranked_items, rules_in_words
from twotower.evaluation.results_file import SavedResults
from twotower.evaluation.slices import Grouping, QueryFacts, feature_groupings, groupings_of, query_facts
from twotower.evaluation.summary import MODEL, PRIMARY_METRIC, WEIGHTED, summarize, summarize_rankers
from twotower.metrics import beyond_accuracy
from twotower.metrics.candidates import Candidates
from twotower.metrics.collapse import collapse_metrics, collapse_warnings
from twotower.metrics.ranking_results import LIST_LENGTH, RankingResults, means_by_type, per_query_metrics
from twotower.metrics.ranks import IMPOSSIBLE

Array = npt.NDArray[Any]
Metrics = dict[str, float]  # flat: `test/recall_at_20`, `baseline/item_knn/recall_at_20`


class ModelResults(NamedTuple):
    """What a model did in its test."""

    metrics: Metrics
    ranking: RankingResults
    items: Array  # [V, D] its vectors of the catalogue
    seconds: float  # that ranking took


class Settings(NamedTuple):
    """What an evaluation depends on beside the data and the model's results."""

    ks: list[int]  # cut-offs
    baselines: bool  # whether to compare with baselines
    refit: bool  # whether model and baselines may learn from the validation part
    max_length: int  # of a history
    target_weights: Mapping[str, float] | None  # by event type
    replicates: int  # of the bootstrap
    seed: int  # of its draws
    extra_baselines: Mapping[str, BaselineFit] = {}  # by name
    exclude_seen: bool = False  # see ranked.ranked_items
    filters: Mapping[str, Any] | None = None
    horizon: str | float = NEXT  # see events_ahead; beside the next event, lists are measured by all ahead


class Evaluation(NamedTuple):
    """The evaluation of one model on one test set."""

    summary: dict[str, Any]  # see summary.summarize and evaluate_results
    metrics: Metrics  # `baseline/item_knn/recall_at_20`, `test/novelty_bits_at_20` and so on
    saved: SavedResults  # for comparisons with other models
    facts: QueryFacts
    history: Array  # [Q, L] item_index, PAD on the right
    counts: Array  # [V + 1] training events by item_index
    features: list[Grouping]  # of the items


def evaluate_results(
    prepared: Prepared, test: SessionLoader, ranking: RankingResults, items: Array, settings: Settings
) -> Evaluation:
    """Compare a model's results with those of baselines on the same queries, and summarize them.

    Args:
        prepared: the events.
        test: the queries.
        ranking: the model's results.
        items: [V, D] its vectors of the catalogue.
        settings: of the evaluation.

    Returns:
        The evaluation; its summary has, beside that of summary.summarize, "catalogue": {"coverage", "gini"}, "health":
        [text], "target_weights", and "ranked": {"rules": in words, "items": that the filters allow, "impossible":
        targets that are not ranked}, None where all items are ranked for all queries; and "horizon": {"until": the
        setting, "rows": as in "standing", by event type}, None without one.
    """
    ranked = ranked_items(prepared, settings.exclude_seen, settings.filters)
    rules = rules_in_words(settings.exclude_seen, settings.filters)
    results, metrics = {MODEL: ranking}, {} if rules else _ceiling(prepared, settings.target_weights)
    if settings.baselines:
        baselines, costs = _baselines(prepared, test, settings, ranked)
        results, metrics = results | baselines, metrics | costs
    facts = query_facts(prepared, ranking.event)
    training = prepared.training_mask(settings.refit)
    counts = np.bincount(prepared.item_index[training], minlength=prepared.num_items + 1)
    trained_until = int(prepared.timestamp[training].max(initial=0))
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")
    item_encoders = encoders.get("items", {})
    arrays = read_item_features(prepared.path) if item_encoders else {}
    features = feature_groupings(item_encoders, arrays)
    history = build_history(prepared.item_index, facts.event, facts.length, settings.max_length)
    lists = _list_metrics(facts.target, history, ranking, counts, items, features)
    groupings = groupings_of(prepared, counts, trained_until, features, encoders["events"], facts)
    weights = _query_weights(prepared, facts, arrays, settings.target_weights)
    replicates, seed = settings.replicates, settings.seed
    summary = summarize(results, facts.session, groupings, settings.ks, lists, replicates, seed, weights)
    exposed = beyond_accuracy.exposures(ranking.top, prepared.num_items)
    summary["catalogue"] = {"coverage": beyond_accuracy.coverage(exposed), "gini": beyond_accuracy.gini(exposed)}
    tensors = (torch.from_numpy(x) for x in (items, items[:0], ranking.top.astype(np.int64), counts))
    health = collapse_warnings(collapse_metrics(*tensors), items.shape[1])
    summary["health"] = health if ranked.allowed is None else []  # lists from few items are alike without a collapse
    summary["horizon"] = _horizon(prepared, results, facts, settings)
    summary["target_weights"] = dict(settings.target_weights or {})
    impossible = int((ranking.better == IMPOSSIBLE).sum())
    number = prepared.num_items if ranked.allowed is None else int(ranked.allowed.sum())
    summary["ranked"] = {"rules": rules, "items": number, "impossible": impossible} if rules else None
    saved = SavedResults(
        prepared.manifest["fingerprint"], settings.ks, ranking, facts.session, groupings, rules, weights
    )
    return Evaluation(summary, metrics | _flat(summary), saved, facts, history, counts, features)


def _ceiling(prepared: Prepared, target_weights: Mapping[str, float] | None) -> Metrics:
    """Return the best possible metrics where they are known: of all queries, so not with weighted targets."""
    if target_weights or not (prepared.path / CEILING_FILE).exists():
        return {}
    ceiling = read_json(prepared.path / CEILING_FILE, "a prepared directory")
    return {f"ceiling/{name}": value for name, value in ceiling.items()}


def _baselines(
    prepared: Prepared, test: SessionLoader, settings: Settings, ranked: Candidates
) -> tuple[dict[str, RankingResults], Metrics]:
    """Return each baseline's results for the queries, and its metrics and costs."""
    baselines = fit_baselines(prepared, settings.refit, settings.extra_baselines)
    list_length = 0 if settings.horizon == NEXT else LIST_LENGTH
    results, metrics = rank_with_baselines(baselines, test, prepared.num_items, ranked, list_length)
    for name, each in results.items():
        types, is_repeat = prepared.event_type[each.event], ranked.is_repeat(each.event)
        means = means_by_type(each, types, is_repeat, settings.ks, prepared.event_types)
        metrics |= {f"{name}/{metric}": value for metric, value in means.items()}
    return results, {f"baseline/{name}": value for name, value in metrics.items()}


def _horizon(
    prepared: Prepared, results: Mapping[str, RankingResults], facts: QueryFacts, settings: Settings
) -> dict[str, Any] | None:
    """Return the part "horizon" of the summary: see evaluate_results."""
    ahead = events_ahead(settings.horizon, prepared, prepared.offsets[1:])
    if ahead is None:
        return None
    weights = type_weights(prepared.event_types, settings.target_weights)
    lists = {name: each.top for name, each in results.items()}
    rows = [
        summarize_rankers(values, facts.session[some], "horizon", prefix[:-1], settings.replicates, settings.seed)
        for prefix, some, values in values_by_type(lists, facts.event, ahead, prepared, weights, settings.ks)
    ]
    return {"until": settings.horizon, "rows": rows}


def _query_weights(
    prepared: Prepared, facts: QueryFacts, arrays: Mapping[str, Array], target_weights: Mapping[str, float] | None
) -> dict[str, Array]:
    """Return [Q] weights by name: the weight of the target's event type, and the price of the target item."""
    weights = {}
    if target_weights:
        by_type = type_weights(prepared.event_types, target_weights)
        weights["weighted"] = by_type[prepared.event_type[facts.event]]
    price = next((array for name, array in arrays.items() if name.endswith(".price")), None)
    if price is not None:
        revenue = np.nan_to_num(price[facts.target - 1]).clip(min=0)
        weights |= {"revenue": revenue} if revenue.any() else {}
    return weights


def _list_metrics(
    target: Array, history: Array, ranking: RankingResults, counts: Array, items: Array, features: Sequence[Grouping]
) -> dict[str, Array]:
    """Return metrics of the model's lists beside accuracy, [Q] by name."""
    popular = 1 + np.argsort(-counts[1:], kind="stable")[:LIST_LENGTH]
    recall = per_query_metrics(ranking, [LIST_LENGTH])[f"recall_at_{LIST_LENGTH}"]
    metrics = {
        "novelty_bits": beyond_accuracy.novelty(ranking.top, counts),
        "vector_diversity": beyond_accuracy.vector_diversity(ranking.top, items),
        **{f"{f.name}_diversity": beyond_accuracy.category_diversity(ranking.top, f.code) for f in features},
        "serendipity": beyond_accuracy.serendipity(recall, target, history, popular),
        "popularity": beyond_accuracy.popularity(ranking.top, counts),
    }
    at_cutoff = {f"{name}_at_{LIST_LENGTH}": values for name, values in metrics.items()}
    return at_cutoff | {"history_popularity": beyond_accuracy.history_popularity(history, counts)}


def _flat(summary: Mapping[str, Any]) -> Metrics:
    """Return what of the summary belongs to the run's flat metrics."""
    metrics = {f"test/{name}": mean for name, (mean, _, _) in summary["lists"].items()}
    metrics |= {f"test/{name}_at_{LIST_LENGTH}": value for name, value in summary["catalogue"].items()}
    for row in (row for row in summary["standing"] if row["by"] == WEIGHTED):
        for name, means in row["rankers"].items():
            owner = "test" if name == MODEL else f"baseline/{name}"
            metrics[f"{owner}/{row['group']}_{PRIMARY_METRIC}"] = means[PRIMARY_METRIC][0]
    for row in summary["horizon"]["rows"] if summary["horizon"] else []:
        of = f"{row['group']}/" if row["group"] else ""
        for name, means in row["rankers"].items():
            owner = "test" if name == MODEL else f"baseline/{name}"
            metrics |= {f"{owner}/horizon/{of}{metric}": mean for metric, (mean, _, _) in means.items()}
    _, low, high = summary["rankers"][MODEL][PRIMARY_METRIC]
    interval = {f"test/{PRIMARY_METRIC}_low": low, f"test/{PRIMARY_METRIC}_high": high}
    return metrics | (interval if low is not None else {})
