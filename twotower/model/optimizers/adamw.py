"""Optimisers with warm-up and cosine decay.

Bytes that V items of dimension D take in training, for the table, its gradient and its state (R rows used in a step):

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

from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.sharded_embedding import ShardedEmbedding
from twotower.model.two_tower import TwoTower


def adamw(
    model: TwoTower, total_steps: int, learning_rate: float, weight_decay: float, warmup_fraction: float
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW (Loshchilov & Hutter 2019) and its schedule over `total_steps`; a step passes over all V * D weights.

    Weight decay applies to the matrices of the layers alone: embeddings, positions, norms and biases are left
    out, since decay would shrink the vectors of items that a step never touches.
    """
    optimizer = torch.optim.AdamW(_groups(model, weight_decay), lr=learning_rate, fused=True)
    return optimizer, LambdaLR(optimizer, warmup_cosine(total_steps, warmup_fraction))


def lazy_adamw(
    model: TwoTower,
    total_steps: int,
    learning_rate: float,
    weight_decay: float,
    warmup_fraction: float,
    row_wise: bool,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW, but of the item tower's tables only the rows that a step used: for catalogues that are large for a step.

    The tables get sparse gradients. With model.negatives=catalogue every row is used, and adamw is the faster one.

    Args:
        model: the towers.
        total_steps: of the schedule.
        learning_rate: its peak.
        weight_decay: of the layers' matrices, as in adamw.
        warmup_fraction: of all steps.
        row_wise: one second moment a row instead of D; see LazyAdamW.
    """
    for tower in model.item_towers():
        for module in tower.modules():
            if isinstance(module, nn.Embedding | ShardedEmbedding):
                module.sparse = True
    optimizer = LazyAdamW(_groups(model, weight_decay), lr=learning_rate, row_wise=row_wise)
    return optimizer, LambdaLR(optimizer, warmup_cosine(total_steps, warmup_fraction))


def warmup_cosine(total_steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Step -> factor on the learning rate: up in a line, then down along a cosine to 1 % of the peak."""
    warmup = max(1, round(total_steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The model's parameters, those apart that decay."""
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.RNNBase))
    decayed = {id(p) for layer in layers for p in layer.parameters(recurse=False) if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in decayed]
    others = [p for p in model.parameters() if id(p) not in decayed]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]
