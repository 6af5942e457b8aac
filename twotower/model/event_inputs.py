"""What is known of an event beside its item. Shapes: B rows, L length, D dim, K inputs."""

from collections.abc import Mapping

from torch import Tensor, nn

from twotower.core.event_codes import TIME


class EventInputs(nn.Module):
    """One embedding an event input, added to the item's vector; only the input `time` is handed on as it is.

    They start at zero, so that training begins as it would without them. Code 0, unknown, is learnt like any other:
    it stands for what an event is taken for when nothing is said of it.

    Args:
        sizes: how many codes each input has, in the order of the columns of `inputs`; may be empty.
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

        Times are 0, unknown, where the model has no input `time`.
        """
        columns = dict(zip(self.names, inputs.unbind(-1), strict=True))
        seconds = columns.pop(TIME) if TIME in columns else inputs.new_zeros(inputs.shape[:2])
        vectors = item_vectors
        for embedding, codes in zip(self.embeddings, columns.values(), strict=True):
            vectors = vectors + embedding(codes)
        return vectors, seconds
