"""Memory costs that losses and optimisers declare; read by training.memory_forecast.

Shapes: P target positions, N negatives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import nn

Declared = TypeVar("Declared", bound=Callable[..., Any])
COPIES = 4  # of [P, N] logits that autograd keeps for a loss which declares nothing


class SparseTables(NamedTuple):
    """Numbers of the embedding tables with sparse gradients, and of the optimiser's state for them."""

    parameters: int
    state: int


def memory_cost(cost: Callable[..., Any]) -> Callable[[Declared], Declared]:
    """Declare the memory cost of a loss or an optimiser: a decorator.

    `cost` gets the same settings as the function that it decorates; what else it gets and returns, peak_logits and
    sparse_tables say.
    """

    def declare(function: Declared) -> Declared:
        setattr(function, "memory_cost", cost)  # noqa: B010 # no type of a function has this attribute
        return function

    return declare


def peak_logits(loss: Callable[..., Any], positions: int, negatives: int) -> int:
    """Count the numbers that a loss holds for its logits at one time, by its cost(positions, negatives, **settings).

    A loss without a declared cost is taken for dense operations under autograd: COPIES * P * N.

    >>> from twotower.model.losses.softmax import softmax
    >>> peak_logits(partial(softmax, chunk_items=512), positions=100, negatives=8192)
    51200
    """
    cost = _declared(loss)
    return int(cost(positions, negatives)) if cost else COPIES * positions * negatives


def sparse_tables(optimizer: Callable[..., Any], model: nn.Module) -> SparseTables:
    """Count the tables that an optimiser updates sparsely, by its cost(model, **settings).

    An optimiser without a declared cost is taken for Adam: dense gradients and two moments of every weight.
    """
    cost = _declared(optimizer)
    return SparseTables(*cost(model)) if cost else SparseTables(0, 0)


def _declared(configured: Callable[..., Any]) -> Callable[..., Any] | None:
    """The cost of a function, which settings may be bound to."""
    function, settings = (configured.func, configured.keywords) if isinstance(configured, partial) else (configured, {})
    cost = getattr(function, "memory_cost", None)
    return partial(cost, **settings) if cost else None
