"""Where a target stands, against sorting in plain Python."""

from collections.abc import Sequence

import pytest
import torch

from twotower.core.batch import SessionBatch
from twotower.metrics import ranks
from twotower.metrics.queries import histories_of, queries_of
from twotower.metrics.ranks import rank_and_list


def naive(scores: Sequence[float], item: int) -> tuple[int, int]:
    """(items above, items level with it, itself included), found by sorting."""
    target_score = scores[item - 1]
    places = [place for place, score in enumerate(sorted(scores, reverse=True)) if score == target_score]
    return places[0], len(places)


@pytest.mark.parametrize("queries", [1, 7, 40, 1024])
@pytest.mark.parametrize("tile", [1, 23, 60, 23 * 40, 1 << 19])
@pytest.mark.parametrize("listed", [0, 1, 9])
def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, queries: int, tile: int, listed: int) -> None:
    torch.manual_seed(0)
    user, items = torch.randint(-2, 3, (40, 3)).float(), torch.randint(-2, 3, (23, 3)).float()
    target, scores = torch.randint(1, 24, (40,)), user @ items.T
    expected = [naive(row, item) for row, item in zip(scores.tolist(), target.tolist(), strict=True)]
    monkeypatch.setattr(ranks, "QUERIES", queries)
    monkeypatch.setattr(ranks, "TILE", tile)
    (better, tied), top = rank_and_list(user, items, target, listed)
    assert list(zip(better.tolist(), tied.tolist(), strict=True)) == expected
    assert torch.equal(scores.gather(1, top - 1), scores.sort(1, descending=True).values[:, :listed])
    assert all(len(set(row)) == listed for row in top.tolist())


def test_no_query_gives_no_rank() -> None:
    better, tied = rank_and_list(torch.empty(0, 3), torch.randn(5, 3), torch.empty(0, dtype=torch.long), 0)[0]
    assert better.shape == tied.shape == (0,)


def test_vectors_of_half_precision_are_not_ranked_in_it() -> None:
    user, items = torch.ones(2, 2), torch.tensor([[1.0, 0.001], [1.0, 0.002]])  # sums that bfloat16 can't tell apart
    for dtype in (torch.bfloat16, torch.float32):
        better, tied = rank_and_list(user.to(dtype), items.to(dtype), torch.tensor([1, 2]), 0)[0]
        assert (better.tolist(), tied.tolist()) == ([1, 0], [1, 1])


def test_items_with_one_vector_are_tied_wherever_they_stand() -> None:
    """Rounding in a matrix product must not separate equal columns."""
    torch.manual_seed(0)
    for num_items, dim in ((37, 24), (1001, 64), (3, 128)):
        items = torch.randn(1, dim).expand(num_items, -1).contiguous()
        target = torch.tensor([1, num_items, num_items // 2 + 1])
        better, tied = rank_and_list(torch.randn(3, dim), items, target, 0)[0]
        assert better.tolist() == [0, 0, 0]
        assert tied.tolist() == [num_items] * 3


def test_queries_are_the_positions_with_a_target_to_be_found_and_their_history_is_all_up_to_there() -> None:
    batch = SessionBatch(
        item_index=torch.tensor([[5, 6, 7], [8, 9, 0]]),
        inputs=torch.zeros(2, 3, 0, dtype=torch.long),
        target=torch.tensor([[0, 7, 3], [9, 4, 0]]),
        target_type=torch.tensor([[0, 1, 2], [1, 0, 0]]),
        target_weight=torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.0]]),
        event=torch.tensor([[1, 2, 3], [5, 6, 0]]),
        target_time=torch.zeros(2, 3),
    )
    queries = queries_of(batch)
    assert [column.tolist() for column in queries] == [[0, 0, 1], [1, 2, 0], [7, 3, 9], [1, 2, 1], [2, 3, 5]]
    assert histories_of(batch, queries).tolist() == [[5, 6, 0], [5, 6, 7], [8, 0, 0]]


@pytest.mark.parametrize("listed", [1, 3, 7, 9])
def test_the_list_has_the_best_items_best_first(listed: int) -> None:
    user, items, target = torch.randn(40, 3), torch.randn(7, 3), torch.randint(1, 8, (40,))
    ranks, top = rank_and_list(user, items, target, listed)
    expected = (user @ items.T).argsort(1, descending=True)[:, :listed] + 1
    assert torch.equal(top, expected)
    for one, other in zip(ranks, rank_and_list(user, items, target, 0)[0], strict=True):
        assert torch.equal(one, other)
