"""AdamW, dense and lazy, with warm-up and cosine decay of the learning rate.

Bytes of an item table in training, with its gradient and the optimiser's state (V items, D dim, R rows of a step):

    adamw                         4VD + 4VD + 8VD = 16VD
    lazy_adamw                    4VD + 4RD + 8VD = 12VD + 4RD
    lazy_adamw, row_wise          4VD + 4RD + 4VD + 4V = 8VD + 4RD + 4V
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from twotower.model.memory_costs import SparseTables, memory_cost
from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.sharded_embedding import ShardedEmbedding
from twotower.model.two_tower import TwoTower


def adamw(
    model: TwoTower, total_steps: int, learning_rate: float, weight_decay: float, warmup_fraction: float
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) and its schedule over `total_steps`.

    Every step updates all V * D weights. Weight decay applies to the matrices of layers only: embeddings, positions,
    norms and biases are left out, since decay would shrink the vectors of items that a step never touches.
    """
    optimizer = torch.optim.AdamW(_groups(model, weight_decay), lr=learning_rate, fused=True)
    return optimizer, LambdaLR(optimizer, warmup_cosine(total_steps, warmup_fraction))


def _tables(model: TwoTower) -> list[Any]:
    """The item towers' embedding tables."""
    modules = [module for tower in model.item_towers() for module in tower.modules()]
    return [m for m in modules if isinstance(m, nn.Embedding | ShardedEmbedding)]


def _sparse_memory(model: TwoTower, row_wise: bool, **_: float) -> SparseTables:
    weights = [table.weight for table in _tables(model)]
    parameters = sum(weight.numel() for weight in weights)
    return SparseTables(parameters, parameters + (sum(map(len, weights)) if row_wise else parameters))


@memory_cost(_sparse_memory)
def lazy_adamw(
    model: TwoTower,
    total_steps: int,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    row_wise: bool,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW that updates only the rows of the item tower's tables that a step used, and its schedule.

    For catalogues much larger than a step; the tables get sparse gradients. With model.negatives=catalogue every row
    is used, and adamw is faster.

    Args:
        model: its tables are switched to sparse gradients.
        total_steps: length of the schedule.
        learning_rate: its peak.
        weight_decay: of the layers' matrices, as in adamw.
        warmup_fraction: share of all steps.
        row_wise: one second moment a row instead of D; see LazyAdamW.
    """
    for table in _tables(model):
        table.sparse = True
    optimizer = LazyAdamW(_groups(model, weight_decay), lr=learning_rate, row_wise=row_wise)
    return optimizer, LambdaLR(optimizer, warmup_cosine(total_steps, warmup_fraction))


def warmup_cosine(total_steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Return step -> factor of the learning rate: linear up, then down along a cosine to 1 % of the peak.

    >>> factor = warmup_cosine(total_steps=100, warmup_fraction=0.1)
    >>> [round(factor(step), 2) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.51, 0.01]
    """
    warmup = max(1, round(total_steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: with weight decay and without."""
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.RNNBase))
    decayed = {id(p) for layer in layers for p in layer.parameters(recurse=False) if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in decayed]
    others = [p for p in model.parameters() if id(p) not in decayed]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]
