"""Embeddings of event inputs (event_type, gap, hour ...). Shapes: B rows, L length, D dim, K inputs."""

from collections.abc import Mapping

from torch import Tensor, nn

from twotower.core.event_codes import TIME


class EventInputs(nn.Module):
    """One embedding for each event input, added to the item's vector; the input `time` is passed on as seconds.

    Embeddings start at zero, so that training begins as it would without them. Code 0, unknown, is trained like any
    other code.

    >>> import torch
    >>> add = EventInputs(sizes={"hour": 25}, dim=4)
    >>> vectors, seconds = add(torch.ones(1, 2, 4), torch.tensor([[[9], [10]]]))
    >>> vectors.shape, seconds  # no input `time`
    (torch.Size([1, 2, 4]), tensor([[0, 0]]))

    Args:
        sizes: number of codes of each input, in the order of the columns of `inputs`; may be empty.
        dim: D.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.names = list(sizes)
        self.embeddings = nn.ModuleList(nn.Embedding(size, dim) for name, size in sizes.items() if name != TIME)
        for embedding in self.embeddings:
            nn.init.zeros_(embedding.weight)  # type: ignore[arg-type]

    def forward(self, item_vectors: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Item vectors [B, L, D] and codes [B, L, K] -> event vectors [B, L, D] and times [B, L] in seconds.

        Times are 0 (unknown) if the model has no input `time`.
        """
        columns = dict(zip(self.names, inputs.unbind(-1), strict=True))
        seconds = columns.pop(TIME) if TIME in columns else inputs.new_zeros(inputs.shape[:2])
        vectors = item_vectors
        for embedding, codes in zip(self.embeddings, columns.values(), strict=True):
            vectors = vectors + embedding(codes)
        return vectors, seconds
