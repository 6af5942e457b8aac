"""Ranking with a bundle against the retriever's user vectors, one query at a time."""

from typing import Any

import numpy as np
import pytest
from shop_events import make_shop

from twotower.data.loader import query_loader
from twotower.evaluation.evaluate_bundle import evaluate_bundle
from twotower.evaluation.ranked import ranked_items
from twotower.serving.retriever import Retriever


@pytest.mark.slow
def test_ranks_and_lists_are_those_of_the_bundles_vectors(
    make_prepared: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    retriever = Retriever.load(make_shop(tmp_path_factory).path)
    ids, vectors = retriever.bundle.item_ids.to_pylist(), np.array(retriever.bundle.vectors)
    random = np.random.default_rng(0)
    sessions = [random.integers(1, len(ids) + 1, random.integers(2, 9)).tolist() for _ in range(25)]
    prepared = make_prepared(sessions, [1] * 25, [0] * 25, len(ids))
    results = evaluate_bundle(retriever.bundle, query_loader(prepared, "test", 4, 32), [1, 20], ranked_items(prepared))
    expected = []
    for start, session in zip(prepared.offsets, sessions, strict=False):
        for place in range(1, len(session)):
            (user,) = retriever.encode([[ids[item - 1] for item in session[max(0, place - 4) : place]]])
            scores = vectors @ user
            better = int((scores > scores[session[place] - 1] + 1e-6).sum())
            expected.append((int(start) + place, better, (np.argsort(-scores)[:20] + 1).tolist()))
    ranking = results.ranking
    found = zip(ranking.event.tolist(), ranking.better.tolist(), ranking.top.tolist(), strict=True)
    assert list(found) == expected
    share = np.mean([better < 20 for _, better, _ in expected])
    assert results.metrics["test/recall_at_20"] == pytest.approx(share) and results.seconds > 0
