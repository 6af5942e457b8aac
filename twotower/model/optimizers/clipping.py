"""Gradient clipping by norm, also of sparse gradients and of tables distributed over processes."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from twotower.model.distributed import sum_over_processes
from twotower.model.optimizers.lazy_adamw import distinct_rows


@torch.no_grad()
def clip_gradient_norm(parameters: Iterable[Tensor], max_norm: float, sharded: Collection[int] = ()) -> None:
    """Clip like torch.nn.utils.clip_grad_norm_, which supports neither sparse gradients nor distributed tables.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradient_norm([weight], max_norm=1.0)
    >>> weight.grad
    tensor([0.6000, 0.8000])

    Args:
        parameters: of the model.
        max_norm: of all gradients together, on all processes.
        sharded: id() of the parameters whose rows are distributed over the processes.
    """
    replicated: list[Tensor] = []
    distributed: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        values = parameter.grad
        if values.is_sparse:
            parameter.grad = distinct_rows(values)
            values = parameter.grad._values()
        (distributed if id(parameter) in sharded else replicated).append(values)
    norm = torch.nn.utils.get_total_norm(replicated)
    if sharded:
        others = torch.nn.utils.get_total_norm(distributed).to(norm.device)
        norm = (norm.square() + sum_over_processes(others.square())).sqrt()
    torch._foreach_mul_([*replicated, *distributed], (max_norm / (norm + 1e-6)).clamp(max=1.0))
