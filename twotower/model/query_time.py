"""Time of the query: the moment that a position is asked about, which serving knows.

A request comes seconds or weeks after the newest event of its history, and what is wanted then differs. So how long ago
each event was is counted from that moment (HSTU, Zhai et al. 2024, arXiv:2402.17152), not from the newest event.
Shapes: B sessions, L history length.
"""

import torch
from torch import Tensor

from twotower.core.event_codes import AT_ONCE

AT_ONCE_SHARE = 0.5  # of the training positions


def draw_now(target_time: Tensor) -> Tensor:
    """Times [B, L] of targets, in seconds -> moments [B, L] to train with: AT_ONCE for a random half of them.

    So the model also learns to answer without the time of its target, as it does where a request gives none.
    """
    is_at_once = torch.rand(target_time.shape, device=target_time.device) < AT_ONCE_SHARE
    return torch.where(is_at_once, AT_ONCE, target_time)


def moments(now: Tensor, seconds: Tensor) -> Tensor:
    """Moments [B, L] or [B, 1] and the events' times [B, L] -> moments [B, L]; that of its own event for AT_ONCE."""
    return torch.where(now == AT_ONCE, seconds, now)
