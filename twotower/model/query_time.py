"""Time of the query: the moment that a position is asked about, which serving knows.

A request comes seconds or weeks after the newest event of its history, and what is wanted then differs. So how long ago
each event was is counted from that moment (HSTU, Zhai et al. 2024, arXiv:2402.17152), not from the newest event.
Shapes: B sessions, L history length, D embedding dim.
"""

from typing import Any

import torch
from torch import Tensor, nn

from twotower.core.event_codes import AT_ONCE

AT_ONCE_SHARE = 0.5  # of the training positions


def draw_now(target_time: Tensor) -> Tensor:
    """Times [B, L] of targets, in seconds -> moments [B, L] to train with: AT_ONCE for a random half of them.

    So the model also learns to answer without the time of its target, as it does where a request gives none.
    """
    is_at_once = torch.rand(target_time.shape, device=target_time.device) < AT_ONCE_SHARE
    return torch.where(is_at_once, AT_ONCE, target_time)


def ask(user_tower: nn.Module, events: Tensor, seconds: Tensor, now: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the user tower's output, that for who asks after each event, and the moments [B, L] in seconds.

    Args:
        user_tower: with a method `asked`, which TransformerTower describes; needed with `now` alone.
        events, seconds: [B, L, D] its input, and the events' times [B, L].
        now: moments [B, L] or [B, 1], AT_ONCE for that of a position's own event; None: all AT_ONCE.
    """
    if now is None:
        states: Tensor = user_tower(events, seconds)
        return states, states, seconds
    tower: Any = user_tower
    moments = torch.where(now == AT_ONCE, seconds, now)
    return *tower.asked(events, seconds, moments), moments
