"""What every tower promises, one by one."""

import pytest
import torch
from torch import Tensor, nn

from twotower.core.schema import PAD
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.optimizers.adamw import adamw
from twotower.model.residual import WeightedSum
from twotower.model.two_tower import TwoTower

DIM, LENGTH, ITEMS = 8, 12, 30
SIZES = {"gap": 9, "hour": 5, "time": 10**11}  # of the event inputs
TOWERS = ["mean_pool", "gru", "linear_recurrence", "transformer", "plain_transformer", "timed_transformer"]

each_tower = pytest.mark.parametrize("name", TOWERS)
each_normalize = pytest.mark.parametrize("normalize", [True, False])


@pytest.fixture
def towers(make_tower, name: str, normalize: bool) -> TwoTower:
    torch.manual_seed(0)
    user_tower = make_tower(name, DIM, dropout=0.3, max_length=LENGTH)
    residual = WeightedSum(DIM, LENGTH)
    model = TwoTower(IdItemTower(ITEMS, DIM, normalize), EventInputs(SIZES, DIM), user_tower, residual, normalize)
    with torch.no_grad():  # weights and biases that start at 0 or 1 would hide mistakes
        for parameter in [*user_tower.parameters(), *model.event_inputs.parameters(), *residual.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def codes(item_index: Tensor) -> Tensor:
    """[B, L, 3] event inputs that depend on the item, and on nothing else, so that one tensor tells all."""
    return torch.stack([item_index % 9, item_index * 7 % 5, item_index**3], dim=-1)


def users(model: TwoTower, item_index: Tensor) -> Tensor:
    return model.encode_history(model.item_tower(item_index), codes(item_index))


def newest(model: TwoTower, item_index: Tensor) -> Tensor:
    vectors: Tensor = model(item_index, codes(item_index))
    return vectors


@each_tower
@each_normalize
@torch.no_grad()
def test_later_events_never_change_earlier_vectors(towers: TwoTower) -> None:
    history = torch.randint(1, ITEMS + 1, (3, LENGTH))
    before = users(towers, history)
    for position in range(1, LENGTH):
        changed = history.clone()
        changed[:, position:] = torch.randint(1, ITEMS + 1, (3, LENGTH - position))
        after = users(towers, changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], atol=1e-6, rtol=0)
    changed = history.clone()
    changed[:, 0] = history[:, 0] % ITEMS + 1
    assert (users(towers, changed) - before).abs().amax((0, 2)).gt(1e-5).all(), "every vector sees the oldest event"


@each_tower
@each_normalize
@torch.no_grad()
def test_padding_changes_no_vector(towers: TwoTower) -> None:
    history = torch.randint(1, ITEMS + 1, (4, 5))
    wide = torch.cat([history, torch.full((4, LENGTH - 5), PAD)], dim=1)
    torch.testing.assert_close(users(towers, wide)[:, :5], users(towers, history), atol=1e-6, rtol=0)
    torch.testing.assert_close(newest(towers, wide), newest(towers, history), atol=1e-6, rtol=0)


@each_tower
@each_normalize
@torch.no_grad()
def test_a_batch_equals_its_rows_one_by_one(towers: TwoTower) -> None:
    rows = [torch.randint(1, ITEMS + 1, (1, length)) for length in (1, 2, 5, LENGTH)]
    batch = torch.full((4, LENGTH), PAD)
    for row, history in zip(batch, rows, strict=True):
        row[: history.shape[1]] = history[0]
    single = torch.cat([newest(towers, history) for history in rows])
    torch.testing.assert_close(newest(towers, batch), single, atol=1e-6, rtol=0)


@each_tower
@each_normalize
@torch.no_grad()
def test_forward_is_the_vector_at_the_newest_event(towers: TwoTower) -> None:
    batch = torch.tensor([[3, 4, 5, PAD], [7, PAD, PAD, PAD], [1, 1, 2, 2]])
    every = users(towers, batch)
    expected = torch.stack([every[0, 2], every[1, 0], every[2, 3]])
    assert torch.equal(newest(towers, batch), expected)


@each_tower
@each_normalize
@torch.no_grad()
def test_vectors_have_length_one_where_asked(towers: TwoTower, normalize: bool) -> None:
    lengths = users(towers, torch.randint(1, ITEMS + 1, (5, 6))).norm(dim=-1)
    items = towers.encode_items().norm(dim=-1)
    if normalize:
        torch.testing.assert_close(lengths, torch.ones(5, 6))
        torch.testing.assert_close(items, torch.ones(ITEMS))
    else:
        assert lengths.std() > 1e-3
        assert items.std() > 1e-3


@each_tower
@each_normalize
@torch.no_grad()
def test_dropout_is_alive_in_training_and_dead_in_evaluation(towers: TwoTower) -> None:
    history = torch.randint(1, ITEMS + 1, (4, 6))
    assert torch.equal(newest(towers, history), newest(towers, history))
    towers.train()
    assert not torch.equal(newest(towers, history), newest(towers, history))


@each_tower
@each_normalize
def test_the_gradient_reaches_every_parameter(towers: TwoTower) -> None:
    history = torch.cat([torch.randperm(ITEMS)[:LENGTH][None] + 1, torch.randint(1, ITEMS + 1, (4, LENGTH))])
    (users(towers, history) * torch.randn(5, LENGTH, DIM)).sum().backward()
    for parameter_name, parameter in towers.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().sum() > 1e-6, parameter_name
        if "position" in parameter_name:
            assert parameter.grad.ne(0).all(), "each position is trained"


@each_tower
@each_normalize
def test_the_padding_vector_stays_zero_in_training(towers: TwoTower) -> None:
    towers.train()
    optimizer, _ = adamw(towers, total_steps=20, learning_rate=0.1, weight_decay=0.1, warmup_fraction=0.1)
    for _ in range(5):
        history = torch.randint(1, ITEMS + 1, (4, 6))
        history[:2, 3:] = PAD
        loss = (users(towers, history) * torch.randn(4, 6, DIM)).sum()  # a gradient at padded positions, too
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(torch.isfinite(p).all() for p in towers.parameters())
    assert isinstance(towers.item_tower, IdItemTower)
    assert not towers.item_tower.embedding.weight[PAD].any()
    assert not towers.item_tower(torch.tensor([PAD])).any()


@each_normalize
@torch.no_grad()
def test_row_r_of_the_catalogue_is_item_r_plus_one(normalize: bool) -> None:
    tower = IdItemTower(5, 3, normalize)
    catalogue = TwoTower(tower, nn.Identity(), nn.Linear(3, 3), None, normalize).encode_items()
    assert catalogue.shape == (5, 3)
    for item in range(1, 6):
        row = tower.embedding.weight[item]
        torch.testing.assert_close(catalogue[item - 1], row / row.norm() if normalize else row)


@torch.no_grad()
def test_the_mean_tower_ignores_order_and_the_others_do_not(make_tower) -> None:
    torch.manual_seed(0)
    history = torch.randn(1, 6, DIM)
    swapped = history[:, [1, 0, 2, 3, 4, 5]]
    seconds = torch.zeros(1, 6, dtype=torch.long)
    for name in TOWERS:
        tower = make_tower(name, DIM).eval()
        for parameter in tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        same = torch.allclose(tower(history, seconds)[:, -1], tower(swapped, seconds)[:, -1], atol=1e-5)
        assert same == (name == "mean_pool")
