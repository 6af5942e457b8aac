"""Gradient clipping by norm, also of sparse gradients and of tables that lie on several processes."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor

from twotower.model.distributed import sum_over_processes
from twotower.model.optimizers.lazy_adamw import distinct_rows


@torch.no_grad()
def clip_gradient_norm(parameters: Iterable[Tensor], max_norm: float, sharded: Collection[int] = ()) -> None:
    """torch.nn.utils.clip_grad_norm_; that one takes no sparse gradients, and knows of one process alone.

    Args:
        parameters: of the model.
        max_norm: of all gradients together, on all processes.
        sharded: id() of those parameters of which each process has rows of its own.
    """
    everywhere: list[Tensor] = []
    here: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        values = parameter.grad
        if values.is_sparse:
            parameter.grad = distinct_rows(values)
            values = parameter.grad._values()
        (here if id(parameter) in sharded else everywhere).append(values)
    norm = torch.nn.utils.get_total_norm(everywhere)
    if sharded:
        others = torch.nn.utils.get_total_norm(here).to(norm.device)
        norm = (norm.square() + sum_over_processes(others.square())).sqrt()
    torch._foreach_mul_([*everywhere, *here], (max_norm / (norm + 1e-6)).clamp(max=1.0))
