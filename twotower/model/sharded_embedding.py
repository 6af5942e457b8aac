"""An embedding table distributed over processes. Shapes: R rows, D dim, W processes, n ids to look up."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.core.schema import PAD
from twotower.model.distributed import world_size

BLOCK = 1 << 16  # rows initialised at one time


class _Exchange(torch.autograd.Function):
    """Rows [sum of sent, D] for the other processes, by rank -> rows [sum of received, D] of theirs; differentiable."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        ctx.sent, ctx.received = sent, received
        arrived = rows.new_empty(sum(received), rows.shape[1])
        dist.all_to_all_single(arrived, rows, received, sent)
        return arrived

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        back = gradients[0].new_empty(sum(ctx.sent), gradients[0].shape[1])
        dist.all_to_all_single(back, gradients[0].contiguous(), ctx.sent, ctx.received)
        return back, None, None


class ShardedEmbedding(nn.Module):
    """nn.Embedding whose row r lies on process r % W: each holds R / W rows, their gradients and moments.

    A look-up is collective: all processes have to call `forward` equally often. A process sends ids to the owners of
    the rows, 8 * n bytes, and receives vectors, 4 * n * D; gradients go the other way. The state_dict of the first
    process has all rows, in the host's memory, under nn.Embedding's name, so checkpoints are the same for any number
    of processes, and a model for serving loads them. Initial rows follow from the seed alone.

    >>> ShardedEmbedding(rows=10, dim=4, std=0.1)(torch.tensor([0, 3])).any(dim=1)  # row 0 is PAD
    tensor([False,  True])

    Args:
        rows: R; row PAD stays zero.
        dim: D.
        std: of the initial rows.
    """

    def __init__(self, rows: int, dim: int, std: float) -> None:
        super().__init__()
        self.rows, self.embedding_dim, self.sparse = rows, dim, False
        self.world = world_size()
        self.rank = dist.get_rank() if self.world > 1 else 0
        self.weight = nn.Parameter(torch.empty(len(range(self.rank, rows, self.world)), dim))
        seed = int(torch.randint(2**62, ()))
        with torch.no_grad():
            for begin in range(0, rows, BLOCK):
                generator = torch.Generator().manual_seed(seed + begin)
                drawn = torch.randn(min(BLOCK, rows - begin), dim, generator=generator) * std
                first = (self.rank - begin) % self.world
                local = drawn[first :: self.world]
                at = (begin + first) // self.world
                self.weight[at : at + len(local)] = local
            if self.rank == PAD % self.world:
                self.weight[PAD // self.world] = 0
        if self.world > 1:  # as DDP averages all other gradients
            self.weight.register_hook(lambda gradient: gradient / self.world)  # type: ignore[no-untyped-call] # torch has no type for it

    def forward(self, ids: Tensor) -> Tensor:
        """[n] rows -> [n, D]."""
        if self.world == 1:
            return self._local(ids)
        order = torch.argsort(ids % self.world, stable=True)
        requested = torch.bincount(ids % self.world, minlength=self.world)  # of each other process
        to_serve = torch.empty_like(requested)  # to each other process
        dist.all_to_all_single(to_serve, requested)
        sent, received = requested.tolist(), to_serve.tolist()
        rows = ids.new_empty(sum(received))
        dist.all_to_all_single(rows, ids[order], received, sent)
        vectors: Tensor = _Exchange.apply(self._local(rows // self.world), received, sent)  # type: ignore[no-untyped-call] # torch has no type for it
        return vectors[torch.argsort(order)]

    def _local(self, places: Tensor) -> Tensor:
        """[n] places among this process's rows -> [n, D]."""
        padding = PAD // self.world if self.rank == PAD % self.world else None
        return F.embedding(places, self.weight, padding_idx=padding, sparse=self.sparse)

    def gather(self, local: Tensor) -> Tensor:
        """[R / W, ...] values of each process's rows -> [R, ...] of all rows on the first process; empty elsewhere."""
        if self.world == 1:
            return local
        local = local.detach().cpu()
        longest = -(-self.rows // self.world)
        padded = F.pad(local, (0, 0) * (local.ndim - 1) + (0, longest - len(local)))
        if self.rank:
            dist.gather(padded, dst=0)
            return local[:0]
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.gather(padded, parts)
        return torch.stack(parts, dim=1).flatten(0, 1)[: self.rows]

    def scatter(self, values: Tensor) -> Tensor:
        """[R, ...] values of all rows -> [R / W, ...] of this process's rows."""
        return values[self.rank :: self.world].contiguous()  # a fused optimiser needs contiguous memory

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self.gather(self.weight)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        name = f"{prefix}weight"
        if name in state_dict and len(state_dict[name]) == self.rows:
            state_dict = {**state_dict, name: self.scatter(state_dict[name])}
        super()._load_from_state_dict(state_dict, prefix, *rest)


def sharded_in(model: nn.Module) -> dict[str, ShardedEmbedding]:
    """Return a model's tables that are distributed over several processes, by the names of their weights."""
    tables = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, ShardedEmbedding)}
    return {name: table for name, table in tables.items() if table.world > 1}


def convert_moments(
    tables: Mapping[str, ShardedEmbedding],
    optimizer: torch.optim.Optimizer,
    checkpoint: dict[str, Any],
    convert: Callable[[ShardedEmbedding, Tensor], Tensor],
) -> None:
    """Convert the optimiser's moments of distributed tables in a Lightning checkpoint: gather or scatter them."""
    if not checkpoint.get("optimizer_states"):
        return
    by_weight = {id(table.weight): table for table in tables.values()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = checkpoint["optimizer_states"][0]["state"]
    for number, parameter in enumerate(parameters):
        if id(parameter) in by_weight and number in state:
            table = by_weight[id(parameter)]
            state[number] = {name: convert(table, v) if v.ndim else v for name, v in state[number].items()}
