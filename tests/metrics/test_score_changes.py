"""Ranks with raised scores against all scores, one at a time."""

import pytest
import torch

from twotower.core.schema import PAD
from twotower.metrics.ranks import rank_and_list
from twotower.metrics.score_changes import raised


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_lists_of_raised_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    user, items = torch.randn(9, 4, generator=generator), torch.randn(30, 4, generator=generator)
    target = torch.randint(1, 31, (9,), generator=generator)
    history = torch.randint(1, 6, (9, 5), generator=generator)
    history[torch.arange(5) >= torch.randint(1, 6, (9, 1), generator=generator)] = PAD
    by_item = torch.rand(9, 31, generator=generator) * 3  # one bonus for all events of an item
    ranks, top = rank_and_list(user, items, target, 6, [raised(history, by_item.gather(1, history))])
    for query in range(9):
        scores = (items @ user[query]).tolist()
        for item in {*history[query].tolist()} - {PAD}:
            scores[item - 1] += float(by_item[query, item])
        assert ranks.better[query] == sum(score > scores[target[query] - 1] + 1e-6 for score in scores)
        assert top[query].tolist() == [1 + i for i in sorted(range(30), key=lambda i: -scores[i])[:6]]


def test_no_history_raises_nothing() -> None:
    scores = torch.zeros(1, 3)
    raised(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2)).of(slice(0, 1)).apply(scores, 0)
    assert scores.tolist() == [[0, 0, 0]]
