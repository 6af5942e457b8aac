"""LazyAdamW: a step reads and writes only the table rows that it used.

Shapes: V rows of a table, D their length, R rows that a step used.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LazyAdamW(torch.optim.AdamW):
    """AdamW whose parameters with sparse gradients are updated row by row.

    A row without gradient keeps its value and its moments, as in torch.optim.SparseAdam. A row with gradient is updated
    as in AdamW without weight decay; the bias correction counts the steps of the whole table. All other parameters are
    updated by AdamW.

    A step moves 32 * R * D bytes, where dense AdamW moves 32 * V * D. State takes 8 * V * D bytes; with `row_wise`
    4 * V * D + 4 * V, since a row then has one second moment, of its mean square (as in the row-wise optimisers of
    Naumov et al. 2019, arXiv:1906.00091).

    >>> table = torch.nn.Embedding(3, 2, sparse=True)
    >>> before = table.weight.detach().clone()
    >>> table(torch.tensor([1])).sum().backward()
    >>> LazyAdamW(table.parameters(), lr=0.1, row_wise=False).step()
    >>> (table.weight != before).any(dim=1)
    tensor([False,  True, False])

    Args:
        params: as of AdamW.
        lr: the learning rate.
        row_wise: one second moment a row.
    """

    def __init__(self, params: Iterable[Any], lr: float, row_wise: bool) -> None:
        super().__init__(params, lr=lr, fused=True)
        self.row_wise = row_wise
        self._step_supports_amp_scaling = False  # the rows need unscaled gradients

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; sparse gradients are removed."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._step_rows(parameter, group)
                    parameter.grad = None  # AdamW rejects sparse gradients
        super().step()
        return result

    def _step_rows(self, table: Tensor, group: dict[str, Any]) -> None:
        assert table.grad is not None
        grad = distinct_rows(table.grad)
        rows, values = grad._indices()[0], grad._values()  # [R], [R, D]
        state, (beta1, beta2) = self.state[table], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(table)
            state["exp_avg_sq"] = table.new_zeros(len(table), 1) if self.row_wise else torch.zeros_like(table)
        state["step"] += 1
        step = float(state["step"])
        square = values.square()
        if self.row_wise:
            square = square.mean(dim=1, keepdim=True)
        first = state["exp_avg"].index_select(0, rows).lerp_(values, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows).lerp_(square, 1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        deviation = second.sqrt_().mul_((1 - beta2**step) ** -0.5).add_(group["eps"])
        table.index_add_(0, rows, first.div_(deviation), alpha=-group["lr"] / (1 - beta1**step))


def distinct_rows(grad: Tensor) -> Tensor:
    """Sparse gradient [V, D] in which each row occurs once; without summing if that holds already."""
    rows = grad._indices()[0]
    if grad.is_coalesced() or bool((rows[1:] > rows[:-1]).all()):  # of a step that encodes each item once
        return grad._coalesced_(True)
    return grad.coalesce()
