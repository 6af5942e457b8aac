"""Lists found in tiles of scores against sorting all of them."""

import pytest
import torch

from twotower.core.schema import PAD
from twotower.metrics.running_top import RunningTop


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
@pytest.mark.parametrize(("k", "width"), [(1, 16), (5, 160), (20, 512), (20, 7)])
def test_lists_equal_sorting(order: str, k: int, width: int) -> None:
    scores = torch.randn(13, 1100, generator=torch.Generator().manual_seed(k))
    if order != "random":
        scores = scores.sort(1, descending=order == "falling").values
    top = RunningTop(scores[:, 0], k)
    for first in range(0, 1100, width):
        top.update(scores[:, first : first + width], first)
    assert torch.equal(top.items(), scores.argsort(1, descending=True)[:, :k] + 1)


def test_equal_scores_fill_a_list_with_different_items() -> None:
    top = RunningTop(torch.zeros(3), 4)
    for first in range(0, 96, 32):
        top.update(torch.zeros(3, 32), first)
    assert [len(set(row)) for row in top.items().tolist()] == [4] * 3 and top.items().min() > PAD


def test_what_is_not_ranked_is_in_no_list() -> None:
    scores = torch.full((2, 64), -torch.inf)
    scores[0, 40], scores[0, 3] = 1, 2
    top = RunningTop(scores[:, 0], 3)
    for first in (0, 32):
        top.update(scores[:, first : first + 32], first)
    assert top.items().tolist() == [[4, 41, PAD], [PAD, PAD, PAD]]
