"""What is ranked for a query, and which targets are repeats, beside loops over queries and items."""

import numpy as np
import pytest
import torch

from twotower.metrics.beyond_accuracy import category_diversity, novelty, popularity, vector_diversity
from twotower.metrics.candidates import Candidates
from twotower.metrics.ranking_metrics import metric_values
from twotower.metrics.ranks import IMPOSSIBLE, rank_and_list


def drawn(seed: int, sessions: int, num_items: int) -> tuple[list[list[int]], np.ndarray, np.ndarray, np.ndarray]:
    """Sessions, their events and offsets, and the positions of some events that have a history."""
    random = np.random.default_rng(seed)
    rows = [random.integers(1, num_items + 1, random.integers(2, 12)).tolist() for _ in range(sessions)]
    offsets = np.cumsum([0, *map(len, rows)])
    events = np.setdiff1d(np.arange(offsets[-1]), offsets)
    return rows, np.concatenate(rows).astype(np.int32), offsets, random.permutation(events)[: len(events) * 2 // 3]


@pytest.mark.parametrize(("seed", "sessions", "num_items"), [(0, 1, 3), (1, 20, 5), (2, 30, 100), (3, 7, 1)])
def test_a_repeat_is_in_its_own_history(seed: int, sessions: int, num_items: int) -> None:
    rows, item_index, offsets, event = drawn(seed, sessions, num_items)
    expected = {int(offsets[s]) + p: row[p] in row[:p] for s, row in enumerate(rows) for p in range(1, len(row))}
    found = Candidates(item_index, offsets).is_repeat(event)
    assert found.tolist() == [expected[e] for e in event.tolist()]
    assert Candidates(item_index, offsets).is_repeat(event[:0]).tolist() == []


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("num_items", [4, 12, 60])
def test_items_that_are_not_ranked_are_in_no_list_and_before_no_target(
    num_items: int, filtered: bool, exclude_seen: bool
) -> None:
    rows, item_index, offsets, event = drawn(num_items, 25, num_items)
    allowed = np.arange(num_items) % 3 > 0 if filtered else None
    ranked = Candidates(item_index, offsets, exclude_seen, allowed)
    random = torch.Generator().manual_seed(0)
    user, items = torch.randn(len(event), 6, generator=random), torch.randn(num_items, 6, generator=random)
    target = torch.from_numpy(item_index[event].astype(np.int64))
    ranks, top = rank_and_list(user, items, target, 8, ranked.restriction(torch.from_numpy(event)))
    for query, position in enumerate(event.tolist()):
        session = int(np.searchsorted(offsets, position, side="right")) - 1
        seen = rows[session][: position - offsets[session]] if exclude_seen else []
        scores = {
            item: float(user[query] @ items[item - 1])
            for item in range(1, num_items + 1)
            if item not in seen and (allowed is None or allowed[item - 1])
        }
        best = sorted(scores, key=lambda item: -scores[item])[:8]
        assert top[query].tolist() == best + [0] * (top.shape[1] - len(best))
        if (own := int(target[query])) in scores:
            assert int(ranks.better[query]) == sum(score > scores[own] for score in scores.values())
        else:
            assert int(ranks.better[query]) == IMPOSSIBLE
            one = type(ranks)(ranks.better[query, None], ranks.tied[query, None])
            assert metric_values(one, [1, 10**4]).eq(0).all(), "not even with fewer items than the cut-off"
    assert (ranked.restriction(torch.from_numpy(event)) == []) == (not exclude_seen and not filtered)


def test_the_end_of_a_short_list_counts_for_nothing() -> None:
    counts, vectors = np.array([0, 5, 1, 3]), np.eye(3, dtype=np.float32)
    category = np.array([-1, 0, 0, 1])
    full, short = np.array([[1, 2]]), np.array([[1, 2, 0, 0]])
    for metric, *arguments in (
        *((novelty, counts), (popularity, counts)),
        *((vector_diversity, vectors), (category_diversity, category)),
    ):
        assert metric(short, *arguments) == pytest.approx(metric(full, *arguments)), metric.__name__
    single, nothing = np.array([[3, 0]]), np.array([[0, 0]])
    assert popularity(single, counts) == 3 and popularity(nothing, counts) == 0
    assert vector_diversity(single, vectors) == 0 and category_diversity(nothing, category) == 0
