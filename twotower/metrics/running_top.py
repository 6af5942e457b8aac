"""The best items of each query, found while its scores pass by in tiles of columns. Shapes: Q queries, K items."""

import torch
from torch import Tensor

from twotower.core.schema import PAD

GROUP = 16  # columns whose best score is compared at first: most groups have none that gets into a list
KEPT = 1  # times K candidates a query, on average, that wait until they are merged into the lists


class RunningTop:
    """Lists of the K best items. A score is looked at closely only if it is above the K-th best of the tiles before.

    >>> top = RunningTop(torch.zeros(1), k=2)
    >>> top.update(torch.tensor([[0.1, 0.3, 0.2]]), first=0)
    >>> top.update(torch.tensor([[0.0, 0.4, -torch.inf]]), first=3)
    >>> top.items()
    tensor([[5, 2]])

    Args:
        like: [Q] of the scores' type and device.
        k: K.
    """

    def __init__(self, like: Tensor, k: int) -> None:
        self._score = like.new_full((len(like), k), -torch.inf)
        self._item = torch.full((len(like), k), PAD, device=like.device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # query, item_index, score
        self._least: Tensor | None = None  # [Q] to get into a list; None before the first tile

    def update(self, scores: Tensor, first: int) -> None:
        """Look at scores [Q, columns] of the items from column `first` on; -inf is in no list."""
        k, columns = self._score.shape[1], scores.shape[1]
        size = GROUP if columns % GROUP == 0 and columns // GROUP >= k else 1
        groups = scores.view(len(scores), size, -1)  # a group's members lie apart, so all groups are compared at once
        best = groups.amax(1) if size > 1 else scores
        least = self._least
        if least is None:  # k groups reach this, so the k-th best of all scores does; equal ones have to be let in
            least = best.topk(min(k, best.shape[1])).values[:, -1].nextafter(best.new_tensor(-torch.inf))
        query, group = (best > least[:, None]).nonzero(as_tuple=True)
        members = groups[query, :, group]
        place, member = (members > least[query, None]).nonzero(as_tuple=True)
        item = first + 1 + member * groups.shape[2] + group[place]
        self._waiting.append((query[place], item, members[place, member]))
        if self._least is None or sum(len(items) for _, items, _ in self._waiting) > KEPT * self._score.numel():
            self._merge()

    def items(self) -> Tensor:
        """[Q, K] item_index of the best items, best first; PAD at the end where there are fewer."""
        self._merge()
        return self._item

    def _merge(self) -> None:
        """Put the waiting candidates into the lists."""
        if not self._waiting:
            return
        query, item, score = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        query, order = query.sort(stable=True)
        count = query.bincount(minlength=len(self._score))
        place = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query]
        width = int(count.max())
        scores = torch.cat([self._score, self._score.new_full((len(count), width), -torch.inf)], dim=1)
        items = torch.cat([self._item, self._item.new_full((len(count), width), PAD)], dim=1)
        k = self._score.shape[1]
        scores[query, k + place], items[query, k + place] = score[order], item[order]
        best = scores.topk(k)
        self._score, self._item = best.values, items.gather(1, best.indices)
        self._least, self._waiting = best.values[:, -1], []
