"""Rank test queries with a bundle: its ONNX user tower and its item vectors, as a serving team has them.

Shapes: Q queries, L history length, K event inputs, V items, D embedding dim.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from twotower.core.batch import SessionBatch
from twotower.core.files import read_json, write_json
from twotower.core.schema import (
    CATALOGUE_FILE,
    EMBEDDING,
    FEATURES_FILE,
    ITEM_FEATURES_FILE,
    ITEMS_FILE,
    PAD,
    read_item_features,
)
from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults
from twotower.evaluation.reindex import ModelVocabulary
from twotower.features import encode
from twotower.features.numbers import numbers_of
from twotower.metrics.candidates import Candidates
from twotower.metrics.queries import histories_of, queries_of
from twotower.metrics.ranking_results import LIST_LENGTH, RankingResults, concatenate_results, means_by_type
from twotower.metrics.ranks import rank_and_list
from twotower.metrics.score_changes import history_changes
from twotower.serving.bundle import Bundle
from twotower.serving.histories import KnownEvents
from twotower.serving.user_tower import encode_histories

Array = npt.NDArray[Any]
PRICE = ".price"  # how the name of an array of prices ends


def vocabulary_of_bundle(bundle: Bundle) -> ModelVocabulary:
    """Return what the indices and codes of a bundle stand for."""
    features = read_json(bundle.file(FEATURES_FILE), "a bundle")
    fingerprint, inputs = bundle.manifest["dataset_fingerprint"], list(bundle.inputs)
    types = dict(zip(features["event_types"], features["input_types"], strict=True))
    return ModelVocabulary(bundle.path, fingerprint, bundle.item_ids, inputs, types, features["events"])


def write_catalogue(bundle: Bundle, prepared_path: Path, directory: Path) -> None:
    """Write the catalogue of the bundle's current version and its item features as a prepared directory has them.

    A delta may have added items that the data never had, and removed or changed others, so the rows are the bundle's.

    Args:
        bundle: opened.
        prepared_path: the prepared directory, which says which feature is a price.
        directory: a folder for CATALOGUE_FILE, FEATURES_FILE and ITEM_FEATURES_FILE.
    """
    file = bundle.file(ITEMS_FILE)
    items = pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name != EMBEDDING])
    features = read_json(bundle.file(FEATURES_FILE), "a bundle")
    encoders = {name: each for name, each in features["items"].items() if name in items.column_names}
    prices = {name.removesuffix(PRICE) for name in read_item_features(prepared_path) if name.endswith(PRICE)}
    arrays: dict[str, Array] = {}
    for name, encoder in encoders.items():  # vectors are in no column, and no group or weight needs them
        values = items[name].to_pylist()
        arrays |= {f"{name}.{part}": array for part, array in encode(encoder, values)._asdict().items()}
        if name in prices:
            arrays[f"{name}{PRICE}"] = numbers_of(values).astype(np.float32)
    pq.write_table(items, directory / CATALOGUE_FILE)
    write_json(directory / FEATURES_FILE, {**features, "items": encoders})
    np.savez(directory / ITEM_FEATURES_FILE, allow_pickle=False, **arrays)


def evaluate_bundle(bundle: Bundle, test: SessionLoader, ks: Sequence[int], ranked: Candidates) -> ModelResults:
    """Rank the targets of queries that use the bundle's item indices and codes, among the items of `ranked`."""
    begin = time.perf_counter()
    items = np.array(bundle.vectors)
    ranking = rank_with_bundle(bundle, items, test, ranked)
    seconds = time.perf_counter() - begin
    event_type, names = test.prepared.event_type[ranking.event], test.prepared.event_types
    means = means_by_type(ranking, event_type, ranked.is_repeat(ranking.event), ks, names)
    return ModelResults({f"test/{name}": value for name, value in means.items()}, ranking, items, seconds)


def rank_with_bundle(
    bundle: Bundle, items: Array, batches: Iterable[SessionBatch], ranked: Candidates
) -> RankingResults:
    """Rank the targets of all batches, one history a query, as in serving.

    Args:
        bundle: opened.
        items: [V, D] its vectors.
        batches: in the bundle's item indices; inputs [B, L, K] in the order of its event inputs.
        ranked: the items that are ranked.
    """
    candidates = torch.from_numpy(items)
    parts = []
    for batch in tqdm(batches, "the bundle", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history = histories_of(batch, queries)
        valid = history != PAD
        codes = batch.inputs[queries.row][valid].numpy()
        known = KnownEvents(history[valid].numpy(), codes, valid.sum(1).numpy())
        users = encode_histories(bundle.tower, bundle.history_vectors, known, history.shape[1])
        changes = ranked.restriction(queries.event)
        if users.rows is not None and users.bonus is not None:
            changes.insert(0, history_changes(torch.from_numpy(users.rows + 1), torch.from_numpy(users.bonus)))
        results = rank_and_list(torch.from_numpy(users.vectors), candidates, queries.target, LIST_LENGTH, changes)
        parts.append(RankingResults.of(queries.event, *results))
    return concatenate_results(parts)
