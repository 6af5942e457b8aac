"""The same global batches on one process or on two: the same losses, gradients and weights.

Shapes: B sessions, L history length.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gloo import on_two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from twotower.core.batch import SessionBatch
from twotower.model.distributed import gather_rows, sum_over_processes, world_size
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.losses.softmax import softmax
from twotower.model.negatives import CatalogueNegatives, MixtureNegatives
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower
from twotower.training.module import TwoTowerModule

pytestmark = pytest.mark.slow
NUM_ITEMS, DIM = 60, 8
CASES = ("mixture", "matryoshka", "catalogue")


def global_batches() -> list[SessionBatch]:
    """Rows of many lengths with weights of either sign, a batch of one row, and one whose last rows have no target."""
    random = np.random.default_rng(0)
    batches = []
    for rows in (9, 1, 6):
        length = random.integers(1, 8, size=rows)
        valid = np.arange(7) < length[:, None]
        item, target = (np.where(valid, random.zipf(1.5, (rows, 7)) % NUM_ITEMS + 1, 0) for _ in range(2))
        weight = np.where(valid, random.choice([1.0, 3.0, 0.25, -1.0, -2.0, 0.0], (rows, 7)), 0).astype(np.float32)
        weight[0, 0] = 1
        if rows == 6:
            weight[1::2] = 0
        target = np.where(weight != 0, target, 0)
        arrays = (
            item,
            np.zeros((rows, 7, 0), dtype=np.int64),
            target,
            np.zeros_like(target),
            weight,
            np.zeros_like(target),
            np.zeros_like(target),
        )
        batches.append(SessionBatch(*map(torch.from_numpy, arrays)))
    return batches


def share_of(batch: SessionBatch, rank: int, world: int) -> SessionBatch:
    """What the loader gives one rank: every world-th row, no wider than it must be; else a row without targets."""
    share = SessionBatch(*(column[rank::world] for column in batch))
    if len(share.item_index) == 0:
        share = SessionBatch(*(column[:1] for column in batch))
        share = share._replace(target=share.target * 0, target_weight=share.target_weight * 0)
    width = int((share.item_index != 0).sum(1).max())
    return SessionBatch(*(column[:, :width] for column in share))


def build_module(case: str) -> TwoTowerModule:
    torch.manual_seed(3)
    counts = torch.arange(NUM_ITEMS + 1).flip(0) % 7
    mixture = MixtureNegatives(counts, 10, True, popularity=8, queue=12)
    return TwoTowerModule(
        model=TwoTower(IdItemTower(NUM_ITEMS, DIM, True), EventInputs({}, DIM), GRUTower(DIM, 1, 0.0), None, True),
        negatives=CatalogueNegatives(counts) if case == "catalogue" else mixture,
        loss=softmax if case == "mixture" else partial(softmax, chunk_items=7),
        temperature=0.2,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        total_steps=1,
        ks=[1],
        event_types=["view"],
        matryoshka=[3] if case == "matryoshka" else [],
    )


class TrainingStep(nn.Module):
    """What DistributedDataParallel calls, as Lightning has it call."""

    def __init__(self, module: TwoTowerModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: SessionBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def train(case: str, rank: int, world: int) -> list[dict[str, Any]]:
    """Three steps of gradient descent: each one's loss as logged, loss as returned, gradients and negatives."""
    module = build_module(case)
    logged: list[float] = []
    module.log = lambda name, value, **kwargs: logged.append(value.item())
    drawn: list[list[int]] = []
    module.negatives.register_forward_hook(lambda m, args, negatives: drawn.append(negatives.ids.tolist()))
    step = TrainingStep(module)
    wrapped = DistributedDataParallel(step) if world > 1 else step
    results = []
    for batch in global_batches():
        torch.rand(3 * rank)  # what else a rank draws, as for dropout
        wrapped.zero_grad()
        loss = wrapped(share_of(batch, rank, world))
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in module.model.named_parameters() if p.grad is not None}
        results.append({"loss": loss.item(), "logged": logged[-1], "gradients": gradients, "negatives": drawn[-1]})
        with torch.no_grad():
            for parameter in module.model.parameters():
                parameter -= 0.5 * parameter.grad
    return results


def process(rank: int, world: int) -> dict[str, Any]:
    """What one of several processes comes to."""
    ragged = torch.arange(2 * rank)[:, None].expand(-1, 2) + 10 * rank
    result: dict[str, Any] = {case: train(case, rank, world) for case in CASES}
    result["gathered"] = gather_rows(ragged).tolist()
    result["sum"] = sum_over_processes(torch.tensor([1.0, float(rank)])).tolist()
    return result


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    return on_two_processes(process, tmp_path_factory.mktemp("two"))


def assert_same(steps: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    for number, (step, other) in enumerate(zip(steps, expected, strict=True)):
        assert step["negatives"] == other["negatives"], number
        assert step["logged"] == pytest.approx(other["logged"], rel=1e-5), number
        assert step["gradients"].keys() == other["gradients"].keys()
        for name, gradient in step["gradients"].items():
            torch.testing.assert_close(gradient, other["gradients"][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(two_processes: list[dict[str, Any]], case: str) -> None:
    expected = train(case, 0, 1)
    for results in two_processes:
        assert_same(results[case], expected)
    first, second = (results[case] for results in two_processes)
    for one, two, alone in zip(first, second, expected, strict=True):
        assert (one["loss"] + two["loss"]) / 2 == pytest.approx(alone["loss"], rel=1e-5), "DDP averages"
    assert [step["loss"] != 0 for step in second] == [True, False, False], "the second rank has no target at times"
    assert all(any(g.abs().max() > 1e-3 for g in step["gradients"].values()) for step in expected)


def test_targets_of_other_ranks_are_negatives(two_processes: list[dict[str, Any]]) -> None:
    batch = global_batches()[0]
    of_the_other = set(share_of(batch, 1, 2).target.flatten().tolist()) - {0}
    assert of_the_other <= set(two_processes[0]["mixture"][0]["negatives"])


def test_ragged_rows_are_gathered_by_rank(two_processes: list[dict[str, Any]]) -> None:
    for results in two_processes:
        assert results["gathered"] == [[10, 10], [11, 11]]
        assert results["sum"] == [2.0, 1.0]


def test_one_process_has_all_there_is() -> None:
    rows = torch.ones(3, 2)
    assert world_size() == 1
    assert gather_rows(rows) is rows
    assert sum_over_processes(rows.requires_grad_()).tolist() == rows.tolist()
    assert not sum_over_processes(rows).requires_grad
