"""Pointer over the history: how likely the next event repeats each event seen.

One user vector cannot lie close to forty seen items at once, nor close to their like and far from themselves. So each
event j of the history gets a logit p_j beside the user vector u, and an item v scores

    u . v / temperature                                                       if the history does not have it,
    u . v / temperature + log(sum of exp(p_j) over the events j of item v)    if it does,

whose softmax over the catalogue has the partition Z = (sum of exp(u . v / temperature) over the items v that are not
in the history) + (sum of exp(u . h_j / temperature + p_j) over its events): the first is estimated from negatives, the
second is exact. Seen items are raised where they repeat and lowered where they do not. The idea of a repeat mode beside
an explore mode is RepeatNet's (Ren et al. 2019, arXiv:1812.02646), here in a form that a dot product's index can serve.
Shapes: B sessions, L history length, D embedding dim, P target positions, Q queries, V items.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.arrays import LARGEST_EXPONENT
from twotower.core.schema import PAD
from twotower.model.dropout import Dropout
from twotower.model.history_scores import ABSENT, HistoryScores
from twotower.model.scoring import accidental_hits, at_least_float32
from twotower.model.time_bias import TimeBias

COUNTS = 8  # occurrences of an item in a history are told apart up to this number
KEPT = 2.0  # sigmoid(2) is .88: training begins where a seen item has about twice the weight of its own term


class Pointer(nn.Module):
    """Logits of the history's events, from the states, the distance to each event and how often its item occurred.

    p_ij = log(exp(m_ij) + g_i / n_ij) for j <= i, where n_ij is how often the item of event j occurs up to event i,
    m_ij = (W state_i) . (K state_j + E event_j) / sqrt(D) + r . state_i + a[i - j] + c[n_ij] + b[bucket of now_i -
    time_j], b only with `age`, and g_i = sigmoid(k . state_i + k0) is the share of a seen item's own term that is kept,
    however little its events say. W, r, a, b, c and k start at zero, k0 at KEPT.

    >>> pointer = Pointer(dim=4, max_length=9, temperature=0.1)
    >>> items = torch.tensor([[7, 8, 7]])
    >>> pointer(*torch.zeros(3, 1, 3, 4), *torch.zeros(2, 1, 3), occurrences(items))[0, 1]
    tensor([0.6317, 0.6317, 0.6317], grad_fn=<SelectBackward0>)

    Args:
        dim: D.
        max_length: the longest history.
        temperature: of the model's scores, for which a bonus in logits is multiplied by it.
        age: whether logits depend on how long before the moment that is asked about an event was.
        dropout: of states and events in training: without, it learns by heart which training sessions repeat.
    """

    def __init__(self, dim: int, max_length: int, temperature: float, age: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.temperature = temperature
        self.query = nn.Linear(dim, dim)
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)
        self.key = nn.Linear(2 * dim, dim, bias=False)
        self.repeat = nn.Linear(dim, 1, bias=False)  # whether the next event is a repeat at all
        nn.init.zeros_(self.repeat.weight)
        self.keep = nn.Linear(dim, 1)  # how much of a seen item's own score stays
        nn.init.zeros_(self.keep.weight)
        nn.init.constant_(self.keep.bias, KEPT)
        self.distance = nn.Parameter(torch.zeros(max_length))
        self.occurrence = nn.Parameter(torch.zeros(COUNTS))
        self.age = TimeBias(heads=1) if age else None

    def forward(
        self, asking: Tensor, states: Tensor, events: Tensor, now: Tensor, seconds: Tensor, count: Tensor
    ) -> Tensor:
        """Logits after each event.

        Args:
            asking: [B, L, D] the states conditioned on what is asked for; without an objective the same as `states`.
            states: [B, L, D] the user tower's output.
            events: [B, L, D] event vectors, the user tower's input.
            now: [B, L] the moments that are asked about, in seconds; used with `age`.
            seconds: [B, L] the events' times; used with `age`.
            count: [B, L, L] how often the item of event j occurs up to event i; see `occurrences`.

        Returns:
            [B, L, L] p_ij; what stands at j > i has no meaning.
        """
        place = torch.arange(states.shape[1], device=states.device)
        distance = (place[:, None] - place).clamp(min=0)
        asking = self.dropout(asking)
        logits: Tensor = (
            self._match(asking, self.dropout(states), self.dropout(events))
            + _looked_up(self.distance, distance)
            + self._count_bias(count)
        )
        if self.age is not None:
            logits = logits + self.age(now, seconds).squeeze(1)
        return _with_kept(logits, self.keep(asking), count)

    def newest(
        self,
        newest: Tensor,
        count: Tensor,
        asking: Tensor,
        states: Tensor,
        events: Tensor,
        now: Tensor,
        seconds: Tensor,
    ) -> Tensor:
        """[B, L] logits after event `newest` [B] of each history; count [B, L] is up to that event."""
        state = asking.gather(1, newest[:, None, None].expand(-1, -1, states.shape[-1]))
        place = torch.arange(states.shape[1], device=states.device)
        distance = (newest[:, None] - place).clamp(min=0)
        # As in `_match`, but the one query goes through the keys' weights, not each event: fewer operations in serving.
        of_states, of_events = (self.query(state) @ self.key.weight).transpose(1, 2).chunk(2, dim=1)
        match = states @ (of_states / math.sqrt(states.shape[-1])) + events @ of_events + self.repeat(state)
        logits: Tensor = match.squeeze(2) + _looked_up(self.distance, distance) + self._count_bias(count)
        if self.age is not None:
            logits = logits + self.age(now.gather(1, newest[:, None]), seconds)[:, 0, 0]
        return _with_kept(logits, self.keep(state).squeeze(2), count)

    def _match(self, asking: Tensor, states: Tensor, events: Tensor) -> Tensor:
        """[B, n, D] states that ask -> [B, n, L] with each event."""
        width = math.sqrt(states.shape[-1])  # event vectors are about of length one, states of length sqrt(D)
        keys = self.key(torch.cat([states / width, events], dim=-1))
        match: Tensor = self.query(asking) @ keys.transpose(-1, -2) + self.repeat(asking)
        return match

    def _count_bias(self, count: Tensor) -> Tensor:
        return _looked_up(self.occurrence, count.clamp(1, COUNTS) - 1)


def _with_kept(match: Tensor, keep: Tensor, count: Tensor) -> Tensor:
    """[..., L] log(exp(m) + g / n) from m [..., L], g before its sigmoid [..., 1], and n [..., L]."""
    return match + F.softplus(F.logsigmoid(keep) - count.clamp(min=1).log() - match)


def _looked_up(values: Tensor, place: Tensor) -> Tensor:
    """Values [n] at places of any shape; several times as fast as advanced indexing, with its gradient."""
    return values.index_select(0, place.flatten()).view(place.shape)


def occurrences(item_index: Tensor) -> Tensor:
    """[B, L] histories -> [B, L, L]: how often the item of event j occurs among the events up to i."""
    return (item_index[:, :, None] == item_index[:, None]).cumsum(1, dtype=torch.int32)


def history_scores(
    user: Tensor,
    item_vectors: Tensor,
    pointer: Tensor,
    item_index: Tensor,
    target: Tensor,
    is_target: Tensor,
    temperature: float,
    negative_ids: Tensor,
    shift: Tensor | float = 0.0,
) -> HistoryScores:
    """What the history adds to the scores of the P positions that are targets.

    Args:
        user: [B, L, D] user vectors after each event.
        item_vectors: [B, L, D] of the histories' items, as candidates.
        pointer: [B, L, L] p_ij.
        item_index: [B, L] histories.
        target: [B, L] item_index.
        is_target: [B, L] the positions of the result.
        temperature: divides similarities.
        negative_ids: [N] the step's negatives, distinct and ascending.
        shift: [B, 1, L] taken from the logits of the histories' items.
    """
    similarity = at_least_float32((user / temperature) @ item_vectors.transpose(-1, -2)) - shift
    logits = mask_future(at_least_float32(pointer), item_index)
    has_event = logits != ABSENT
    same = has_event & (target[:, :, None] == item_index[:, None])
    column = accidental_hits(item_index, negative_ids)[:, None].expand_as(logits).masked_fill(~has_event, -1)
    return HistoryScores(*(field[is_target] for field in (similarity, logits, same, column)))


def mask_future(pointer: Tensor, item_index: Tensor) -> Tensor:
    """[B, L, L] p_ij with ABSENT for later events and PAD."""
    length = item_index.shape[1]
    future = torch.ones(length, length, dtype=torch.bool, device=item_index.device).triu(1)
    return pointer.masked_fill(future | (item_index == PAD)[:, None], ABSENT)


def item_bonuses(pointer: Tensor, history: Tensor) -> Tensor:
    """[Q, L] float64, what is added to each event's item: log(sum of exp(p) over all of its events); 0 for PAD.

    Args:
        pointer: [Q, L] p_j.
        history: [Q, L] item_index, PAD where there is no event.
    """
    exponential = pointer.double().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp().masked_fill(history == PAD, 0)
    same = (history[:, :, None] == history[:, None]).to(exponential.dtype)
    return (same @ exponential[:, :, None]).squeeze(-1).log().masked_fill(history == PAD, 0)
