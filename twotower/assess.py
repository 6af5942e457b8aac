"""What a model's answers are worth: baselines on the same queries, intervals, slices, lists. Wiring only.

Shapes: Q queries, V items, D embedding dim.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from twotower.batch import build_history
from twotower.data.loader import SessionLoader, type_weights
from twotower.evaluation import beyond_accuracy
from twotower.evaluation.answers import LISTED, Answers, gains, means_by_type
from twotower.evaluation.assessment import DECIDING, MODEL, assess
from twotower.evaluation.baselines import answer_queries, fit_baselines
from twotower.evaluation.health import signs_of, warnings_of
from twotower.evaluation.record import RECORD_FILE, Record, write_record
from twotower.evaluation.slices import Facts, Grouping, facts_of, feature_groupings, groupings_of
from twotower.evaluation.tables import print_report
from twotower.files import read_json, write_bytes, write_json
from twotower.module import TwoTowerModule
from twotower.run import ASSESSMENT_FILE, METRICS_FILE, REPORT_FILE
from twotower.schema import CARD_FILE, CEILING_FILE, FEATURES_FILE, Prepared, read_item_features

Array = npt.NDArray[Any]
log = logging.getLogger(__name__)


class Assessed(NamedTuple):
    """What a run keeps of its test."""

    found: dict[str, Any]  # see evaluation.assessment.assess; also "catalogue": {"coverage", "gini"}, "health": [text]
    metrics: dict[str, float]  # flat: `baseline/item_knn/recall_at_20`, `test/novelty_bits_at_20` and so on
    record: Record  # to compare it with others
    facts: Facts
    history: Array  # [Q, L] item_index, PAD on the right
    counts: Array  # [V + 1] training events by item_index
    features: list[Grouping]  # of the items


class Tested(NamedTuple):
    """What a model did in its test."""

    metrics: dict[str, float]  # flat: `test/recall_at_20`
    answers: Answers
    items: Array  # [V, D] its vectors of the catalogue
    seconds: float  # that the answers took


def test_model(trainer: pl.Trainer, module: TwoTowerModule, test: SessionLoader) -> Tested:
    """Of a model with its weights."""
    begin = time.perf_counter()
    metrics = dict(trainer.test(module, test, verbose=False)[0])
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        items = module.model.encode_items().cpu().numpy()
    return Tested(metrics, module.answers(), items, seconds)


def assess_once(
    config: DictConfig,
    prepared: Prepared,
    test: SessionLoader,
    tested: Tested,
    metrics: dict[str, Any],
    validated: Mapping[int, Mapping[str, float]] | None = None,
    position: Array | None = None,
) -> None:
    """Compare, write all of it into the run directory, and print it.

    Args:
        config: of the run.
        prepared: its events.
        test: the queries.
        tested: the model's answers to them.
        metrics: what is known of the run so far.
        validated: metrics of each epoch's validation, if there was any.
        position: where each event lies in the data, if `prepared` has not all of them.
    """
    path = Path(config.run_dir)
    answers, items = tested.answers, tested.items
    assessed = assess_answers(config, prepared, test, answers, items)
    speed = test.num_queries / tested.seconds
    metrics = metrics | tested.metrics | {"test/queries": test.num_queries, "test/queries_per_second": speed}
    metrics |= assessed.metrics
    record = assessed.record
    if position is not None:
        record = record._replace(answers=answers._replace(event=position[answers.event]))
    write_record(path / RECORD_FILE, record)
    write_json(path / ASSESSMENT_FILE, assessed.found)
    write_json(path / METRICS_FILE, metrics)
    title = f"{config.name}: {test.num_queries:,} test queries, {prepared.num_items:,} items"
    try:
        from twotower.report.names import item_names
        from twotower.report.report import Result, report
    except ImportError as error:  # a machine that only trains may lack what draws
        log.warning("no report is written: %s", error)
    else:
        result = Result(
            title=title,
            metrics=metrics,
            found=assessed.found,
            validated=validated or {},
            answers=answers,
            facts=assessed.facts,
            history=assessed.history,
            counts=assessed.counts,
            items=items,
            features=assessed.features,
            names=item_names(prepared.path),
            data=prepared.manifest,
            has_card=(path / CARD_FILE).exists(),
            config=OmegaConf.to_yaml(config, resolve=True),
        )
        page = report(result, config.seed)
        write_bytes(path / REPORT_FILE, page.encode())
    print_report(metrics, assessed.found, title)


def assess_answers(
    config: DictConfig, prepared: Prepared, test: SessionLoader, model: Answers, items: Array
) -> Assessed:
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
    facts = facts_of(prepared, model.event)
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
            metrics[f"{'test' if name == MODEL else f'baseline/{name}'}/{kind}_{DECIDING}"] = mean
    low, high = found["rankers"][MODEL][DECIDING][1:]
    if low is not None:
        metrics |= {f"test/{DECIDING}_low": low, f"test/{DECIDING}_high": high}
    tensors = (torch.from_numpy(x) for x in (items, items[:0], model.top.astype(np.int64), counts))
    found["health"] = warnings_of(signs_of(*tensors), items.shape[1])
    record = Record(prepared.manifest["fingerprint"], ks, model, facts.session, groupings)
    return Assessed(found, metrics, record, facts, history, counts, features)


def _about_lists(
    facts: Facts,
    history: Array,
    model: Answers,
    counts: Array,
    items: Array,
    features: list[Grouping],
    ks: list[int],
) -> dict[str, Array]:
    """[Q] what each list is like."""
    popular = 1 + np.argsort(-counts[1:], kind="stable")[:LISTED]
    found = gains(model, ks)[f"recall_at_{LISTED}"]
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
