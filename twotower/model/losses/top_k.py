"""Softmax over each position's hardest negatives. Shapes: P target positions, N negatives."""

from torch import Tensor

from twotower.model.history_scores import knows_pointer, with_history
from twotower.model.losses.cross_entropy import cross_entropy, log_sum_exp
from twotower.model.scoring import Scores, logits


@knows_pointer
def top_k_softmax(scores: Scores, k: int) -> Tensor:
    """Cross-entropy [P] of the target among itself and its k negatives of largest corrected logit.

    Of many shared negatives only those that a position could mistake for its target get a gradient (TRON, Wilm et
    al. 2023, arXiv:2307.14906). The sum over the catalogue is cut short, so this is softmax's estimate from below.

    >>> import torch
    >>> one = torch.ones(1, 1)
    >>> top_k_softmax(Scores(one, one, -one, torch.zeros(1), torch.tensor([-1]), torch.ones(1), 1.0), k=100)
    tensor([0.1269])
    """
    target, negative, sign = logits(scores)
    hardest = negative.topk(min(k, negative.shape[1]), dim=1, sorted=False).values
    return cross_entropy(*with_history(scores.history, target, log_sum_exp(hardest)), sign)
