"""The two-tower model: what training optimises and export writes to a bundle.

Shapes: B sessions, L history length, K event inputs, D embedding dim, V items.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.event_codes import ANY_TYPE
from twotower.core.schema import PAD
from twotower.model.objective import Objective
from twotower.model.pointer import Pointer, occurrences
from twotower.model.query_time import ask
from twotower.model.scoring import truncate

Maybe = Tensor | None


class TwoTower(nn.Module):
    """Encodes histories and items; the dot product of user and item vectors ranks the catalogue.

    >>> from twotower.model.event_inputs import EventInputs
    >>> from twotower.model.item_tower.id import IdItemTower
    >>> from twotower.model.user_tower.gru import GRUTower
    >>> parts = IdItemTower(100, 8, normalize=True), EventInputs({}, 8), GRUTower(8, layers=1, dropout=0.0)
    >>> model = TwoTower(*parts, residual=None, normalize=True)
    >>> users = model(item_index=torch.tensor([[5, 9, 0]]), inputs=torch.zeros(1, 3, 0, dtype=torch.long))
    >>> (users @ model.encode_items().T).shape  # a score of every item
    torch.Size([1, 100])

    Args:
        item_tower: [...] item_index -> [..., D]; PAD is the zero vector.
        event_inputs: item vectors [B, L, D] and codes [B, L, K] -> event vectors [B, L, D] and times [B, L] in seconds.
        user_tower: event vectors and times -> [B, L, D], causal.
        residual: item vectors, the user tower's output and the same of who asks, all [B, L, D] -> [B, L, D] to add to
            the last, causal; or None.
        normalize: scale user vectors to length one, for cosine similarity.
        history_tower: as `item_tower`, for the items of histories (untied); None: `item_tower` for both (tied).
        pointer: logits of the history's events, for repeats; or None.
        objective: condition on the event type that is asked for; or None.
        query_time: condition on the moment that is asked about, by the user tower's `asked` and the pointer's age.
    """

    def __init__(
        self,
        item_tower: nn.Module,
        event_inputs: nn.Module,
        user_tower: nn.Module,
        residual: nn.Module | None,
        normalize: bool,
        history_tower: nn.Module | None = None,
        pointer: Pointer | None = None,
        objective: Objective | None = None,
        query_time: bool = False,
    ) -> None:
        super().__init__()
        self.item_tower = item_tower
        self.event_inputs = event_inputs
        self.user_tower = user_tower
        self.residual = residual
        self.normalize = normalize
        self.history_tower = history_tower
        self.pointer = pointer
        self.objective = objective
        self.query_time = query_time
        self.served_dim: int | None = None  # None: all dimensions

    def item_towers(self) -> list[nn.Module]:
        """Return the tower of candidates and, if untied, that of histories."""
        return [self.item_tower] if self.history_tower is None else [self.item_tower, self.history_tower]

    def encode_items(self) -> Tensor:
        """[V, D] vectors of the catalogue as candidates: row r is item_index r + 1."""
        return self.served(self._encode_all(self.item_tower))

    def encode_history_items(self) -> Tensor:
        """[V, D] vectors of the catalogue in histories; the same as candidates if tied."""
        return self._encode_all(self.item_towers()[-1])

    def encode_history(self, item_vectors: Tensor, inputs: Tensor) -> Tensor:
        """Item vectors [B, L, D] and codes [B, L, K] of histories -> [B, L, D] user vectors after each event."""
        return self._encode(item_vectors, inputs, None, None)[0]

    def encode_positions(
        self, item_vectors: Tensor, inputs: Tensor, item_index: Tensor, asked: Maybe = None, now: Maybe = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `encode_history`, with the pointer's logits [B, L, L]: of event j after event i, for histories [B, L].

        `asked` [B, L] or [B, 1] are codes of objectives; without them, and without model.objective, any event.
        `now` [B, L] or [B, 1] are the moments asked about, in seconds; without them, and for AT_ONCE, that of event i.
        """
        users, *states = self._encode(item_vectors, inputs, asked, now)
        return users, None if self.pointer is None else self.pointer(*states, occurrences(item_index))

    def _encode(self, item_vectors: Tensor, inputs: Tensor, asked: Maybe, now: Maybe) -> tuple[Tensor, ...]:
        """User vectors, the states that ask, the states and the tower's input, [B, L, D]; moments and times [B, L]."""
        events, seconds = self.event_inputs(item_vectors, inputs)
        states, asking, now = ask(self.user_tower, events, seconds, now if self.query_time else None)
        vectors = asking if self.residual is None else asking + self.residual(item_vectors, states, asking)
        if self.objective is not None:
            asked = inputs.new_full((1, 1), ANY_TYPE) if asked is None else asked
            vectors, asking = self.objective(vectors, asked), self.objective(asking, asked)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors, asking, states, events, now, seconds

    def forward(self, item_index: Tensor, inputs: Tensor) -> Tensor:
        """Encode the user after the newest event of each history.

        Args:
            item_index: [B, L] histories, PAD on the right, none empty.
            inputs: [B, L, K] codes of their events.

        Returns:
            [B, D].
        """
        newest = (item_index != PAD).sum(dim=1) - 1
        return self.encode_newest(self.item_towers()[-1](item_index), inputs, newest)[0]

    def with_pointer(
        self, item_index: Tensor, inputs: Tensor, asked: Maybe = None, now: Maybe = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`, for objectives [B] at moments [B], with the pointer's logits [B, L]; None without a pointer."""
        newest = (item_index != PAD).sum(dim=1) - 1
        count = (item_index[:, :, None] == item_index[:, None]).sum(dim=2)
        return self.encode_newest(self.item_towers()[-1](item_index), inputs, newest, count, asked, now)

    def encode_newest(
        self,
        item_vectors: Tensor,
        inputs: Tensor,
        newest: Tensor,
        count: Maybe = None,
        asked: Maybe = None,
        now: Maybe = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `with_pointer`, from item vectors [B, L, D] and the position [B] of each history's newest event.

        `count` [B, L] is how often the item of each event occurs in its history; without it the pointer is left out.
        """
        users, *states = self._encode(item_vectors, inputs, *(x if x is None else x[:, None] for x in (asked, now)))
        users = self.served(_at(newest, users))
        return users, None if count is None or self.pointer is None else self.pointer.newest(newest, count, *states)

    def served(self, vectors: Tensor) -> Tensor:
        """[n, D] -> [n, served_dim] the dimensions to serve; see model.matryoshka."""
        return vectors if self.served_dim is None else truncate(vectors, self.served_dim, self.normalize)

    def _encode_all(self, tower: nn.Module) -> Tensor:
        device = next(self.parameters()).device
        num_items = int(tower.num_items)  # type: ignore[arg-type]
        vectors: Tensor = tower(torch.arange(1, num_items + 1, device=device))
        return vectors


def _at(position: Tensor, vectors: Tensor) -> Tensor:
    """[B] positions and [B, L, D] -> [B, D]."""
    return vectors.gather(1, position[:, None, None].expand(-1, -1, vectors.shape[-1])).squeeze(1)
