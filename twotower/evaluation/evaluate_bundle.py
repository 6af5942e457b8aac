"""Rank test queries with a bundle: its ONNX user tower and its item vectors, as a serving team has them.

Shapes: Q queries, L history length, K event inputs, V items, D embedding dim.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from twotower.core.batch import SessionBatch
from twotower.core.files import read_json
from twotower.core.schema import FEATURES_FILE, PAD
from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults
from twotower.evaluation.reindex import ModelVocabulary
from twotower.metrics.queries import histories_of, queries_of
from twotower.metrics.ranking_results import LIST_LENGTH, RankingResults, concatenate_results, means_by_type
from twotower.metrics.ranks import column_major, rank_and_list
from twotower.serving.bundle import Bundle
from twotower.serving.histories import KnownEvents
from twotower.serving.user_tower import encode_histories

Array = npt.NDArray[Any]


def vocabulary_of_bundle(bundle: Bundle) -> ModelVocabulary:
    """Return what the indices and codes of a bundle stand for."""
    features = read_json(bundle.file(FEATURES_FILE), "a bundle")
    fingerprint, inputs = bundle.manifest["dataset_fingerprint"], list(bundle.inputs)
    types, encoders = features["event_types"], features["events"]
    return ModelVocabulary(bundle.path, fingerprint, bundle.item_ids, inputs, types, encoders)


def evaluate_bundle(bundle: Bundle, test: SessionLoader, ks: Sequence[int]) -> ModelResults:
    """Rank the targets of queries that use the bundle's item indices and codes."""
    begin = time.perf_counter()
    items = np.array(bundle.vectors)
    ranking = rank_with_bundle(bundle, items, test)
    seconds = time.perf_counter() - begin
    event_type, names = test.prepared.event_type[ranking.event], test.prepared.event_types
    metrics = {f"test/{name}": value for name, value in means_by_type(ranking, event_type, ks, names).items()}
    return ModelResults(metrics, ranking, items, seconds)


def rank_with_bundle(bundle: Bundle, items: Array, batches: Iterable[SessionBatch]) -> RankingResults:
    """Rank the targets of all batches among the whole catalogue, one history a query, as in serving.

    Args:
        bundle: opened.
        items: [V, D] its vectors.
        batches: in the bundle's item indices; inputs [B, L, K] in the order of its event inputs.
    """
    candidates = column_major(torch.from_numpy(items))
    parts = []
    for batch in tqdm(batches, "the bundle", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history = histories_of(batch, queries)
        valid = history != PAD
        codes = batch.inputs[queries.row][valid].numpy()
        known = KnownEvents(history[valid].numpy(), codes, valid.sum(1).numpy())
        vectors = encode_histories(bundle.tower, bundle.history_vectors, known, history.shape[1])
        user = torch.from_numpy(vectors)
        parts.append(RankingResults.of(queries.event, *rank_and_list(user, candidates, queries.target, LIST_LENGTH)))
    return concatenate_results(parts)
