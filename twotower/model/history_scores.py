"""What the pointer over the history adds to a softmax. Shapes: P target positions, L history length."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from twotower.core.errors import UserError

Loss = TypeVar("Loss", bound=Callable[..., Any])
ABSENT = -1e30  # logit of an event that is not in a history: exp is 0, and gradients stay finite


class HistoryScores(NamedTuple):
    """What the history adds to the scores of target positions: see model.pointer.

    >>> one = torch.ones(1, 2)
    >>> is_target, column = torch.tensor([[True, False]]), torch.tensor([[-1, -1]])
    >>> scores = HistoryScores(similarity=3 * one, pointer=0.5 * one, is_target=is_target, column=column)
    >>> scores.target_bonus(), scores.others()
    (tensor([0.5000]), tensor([3.5000]))
    """

    similarity: Tensor  # [P, L] u . h_j / temperature of the history's items as candidates
    pointer: Tensor  # [P, L] p_j; ABSENT where the history has no event
    is_target: Tensor  # [P, L] whether event j's item is the position's target
    column: Tensor  # [P, L] of the item among the negatives, where its logit has no pointer in it; -1 if in none

    def target_bonus(self) -> Tensor:
        """[P] log(sum of exp(p_j) over the target's events); 0 for a target that is not in the history."""
        bonus = torch.logsumexp(self.pointer.masked_fill(~self.is_target, ABSENT), dim=-1)
        return bonus.masked_fill(~self.is_target.any(dim=-1), 0)

    def others(self) -> Tensor:
        """[P] logsumexp of u . h_j / temperature + p_j over the events of other items."""
        logits = (self.similarity + self.pointer).masked_fill(self.is_target, ABSENT)
        return torch.logsumexp(logits.clamp(min=ABSENT), dim=-1)


def taken_out(hit: Tensor, history: HistoryScores | None) -> Tensor:
    """[P, K] columns of negatives that a position does not count: its target [P] and its history's items; or -1."""
    return hit[:, None] if history is None else torch.cat([hit[:, None], history.column], dim=1)


def with_history(history: HistoryScores | None, target: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Add the history's part, which is exact, to the targets' logits [P] and the logsumexp of the negatives [P]."""
    if history is None:
        return target, others
    return target + history.target_bonus(), torch.logaddexp(others, history.others())


def knows_pointer(loss: Loss) -> Loss:
    """Declare that a loss takes `Scores.history` into account: a decorator."""
    setattr(loss, "knows_pointer", True)  # noqa: B010 # no type of a function has this attribute
    return loss


def require_pointer_in(loss: Any) -> None:
    """Raise UserError for a loss that does not take `Scores.history` into account."""
    loss = getattr(loss, "func", loss)  # of a partial
    if not getattr(loss, "knows_pointer", False):
        raise UserError(
            f"model/loss: {loss.__name__} is no softmax, in which the pointer over the history has its place; "
            "take model/pointer=none or model/loss=softmax"
        )
