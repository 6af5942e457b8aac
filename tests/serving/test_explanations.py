"""Shares of events in scores, against encoding every beginning and end of a history by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.serving.retriever import Retriever

IDS = [f"item {i}" for i in range(30)]
HISTORY = [IDS[3], "nowhere", IDS[7], IDS[3], IDS[11]]


@pytest.fixture(scope="module", params=["cosine", "dot"])
def retriever(request: pytest.FixtureRequest, make_bundle: Any) -> Retriever:
    path: Path = make_bundle(IDS, similarity=request.param)
    return Retriever.load(path)


def score(retriever: Retriever, history: list[str], item: str) -> float:
    """Of one item, 0 without a history."""
    if not history:
        return 0.0
    answer = retriever.recommend([history], k=len(IDS))
    return dict(zip(answer.ids[0], answer.scores[0].tolist(), strict=True))[item]


def test_shares_are_the_mean_of_what_events_add_in_two_orders(retriever: Retriever) -> None:
    items = [IDS[3], IDS[20]]
    (shares,) = retriever.explain([HISTORY], [items])
    assert shares.shape == (2, 5)
    known = [place for place, item in enumerate(HISTORY) if item in IDS]
    for item, row in zip(items, shares, strict=True):
        expected = np.zeros(5)
        for n, place in enumerate(known):
            before, after = [HISTORY[p] for p in known[:n]], [HISTORY[p] for p in known[n + 1 :]]
            forward = score(retriever, [*before, HISTORY[place]], item) - score(retriever, before, item)
            backward = score(retriever, [HISTORY[place], *after], item) - score(retriever, after, item)
            expected[place] = (forward + backward) / 2
        np.testing.assert_allclose(row, expected, atol=1e-5)
        assert row.sum() == pytest.approx(score(retriever, HISTORY, item), abs=1e-5)
        assert row[1] == 0, "an unknown item explains nothing"


def test_events_that_the_model_does_not_see_have_no_share(retriever: Retriever) -> None:
    longest = int(retriever.bundle.manifest["max_length"])
    history = [IDS[i % 30] for i in range(longest + 3)]
    (shares,) = retriever.explain([history], [[IDS[0]]])
    assert (shares[0, :3] == 0).all() and shares[0].sum() == pytest.approx(score(retriever, history, IDS[0]), abs=1e-5)


def test_histories_without_a_known_item_and_unknown_items(retriever: Retriever) -> None:
    nothing, empty, unknown = retriever.explain([["nowhere"], [], [IDS[1]]], [[IDS[2]], [IDS[2]], ["nowhere", IDS[2]]])
    assert nothing.tolist() == [[0]] and empty.shape == (1, 0)
    assert np.isnan(unknown[0]).all() and unknown[1, 0] != 0
    assert retriever.explain([], []) == []
    with pytest.raises(UserError, match=r"items\[0\] is 'item 3'; expected for each history one list of item ids"):
        retriever.explain([[IDS[1]]], [IDS[3]])
    with pytest.raises(UserError, match="1 lists for 2 histories"):
        retriever.explain([[IDS[1]], [IDS[2]]], [[IDS[3]]])
