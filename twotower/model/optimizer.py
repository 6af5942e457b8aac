"""AdamW with warm-up and cosine decay."""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def adamw(
    model: nn.Module, total_steps: int, learning_rate: float, weight_decay: float, warmup_fraction: float
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW (Loshchilov & Hutter 2019) and its schedule over `total_steps`.

    Weight decay applies to the matrices of the layers alone: embeddings, positions, norms and biases are left
    out, since decay would shrink the vectors of items that a step never touches.
    """
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | nn.RNNBase))
    decayed = {id(p) for layer in layers for p in layer.parameters(recurse=False) if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in decayed]
    others = [p for p in model.parameters() if id(p) not in decayed]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)
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
