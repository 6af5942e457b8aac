"""Top-k softmax: who is left in."""

import math

import pytest
import torch
from made_scores import drawn_scores, gradients, naive_logits, scores_of

from twotower.model.losses.top_k import top_k_softmax


def test_the_k_largest_corrected_logits_stay() -> None:
    target = torch.tensor([0.0, 0.0])
    negative = torch.tensor([[math.log(2), 0.0, math.log(3), math.log(4)], [0.0, math.log(5), -math.inf, 0.0]])
    costs = top_k_softmax(scores_of(target, negative), k=2)
    assert costs.tolist() == pytest.approx([math.log(1 + 4 + 3), math.log(1 + 5 + 1)])
    log_q = torch.tensor([0.0, math.log(1 / 9), 0.0, 0.0])  # the second counts nine times, so it is among the largest
    costs = top_k_softmax(scores_of(target, negative, log_q=log_q), k=2)
    assert costs.tolist() == pytest.approx([math.log(1 + 9 + 4), math.log(1 + 45 + 1)])


@pytest.mark.parametrize("k", [1, 2])
def test_a_naive_loop_and_only_those_move(k: int) -> None:
    scores = drawn_scores(4, 12)
    costs = top_k_softmax(scores, k)
    moved = torch.zeros(12, dtype=torch.bool)
    for p in range(4):
        target_logit, others = naive_logits(scores, p)
        total = sum(map(math.exp, sorted(others)[-k:]))
        share = math.exp(target_logit) / (math.exp(target_logit) + total)
        assert costs[p].item() == pytest.approx(-math.log(share if scores.sign[p] > 0 else 1 - share))
        kept = [n for n in range(12) if n != scores.hit[p].item()]
        moved[[kept[i] for i in sorted(range(len(kept)), key=lambda i, o=others: o[i])[-k:]]] = True
    assert gradients(costs, scores)[2].any(1).tolist() == moved.tolist()
    assert not moved.all()
