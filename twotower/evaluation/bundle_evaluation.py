"""What a bundle answers to queries: its user tower and its items, as a serving team has them.

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
from twotower.core.schema import FEATURES_FILE
from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults
from twotower.evaluation.other_data import ModelVocabulary
from twotower.metrics.ranks import by_column, histories_of, queries_of, rank_and_list
from twotower.metrics.results import LISTED, RankingResults, in_order, means_by_type
from twotower.serving.bundle import Bundle
from twotower.serving.user_tower import TOWER_OUTPUT, padded_feed

Array = npt.NDArray[Any]
POSITIONS = 2**14  # history positions that the user tower sees at once


def vocabulary_of_bundle(bundle: Bundle) -> ModelVocabulary:
    """What the numbers of a bundle mean."""
    features = read_json(bundle.file(FEATURES_FILE), "a bundle")
    data = bundle.manifest["dataset_fingerprint"]
    return ModelVocabulary(
        bundle.path, data, bundle.item_ids, list(bundle.inputs), features["event_types"], features["events"]
    )


def test_bundle(bundle: Bundle, test: SessionLoader, ks: Sequence[int]) -> ModelResults:
    """Of a bundle, to queries in its own numbers."""
    begin = time.perf_counter()
    items = np.array(bundle.vectors)
    answers = answer_queries(bundle, items, test)
    seconds = time.perf_counter() - begin
    event_type, names = test.prepared.event_type[answers.event], test.prepared.event_types
    metrics = {f"test/{name}": value for name, value in means_by_type(answers, event_type, ks, names).items()}
    return ModelResults(metrics, answers, items, seconds)


def answer_queries(bundle: Bundle, items: Array, batches: Iterable[SessionBatch]) -> RankingResults:
    """The answers to all queries, over the whole catalogue.

    A query is one row, as in serving: the towers of a run encode all of a session's positions at once.

    Args:
        bundle: opened.
        items: [V, D] its vectors.
        batches: item indices are the bundle's, and inputs [B, L, K] those that it names, in its order.
    """
    candidates = by_column(torch.from_numpy(items))
    parts = []
    for batch in tqdm(batches, "the bundle", unit="batch", leave=False, disable=None):
        queries = queries_of(batch)
        history = histories_of(batch, queries)
        codes = batch.inputs[queries.row] * (history > 0)[:, :, None]
        step = max(1, POSITIONS // history.shape[1])
        vectors = []
        for begin in range(0, len(history), step):
            part = slice(begin, begin + step)
            feed = padded_feed(bundle.history_vectors, history[part].numpy(), codes[part].numpy())
            vectors.append(bundle.tower.run([TOWER_OUTPUT], feed)[0])
        if vectors:
            user = torch.from_numpy(np.concatenate(vectors))
            parts.append(RankingResults.of(queries.event, *rank_and_list(user, candidates, queries.target, LISTED)))
    return in_order(parts)
