"""A table on two processes against the same table on one. Shapes: R rows, D dim."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo import on_two_processes
from test_world_size import NUM_ITEMS, TrainingStep, global_batches, share_of
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.losses.softmax import softmax
from twotower.model.negatives import MixtureNegatives
from twotower.model.optimizers.adamw import adamw, lazy_adamw
from twotower.model.optimizers.clipping import clip_gradient_norm
from twotower.model.sharded_embedding import BLOCK, ShardedEmbedding, sharded_in
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower
from twotower.training.module import TwoTowerModule

pytestmark = pytest.mark.slow
DIM = 8
OPTIMIZERS = {"adamw": adamw, "lazy_adamw": partial(lazy_adamw, row_wise=True)}
IDS = [[3, 3, 0, 59, 1], []]  # of each process


def module_of(name: str, sharded: bool) -> TwoTowerModule:
    torch.manual_seed(3)
    tower = IdItemTower(NUM_ITEMS, DIM, True, sharded=sharded)
    settings: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.01, "warmup_fraction": 0.0}
    module = TwoTowerModule(
        model=TwoTower(tower, EventInputs({}, DIM), GRUTower(DIM, 1, 0.0), None, True),
        negatives=MixtureNegatives(torch.arange(NUM_ITEMS + 1).flip(0) % 7, 10, True),
        loss=softmax,
        temperature=0.2,
        optimizer=partial(OPTIMIZERS[name], **settings),
        total_steps=100,
        ks=[1],
        event_types=["view"],
    )
    module.log = lambda *args, **kwargs: None
    module.setup("fit")
    return module


def train(name: str, rank: int, world: int) -> dict[str, Any]:
    """Three steps with clipped gradients: the weights and the optimiser's moments before and after a checkpoint."""
    module = module_of(name, sharded=True)
    begun = {key: value.clone() for key, value in module.model.state_dict().items()}
    optimizer, _ = module.optimization
    step = TrainingStep(module)
    names = [f"module.{name}" for name in module._ddp_params_and_buffers_to_ignore]
    step._ddp_params_and_buffers_to_ignore = names
    wrapped = DistributedDataParallel(step) if world > 1 else step
    for batch in global_batches():
        optimizer.zero_grad()
        wrapped(share_of(batch, rank, world)).backward()
        tables = {id(table.weight) for table in sharded_in(module.model).values()}
        clip_gradient_norm(module.model.parameters(), 0.05, tables)
        optimizer.step()
    state = optimizer.state_dict()
    checkpoint = {"state_dict": module.state_dict(), "optimizer_states": [state]}
    local = {number: dict(value) for number, value in state["state"].items()}
    module.on_save_checkpoint(checkpoint)
    kept = {number: dict(value) for number, value in checkpoint["optimizer_states"][0]["state"].items()}
    weights = {k: v.clone() if isinstance(v, Tensor) else v for k, v in checkpoint["state_dict"].items()}
    shared: list[Any] = [{"moments": kept, "weights": weights}]
    if world > 1:
        dist.broadcast_object_list(shared)
    again = module_of(name, sharded=True)
    again.load_state_dict(shared[0]["weights"])
    loaded = {"optimizer_states": [{"state": dict(shared[0]["moments"])}]}
    again.on_load_checkpoint(loaded)
    same = torch.equal(again.model.item_tower.embedding.weight, module.model.item_tower.embedding.weight)
    for number, moments in loaded["optimizer_states"][0]["state"].items():
        same &= all(torch.equal(torch.as_tensor(moments[k]), torch.as_tensor(local[number][k])) for k in moments)
    return {
        "begun": begun,
        "weights": shared[0]["weights"],
        "moments": shared[0]["moments"],
        "same": same,
        "own rows": len(module.model.item_tower.embedding.weight),
        "items": module.model.eval().encode_items().detach(),
    }


def looked_up(rank: int) -> list[Any]:
    """What a process gets for IDS, and its own part of the table's gradient."""
    torch.manual_seed(0)
    table = ShardedEmbedding(60, 4, 1.0)
    ids = torch.tensor(IDS[rank], dtype=torch.long)
    vectors = table(ids)
    (vectors * (1 + torch.arange(len(ids)))[:, None]).sum().backward()
    assert table.weight.grad is not None
    return [vectors.detach(), table.gather(table.weight), table.gather(table.weight.grad)]


def process(rank: int, world: int) -> dict[str, Any]:
    """What one of several processes comes to."""
    result: dict[str, Any] = {name: train(name, rank, world) for name in OPTIMIZERS}
    return result | {"looked up": looked_up(rank)}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_two_processes(process, tmp_path_factory.mktemp("two"))


def test_each_process_looks_up_in_rows_that_it_does_not_have(two_processes: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    table = ShardedEmbedding(60, 4, 1.0).weight.detach()
    whole, gradient = two_processes[0]["looked up"][1:]
    assert torch.equal(whole, table), "fresh rows are the same for any number of processes"
    assert torch.equal(two_processes[0]["looked up"][0], table[IDS[0]])
    assert two_processes[1]["looked up"][0].shape == (0, 4)
    expected = torch.zeros(60, 4)
    for row, share in ((3, 1 + 2), (59, 4), (1, 5)):  # PAD learns nothing
        expected[row] = share / 2
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_processes_train_the_table_that_one_does(two_processes: list[dict[str, Any]], name: str) -> None:
    alone = train(name, 0, 1)
    first, second = (results[name] for results in two_processes)
    assert [first["own rows"], second["own rows"]] == [31, 30], "of 61"
    assert first["same"] and second["same"], "each goes on from the first one's checkpoint with its own part"
    assert torch.equal(first["begun"]["item_tower.embedding.weight"], alone["begun"]["item_tower.embedding.weight"])
    moved = (
        alone["weights"]["model.item_tower.embedding.weight"] - alone["begun"]["item_tower.embedding.weight"]
    ).abs()
    assert moved.max() > 0.01
    for key, value in alone["weights"].items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(first["weights"][key], value, rtol=1e-4, atol=1e-5)
    for number, moments in alone["moments"].items():
        for key, value in moments.items():
            torch.testing.assert_close(first["moments"][number][key], value, rtol=1e-3, atol=1e-6)
    for results in (first, second):
        torch.testing.assert_close(results["items"], alone["items"], rtol=1e-4, atol=1e-5)


def test_one_process_has_an_embedding_like_any_other() -> None:
    torch.manual_seed(0)
    table = ShardedEmbedding(BLOCK + 10, 4, 0.5)
    assert sharded_in(table) == {} and table.weight.shape == (BLOCK + 10, 4)
    assert not table.weight[0].any() and table.weight[1:].std().item() == pytest.approx(0.5, rel=0.02)
    ids = torch.tensor([0, 5, 5, BLOCK + 9])
    assert torch.equal(table(ids), table.weight[ids])
    plain = torch.nn.Embedding(BLOCK + 10, 4)
    plain.load_state_dict(table.state_dict())
    table.load_state_dict(plain.state_dict())
    assert torch.equal(plain(ids), table(ids))
