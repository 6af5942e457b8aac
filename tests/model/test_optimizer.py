"""AdamW with its schedule."""

import math

import pytest
import torch

from twotower.model.item_tower import IdItemTower
from twotower.model.optimizer import adamw, warmup_cosine
from twotower.model.two_tower import TwoTower


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine_to_a_hundredth() -> None:
    factor = warmup_cosine(110, 0.1)  # 11 steps up, 99 down
    assert [factor(s) for s in (0, 1, 10)] == pytest.approx([1 / 11, 2 / 11, 1.0])
    assert factor(11) == pytest.approx(1.0)
    assert factor(11 + 33) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 3)) / 2)
    assert factor(110) == factor(500) == pytest.approx(0.01)


def test_a_single_step_has_a_rate() -> None:
    assert warmup_cosine(1, 0.03)(0) == 1.0
    assert warmup_cosine(1, 1.0)(1) == pytest.approx(0.01) or warmup_cosine(1, 1.0)(1) <= 1.0


@pytest.mark.parametrize("name", ["mean_pool", "gru", "transformer"])
def test_decay_shrinks_matrices_of_layers_alone(make_tower, name: str) -> None:
    """Without a gradient AdamW moves a parameter by its decay only."""
    model = TwoTower(IdItemTower(10, 8, True), make_tower(name, 8, True))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer, _ = adamw(model, total_steps=1, learning_rate=0.1, weight_decay=0.5, warmup_fraction=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(before)
    for parameter_name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embedding" not in parameter_name and "position" not in parameter_name
        expected = before[parameter_name] * (1 - 0.1 * 0.5 if is_matrix else 1)
        torch.testing.assert_close(parameter.detach(), expected)
