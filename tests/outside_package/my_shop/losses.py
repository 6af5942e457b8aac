"""A pairwise hinge loss. Shapes: P target positions, N negatives."""

from torch import Tensor

from twotower.model.scoring import Scores, logits


def hinge(scores: Scores, margin: float) -> Tensor:
    """[P] mean over the negatives of how far their logits are from `margin` below the target's."""
    target, negative, _ = logits(scores)
    return (margin + negative - target[:, None]).clamp(min=0).mean(1)
