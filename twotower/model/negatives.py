"""Samplers of negatives: item ids with their log-probabilities.

A sampler is a torch module, built with `target_counts` [V + 1], from a step's targets [P] to Negatives. It may have a
method `max_negatives(positions)` for the memory forecast, which else takes it for V.
Shapes: P targets of a step, N negatives, V items.
"""

import math
import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twotower.core.schema import PAD
from twotower.model.distributed import gather_rows


class Negatives(NamedTuple):
    """Negatives shared by all targets of a step; ids are distinct and ascending."""

    ids: Tensor  # [N] item_index
    log_q: Tensor  # [N] log-probability that a position with another target has the item among its negatives


class CatalogueNegatives(nn.Module):
    """Every item, with probability 1: full softmax. Cost grows with P * V.

    >>> CatalogueNegatives(target_counts=torch.tensor([0, 3, 1]))(torch.tensor([2, 1]))
    Negatives(ids=tensor([1, 2]), log_q=tensor([0., 0.]))

    Args:
        target_counts: [V + 1] how often each item is a target in the training data.
    """

    def __init__(self, target_counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", torch.arange(1, len(target_counts)), persistent=False)
        self.register_buffer("log_q", torch.zeros(len(target_counts) - 1), persistent=False)
        self.ids: Tensor
        self.log_q: Tensor

    def forward(self, target: Tensor) -> Negatives:
        """[P] targets -> all items."""
        return Negatives(self.ids, self.log_q)


class MixtureNegatives(nn.Module):
    """The union of in-batch targets, targets of earlier steps, uniform draws and draws by popularity.

    For a position with another target, an item is missing only if no draw of any source is it. So it is present with
    probability 1 - (1 - 1/V)^uniform (1 - w)^popularity (1 - p)^(P - 1 + targets kept), where p is its share of all
    targets and w its share of their counts to the power. That is the one log_q for the whole mixture: exact for draws
    with replacement, which the step's other targets and the kept ones are taken for.

    P counts the targets of all processes together (cross-rank negatives), and the draws come from the sampler's own
    generator, which is in the same state on each process. So a batch has the same negatives on one process as on
    several, and they depend neither on dropout nor on the device's other work.
    A catalogue of at most `uniform` items is taken whole: then the softmax is the full one, at no higher cost.

    >>> sampler = MixtureNegatives(target_counts=torch.ones(1001), uniform=100, in_batch=True)
    >>> ids, log_q = sampler(torch.tensor([7, 400]))
    >>> bool(torch.isin(torch.tensor([7, 400]), ids).all()), len(ids) == len(log_q) <= sampler.max_negatives(2)
    (True, True)

    Args:
        target_counts: [V + 1] how often each item is a target in the training data.
        uniform: draws a step from the whole catalogue.
        in_batch: whether the step's own targets serve as negatives for each other.
        popularity: draws a step by popularity.
        popularity_power: exponent of the counts for these; 1 draws like the targets, 0 uniformly among them.
        queue: number of targets of earlier steps that serve as well (cross-batch negatives, first in, first out).

    Raises:
        ValueError: a negative number of draws, or no source that gives negatives in every step.
    """

    log_miss: Tensor  # [V + 1] log-probability that a target is another item
    cumulative: Tensor  # [V + 1] running sum of counts ** power; float64, so that rare items keep their share
    kept: Tensor  # [queue] targets of earlier steps, the newest last; PAD where there were none yet

    def __init__(
        self,
        target_counts: Tensor,
        uniform: int,
        in_batch: bool,
        popularity: int = 0,
        popularity_power: float = 0.75,
        queue: int = 0,
    ) -> None:
        super().__init__()
        given = f"uniform={uniform}, in_batch={in_batch}, popularity={popularity}, queue={queue}"
        if min(uniform, popularity, queue) < 0 or not (uniform or in_batch or popularity):
            raise ValueError(f"{given}; expected numbers from 0, and a source that gives negatives in every step")
        self.num_items = len(target_counts) - 1
        self.uniform, self.in_batch, self.popularity = uniform, in_batch, popularity
        self.whole = CatalogueNegatives(target_counts) if self.num_items <= uniform else None
        self.seed, self.step = torch.initial_seed(), 0
        counts = target_counts.double()
        share = counts / counts.sum().clamp(min=1)
        self.register_buffer("log_miss", torch.log1p(-share.clamp(max=1 - 1e-12)), persistent=False)
        weight = torch.where(counts > 0, counts**popularity_power, 0.0)
        self.register_buffer("cumulative", weight.cumsum(0) if popularity else None, persistent=False)
        self.register_buffer("kept", torch.full((queue,), PAD))

    def forward(self, target: Tensor) -> Negatives:
        """[P] this process's targets -> the distinct negatives of all processes with their log_q."""
        if self.whole is not None:
            return self.whole.forward(target)
        generator = self._generator(target.device)
        sources = [torch.randint(1, self.num_items + 1, (self.uniform,), generator=generator, device=target.device)]
        if self.popularity:
            sources.append(self._draw_by_popularity(generator))
        if self.in_batch or len(self.kept):
            target = gather_rows(target)
        if self.in_batch:
            sources.append(target)
        ids = torch.unique(torch.cat([*sources, self.kept]))
        if len(self.kept):
            ids = ids[ids != PAD]
        log_q = self._log_q(ids, max(0, len(target) - 1) if self.in_batch else 0)
        if len(self.kept):
            self._keep(target, generator)
        return Negatives(ids, log_q)

    def max_negatives(self, positions: int) -> int:
        """Largest N of a step with `positions` targets."""
        if self.whole is not None:
            return self.num_items
        return min(self.num_items, self.uniform + self.popularity + len(self.kept) + positions * self.in_batch)

    def get_extra_state(self) -> dict[str, int]:
        """Return the state of the generator, for checkpoints."""
        return {"seed": self.seed, "step": self.step}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Continue the draws after the step at which `get_extra_state` was called; on any device."""
        self.seed, self.step = state["seed"], state["step"]

    def _generator(self, device: torch.device) -> torch.Generator:
        """A generator for this step, from seed and step alone."""
        self.step += 1
        return torch.Generator(device).manual_seed(random.Random(f"{self.seed} {self.step}").getrandbits(63))

    def _draw_by_popularity(self, generator: torch.Generator) -> Tensor:
        total = self.cumulative[-1]
        place = torch.rand(self.popularity, generator=generator, device=total.device, dtype=total.dtype) * total
        return torch.searchsorted(self.cumulative, place, right=True).clamp(max=self.num_items)

    def _log_q(self, ids: Tensor, others: int) -> Tensor:
        """[N] log_q from the probability that every source misses the item."""
        missed = self.uniform * math.log1p(-1 / self.num_items) + others * self.log_miss[ids]
        if self.popularity:
            share = (self.cumulative[ids] - self.cumulative[ids - 1]) / self.cumulative[-1]
            missed = missed + self.popularity * torch.log1p(-share.clamp(max=1 - 1e-12))
        if len(self.kept):
            missed = missed + (self.kept != PAD).sum() * self.log_miss[ids]
        # Finite also for the target of a step's only position, which no other position can draw.
        return torch.log(-torch.expm1(missed)).float().clamp(min=torch.finfo(torch.float32).min)

    def _keep(self, target: Tensor, generator: torch.Generator) -> None:
        """Append the step's targets to the queue, in an order that depends on neither processes nor item ids."""
        order = torch.randperm(len(target), generator=generator, device=target.device)
        self.kept.copy_(torch.cat([self.kept, target.sort().values[order]])[-len(self.kept) :])
