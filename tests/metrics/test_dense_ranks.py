"""Ranks in a matrix of scores, against sorting in plain Python."""

import pytest
import torch
from test_ranks import naive

from twotower.metrics import dense_ranks
from twotower.metrics.dense_ranks import rank


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [1, 3, 50, 10_000])
def test_ranks_equal_sorting_with_ties(seed: int, levels: int) -> None:
    torch.manual_seed(seed)
    scores = torch.randint(-levels, levels + 1, (40, 23)).float()
    target = torch.randint(1, 24, (40,))
    better, tied = rank(scores, target)
    expected = [naive(row, item) for row, item in zip(scores.tolist(), target.tolist(), strict=True)]
    assert list(zip(better.tolist(), tied.tolist(), strict=True)) == expected
    assert better.dtype == tied.dtype == torch.int64


def test_equal_scores_are_all_tied() -> None:
    better, tied = rank(torch.zeros(2, 300), torch.tensor([1, 300]))
    assert better.tolist() == [0, 0]
    assert tied.tolist() == [300, 300], "more than a byte can count"


def test_more_items_than_single_precision_counts_are_counted() -> None:
    better, tied = rank(torch.zeros(1, (1 << 24) + 3), torch.tensor([2]))
    assert (better.item(), tied.item()) == (0, 16_777_219)


def test_scores_that_stretch_one_row_over_all_queries_are_ranked_too() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0]).expand(3, -1)
    better, tied = rank(scores, torch.tensor([1, 2, 3]))
    assert better.tolist() == [0, 2, 1]
    assert tied.tolist() == [1, 1, 1]


@pytest.mark.parametrize("compared", [1, 60, 1 << 18])
def test_parts_of_a_score_matrix_change_nothing(monkeypatch: pytest.MonkeyPatch, compared: int) -> None:
    torch.manual_seed(0)
    scores, target = torch.randint(-2, 3, (40, 23)).float(), torch.randint(1, 24, (40,))
    monkeypatch.setattr(dense_ranks, "COMPARED_AT_ONCE", compared)
    better, tied = rank(scores, target)
    expected = [naive(row, item) for row, item in zip(scores.tolist(), target.tolist(), strict=True)]
    assert list(zip(better.tolist(), tied.tolist(), strict=True)) == expected
