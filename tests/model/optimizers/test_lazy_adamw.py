"""Lazy AdamW against torch's dense AdamW and SparseAdam, and against loops in numpy."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_two_processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twotower.data.loader import query_loader, training_loader
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.optimizers.adamw import lazy_adamw
from twotower.model.optimizers.clipping import clip_gradient_norm
from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.two_tower import TwoTower

ROWS, DIM = 12, 5
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def table(sparse: bool) -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(ROWS, DIM, padding_idx=0, sparse=sparse)


def train(embedding: nn.Embedding, optimizer: torch.optim.Optimizer, steps: list[Tensor]) -> None:
    """Each step looks up its ids; the gradient of a row depends on its place among them."""
    for step, ids in enumerate(steps):
        optimizer.zero_grad()
        direction = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(step))
        (embedding(ids) * direction).sum().backward()
        optimizer.step()


DISTINCT = [torch.tensor(ids, dtype=torch.long) for ids in ([1, 4, 7], [2, 4], [1, 2, 3, 4, 11], [], [4])]
REPEATED = [torch.tensor(ids) for ids in ([7, 1, 7, 4], [4, 2, 4, 4], [0, 1, 2, 0, 11], [3, 3])]


@pytest.mark.parametrize("steps", [DISTINCT, REPEATED], ids=["distinct", "repeated"])
def test_rows_move_as_in_torchs_lazy_adam(steps: list[Tensor]) -> None:
    """SparseAdam adds eps before the bias correction of the second moment, which 1e-8 makes no difference for."""
    lazy, reference = table(True), table(True)
    train(lazy, LazyAdamW(lazy.parameters(), lr=0.1, row_wise=False), steps)
    train(reference, torch.optim.SparseAdam(reference.parameters(), lr=0.1), steps)
    torch.testing.assert_close(lazy.weight, reference.weight, atol=2e-6, rtol=1e-5)


def test_where_every_row_is_used_it_is_adamw() -> None:
    steps = [torch.arange(ROWS).roll(s) for s in range(6)]
    lazy, reference = table(True), table(False)
    train(lazy, LazyAdamW(lazy.parameters(), lr=0.1, row_wise=False), steps)
    train(reference, torch.optim.AdamW(reference.parameters(), lr=0.1, weight_decay=0.0), steps)
    torch.testing.assert_close(lazy.weight[1:], reference.weight[1:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("steps", [DISTINCT, REPEATED], ids=["distinct", "repeated"])
def test_a_loop_over_rows_gives_the_same(row_wise: bool, steps: list[Tensor]) -> None:
    embedding = table(True)
    weight = embedding.weight.detach().double().numpy().copy()
    first = np.zeros((ROWS, DIM))
    second = np.zeros((ROWS, DIM))
    for step, ids in enumerate(steps):
        direction = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(step)).double().numpy()
        for row in set(ids.tolist()) - {0}:
            gradient = sum(direction[i] for i in range(len(ids)) if ids[i] == row)
            first[row] = BETA1 * first[row] + (1 - BETA1) * gradient
            square = np.full(DIM, (gradient**2).sum() / DIM) if row_wise else gradient**2
            second[row] = BETA2 * second[row] + (1 - BETA2) * square
            mean, variance = first[row] / (1 - BETA1 ** (step + 1)), second[row] / (1 - BETA2 ** (step + 1))
            weight[row] -= 0.1 * mean / (np.sqrt(variance) + EPS)
    train(embedding, optimizer := LazyAdamW(embedding.parameters(), lr=0.1, row_wise=row_wise), steps)
    np.testing.assert_allclose(embedding.weight.detach().numpy(), weight, rtol=1e-5, atol=1e-6)
    state = optimizer.state[embedding.weight]
    assert state["exp_avg_sq"].numel() == (ROWS if row_wise else ROWS * DIM)


def test_rows_that_rest_do_not_change_in_a_single_bit() -> None:
    embedding = table(True)
    optimizer = LazyAdamW(embedding.parameters(), lr=0.1, row_wise=False)
    train(embedding, optimizer, [torch.arange(ROWS)])
    state = optimizer.state[embedding.weight]
    before = [t.detach().clone() for t in (embedding.weight, state["exp_avg"], state["exp_avg_sq"])]
    train(embedding, optimizer, [torch.tensor([3, 8])] * 4)
    rest = [row for row in range(ROWS) if row not in (3, 8)]
    for old, new in zip(before, (embedding.weight, state["exp_avg"], state["exp_avg_sq"]), strict=True):
        assert torch.equal(old[rest], new[rest])
        assert (old[[3, 8]] != new[[3, 8]]).any(dim=1).all()


def test_what_is_not_sparse_moves_and_decays_as_in_adamw() -> None:
    results = []
    for lazy in (True, False):
        torch.manual_seed(0)
        embedding, linear = nn.Embedding(ROWS, DIM, sparse=lazy), nn.Linear(DIM, 3)
        groups = [
            {"params": list(linear.parameters()), "weight_decay": 0.3},
            {"params": [embedding.weight], "weight_decay": 0.0},
        ]
        optimizer = LazyAdamW(groups, 0.1, False) if lazy else torch.optim.AdamW(groups, lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            linear(embedding(torch.arange(ROWS))).square().sum().backward()
            optimizer.step()
        results.append([*linear.parameters(), embedding.weight])
    for lazy, reference in zip(*results, strict=True):
        torch.testing.assert_close(lazy, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("ids", [[1, 4, 9], [7, 1, 7, 0, 7]])
def test_clipping_is_that_of_the_dense_gradient(max_norm: float, ids: list[int]) -> None:
    gradients = []
    for sparse in (True, False):
        torch.manual_seed(0)
        embedding, linear = nn.Embedding(ROWS, DIM, padding_idx=0, sparse=sparse), nn.Linear(DIM, 3)
        linear(embedding(torch.tensor(ids))).square().sum().backward()
        parameters = [*embedding.parameters(), *linear.parameters()]
        if sparse:
            clip_gradient_norm(parameters, max_norm)
        else:
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        gradients.append([p.grad.to_dense() for p in parameters])
    assert 0.5 < norm < 1e6
    for lazy, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(lazy, reference)


@pytest.mark.parametrize("row_wise", [False, True])
def test_a_checkpoint_goes_on_as_if_nothing_had_been(tmp_path, row_wise: bool) -> None:
    steps = DISTINCT + REPEATED
    whole = table(True)
    optimizer = LazyAdamW(whole.parameters(), lr=0.1, row_wise=row_wise)
    train(whole, optimizer, steps)
    train(whole, optimizer, steps)
    half, again = table(True), table(True)
    optimizer = LazyAdamW(half.parameters(), lr=0.1, row_wise=row_wise)
    train(half, optimizer, steps)
    torch.save([half.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(weights)
    optimizer = LazyAdamW(again.parameters(), lr=7.0, row_wise=row_wise)
    optimizer.load_state_dict(state)
    train(again, optimizer, steps)
    assert torch.equal(again.weight, whole.weight)


def test_the_item_towers_tables_alone_are_lazy(make_tower) -> None:
    torch.manual_seed(0)
    arrays = {"a.codes": np.arange(10), "a.offsets": np.arange(11), "b.values": np.ones((10, 3), np.float32)}
    items = FeatureItemTower(10, 8, True, arrays, None, 0.0)
    model = TwoTower(items, EventInputs({"hour": 25}, 8), make_tower("transformer", 8), None, True)
    optimizer, _ = lazy_adamw(model, 4, learning_rate=0.1, weight_decay=0.5, warmup_fraction=1.0, row_wise=True)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    user = model(torch.tensor([[3, 4]]), torch.tensor([[[7], [9]]]))
    (user * torch.arange(8)).sum().backward()
    sparse = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.is_sparse}
    assert sparse == {"item_tower.embedding.weight", "item_tower.bags.weight"}
    optimizer.step()
    moved = {name: (p != before[name]).any(dim=-1).nonzero().flatten().tolist() for name, p in model.named_parameters()}
    assert moved["item_tower.embedding.weight"] == [3, 4]
    assert moved["item_tower.bags.weight"] == [2, 3]


@pytest.mark.parametrize("features", [False, True])
def test_training_with_clipping_learns_and_ends_as_with_torchs_own_dense_steps(
    make_prepared, make_module, make_trainer, features: bool
) -> None:
    """With the whole catalogue as negatives each step uses every row, so that lazy and dense AdamW are one."""
    random = np.random.default_rng(0)
    sessions = random.integers(1, 21, size=(30, 6)).tolist()
    arrays = {"a.codes": random.integers(0, 4, 20), "a.offsets": np.arange(21)}
    prepared = make_prepared(sessions, [4] * 30, num_items=20, item_features=arrays)
    ends, losses = [], []
    for lazy in (True, False):
        loader = training_loader(prepared, 5, 40, seed=0)
        module = make_module(loader, "gru", 3, features=features)
        if lazy:
            module.optimizer = partial(
                lazy_adamw, learning_rate=0.02, weight_decay=0.0, warmup_fraction=0.05, row_wise=False
            )
        trainer = make_trainer(3)
        trainer.gradient_clip_val = 0.05
        trainer.fit(module, loader, query_loader(prepared, "validation", 5, 100))
        ends.append(module.state_dict())
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, expected in ends[1].items():
        torch.testing.assert_close(ends[0][name], expected, atol=2e-5, rtol=1e-4)


def steps_of_one(rank: int, world: int, ids: list[list[int]]) -> dict[str, Any]:
    """On one of the processes: its own ids, one model."""
    embedding = table(True)
    optimizer = LazyAdamW(embedding.parameters(), lr=0.1, row_wise=False)
    parallel = DistributedDataParallel(embedding)
    for step in range(3):
        optimizer.zero_grad()
        (parallel(torch.tensor(ids[rank]) + step) * (rank + 1)).sum().backward()
        clip_gradient_norm([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
    return {"weight": embedding.weight.detach()}


@pytest.mark.slow
def test_two_processes_take_the_step_of_their_mean_gradient(tmp_path) -> None:
    ids = [[1, 2, 2], [2, 5]]
    results = on_two_processes(steps_of_one, tmp_path, ids)
    alone = table(True)
    optimizer = LazyAdamW(alone.parameters(), lr=0.1, row_wise=False)
    for step in range(3):
        optimizer.zero_grad()
        sum((alone(torch.tensor(i) + step) * (r + 1)).sum() / 2 for r, i in enumerate(ids)).backward()
        clip_gradient_norm([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
    for result in results:
        torch.testing.assert_close(result["weight"], alone.weight.detach(), rtol=1e-5, atol=1e-6)
