"""Ranks with raised scores against all scores, one at a time."""

import pytest
import torch

from twotower.core.schema import PAD
from twotower.metrics.ranks import rank_and_list
from twotower.metrics.score_changes import history_changes


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_lists_of_raised_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    user, items = torch.randn(9, 4, generator=generator), torch.randn(30, 4, generator=generator)
    target = torch.randint(1, 31, (9,), generator=generator)
    history = torch.randint(1, 6, (9, 5), generator=generator)
    history[torch.arange(5) >= torch.randint(1, 6, (9, 1), generator=generator)] = PAD
    by_item = torch.rand(9, 31, generator=generator) * 3  # one bonus for all events of an item
    ranks, top = rank_and_list(user, items, target, 6, [history_changes(history, by_item.gather(1, history))])
    for query in range(9):
        scores = (items @ user[query]).tolist()
        for item in {*history[query].tolist()} - {PAD}:
            scores[item - 1] += float(by_item[query, item])
        assert ranks.better[query] == sum(score > scores[target[query] - 1] + 1e-6 for score in scores)
        assert top[query].tolist() == [1 + i for i in sorted(range(30), key=lambda i: -scores[i])[:6]]


def test_a_raised_target_is_tied_with_itself_however_its_score_is_rounded() -> None:
    draw = torch.Generator().manual_seed(0)
    user = torch.nn.functional.normalize(torch.randn(20_000, 64, generator=draw), dim=1)
    items = torch.nn.functional.normalize(torch.randn(50, 64, generator=draw), dim=1)
    target = torch.randint(1, 51, (20_000,), generator=draw)
    bonus = torch.rand(20_000, 1, generator=draw) * 40
    (better, tied), top = rank_and_list(user, items, target, 5, [history_changes(target[:, None], bonus)])
    assert (tied == 1).all()
    scores = user.double() @ items.double().T
    own = scores.gather(1, target[:, None] - 1) + bonus
    assert torch.equal(better, (scores > own).sum(1))
    assert torch.equal(top[:, 0] == target, better == 0)


def test_a_user_of_nan_finds_nothing() -> None:
    user, target = torch.full((1, 2), torch.nan), torch.tensor([2])
    (better, tied), top = rank_and_list(user, torch.randn(3, 2), target, 2)
    assert (better.tolist(), tied.tolist(), top.tolist()) == ([3], [1], [[PAD, PAD]])


def test_no_history_raises_nothing() -> None:
    scores = torch.zeros(1, 3)
    history_changes(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2)).of(slice(0, 1)).apply(scores, 0)
    assert scores.tolist() == [[0, 0, 0]]
