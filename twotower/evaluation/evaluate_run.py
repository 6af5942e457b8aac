"""What a model's answers are worth: baselines on the same queries, intervals, slices, lists. Wiring only.

Shapes: Q queries, V items, D embedding dim.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig

from twotower.core.batch import build_history
from twotower.core.files import read_json
from twotower.core.schema import CEILING_FILE, FEATURES_FILE, Prepared, read_item_features
from twotower.data.loader import SessionLoader, type_weights
from twotower.evaluation.assessment import MODEL, PRIMARY_METRIC, assess
from twotower.evaluation.baselines.baselines import answer_queries, fit_baselines
from twotower.evaluation.record import Record
from twotower.evaluation.slices import Grouping, QueryFacts, feature_groupings, groupings_of, query_facts
from twotower.metrics import beyond_accuracy
from twotower.metrics.collapse import signs_of, warnings_of
from twotower.metrics.results import LISTED, RankingResults, means_by_type, per_query_metrics

Array = npt.NDArray[Any]
log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What a run keeps of its test."""

    found: dict[str, Any]  # see evaluation.assessment.assess; also "catalogue": {"coverage", "gini"}, "health": [text]
    metrics: dict[str, float]  # flat: `baseline/item_knn/recall_at_20`, `test/novelty_bits_at_20` and so on
    record: Record  # to compare it with others
    facts: QueryFacts
    history: Array  # [Q, L] item_index, PAD on the right
    counts: Array  # [V + 1] training events by item_index
    features: list[Grouping]  # of the items


class ModelResults(NamedTuple):
    """What a model did in its test."""

    metrics: dict[str, float]  # flat: `test/recall_at_20`
    answers: RankingResults
    items: Array  # [V, D] its vectors of the catalogue
    seconds: float  # that the answers took


def evaluate_results(
    config: DictConfig, prepared: Prepared, test: SessionLoader, model: RankingResults, items: Array
) -> Evaluation:
    """Compare, slice and count.

    Args:
        config: of the run.
        prepared: the events.
        test: the queries.
        model: its answers.
        items: [V, D] its vectors of the catalogue.
    """
    ks = list(config.evaluation.ks)
    answers = {MODEL: model}
    metrics: dict[str, float] = {}
    if config.evaluation.baselines:
        baselines = fit_baselines(prepared, config.refit, config.evaluation.recent_fraction)
        others, cost = answer_queries(baselines, test, prepared.num_items)
        answers |= others
        metrics |= {f"baseline/{key}": value for key, value in cost.items()}
        types = prepared.event_type[model.event]
        for name, own in others.items():
            means = means_by_type(own, types, ks, prepared.event_types)
            metrics |= {f"baseline/{name}/{key}": value for key, value in means.items()}
    if (prepared.path / CEILING_FILE).exists() and not config.target_weights:  # it is that of all queries
        ceiling = read_json(prepared.path / CEILING_FILE, "a prepared directory")
        metrics |= {f"ceiling/{key}": value for key, value in ceiling.items()}
    facts = query_facts(prepared, model.event)
    learnt = prepared.learnt(config.refit)
    counts = np.bincount(prepared.item_index[learnt], minlength=prepared.num_items + 1)
    learnt_until = int(prepared.timestamp[learnt].max(initial=0))
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")
    of_items = encoders.get("items", {})  # a bundle has none
    arrays = read_item_features(prepared.path) if of_items else {}
    features = feature_groupings(of_items, arrays)
    history = build_history(prepared.item_index, facts.event, facts.length, config.model.max_length)
    lists = _about_lists(facts, history, model, counts, items, features, ks)
    groupings = groupings_of(prepared, counts, learnt_until, features, encoders["events"], facts)
    weights = {}
    if config.target_weights:
        of_type = type_weights(prepared.event_types, config.target_weights)
        weights["weighted"] = of_type[prepared.event_type[model.event]]
    for price in [array for name, array in arrays.items() if name.endswith(".price")][:1]:
        worth = np.nan_to_num(price[facts.target - 1]).clip(min=0)
        weights |= {"revenue": worth} if worth.any() else {}
    found = assess(answers, facts, groupings, ks, lists, config.evaluation.replicates, config.seed, weights)
    exposed = beyond_accuracy.exposures(model.top, prepared.num_items)
    found["catalogue"] = {"coverage": beyond_accuracy.coverage(exposed), "gini": beyond_accuracy.gini(exposed)}
    metrics |= {f"test/{name}": mean for name, (mean, _, _) in found["lists"].items()}
    metrics |= {f"test/{name}_at_{LISTED}": value for name, value in found["catalogue"].items()}
    for kind, rankers in found["weighted"].items():
        for name, (mean, _, _) in rankers.items():
            metrics[f"{'test' if name == MODEL else f'baseline/{name}'}/{kind}_{PRIMARY_METRIC}"] = mean
    low, high = found["rankers"][MODEL][PRIMARY_METRIC][1:]
    if low is not None:
        metrics |= {f"test/{PRIMARY_METRIC}_low": low, f"test/{PRIMARY_METRIC}_high": high}
    tensors = (torch.from_numpy(x) for x in (items, items[:0], model.top.astype(np.int64), counts))
    found["health"] = warnings_of(signs_of(*tensors), items.shape[1])
    record = Record(prepared.manifest["fingerprint"], ks, model, facts.session, groupings)
    return Evaluation(found, metrics, record, facts, history, counts, features)


def _about_lists(
    facts: QueryFacts,
    history: Array,
    model: RankingResults,
    counts: Array,
    items: Array,
    features: list[Grouping],
    ks: list[int],
) -> dict[str, Array]:
    """[Q] what each list is like."""
    popular = 1 + np.argsort(-counts[1:], kind="stable")[:LISTED]
    found = per_query_metrics(model, ks)[f"recall_at_{LISTED}"]
    return {
        f"novelty_bits_at_{LISTED}": beyond_accuracy.novelty(model.top, counts),
        f"vector_diversity_at_{LISTED}": beyond_accuracy.vector_diversity(model.top, items),
        **{
            f"{feature.name}_diversity_at_{LISTED}": beyond_accuracy.category_diversity(model.top, feature.code)
            for feature in features
        },
        f"serendipity_at_{LISTED}": beyond_accuracy.serendipity(found, facts.target, history, popular),
        f"popularity_at_{LISTED}": beyond_accuracy.popularity(model.top, counts),
        "history_popularity": beyond_accuracy.history_popularity(history, counts),
    }
