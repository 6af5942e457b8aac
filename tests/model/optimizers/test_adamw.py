"""AdamW with its schedule."""

import math

import numpy as np
import pytest
import torch

from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.optimizers.adamw import adamw, warmup_cosine
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
    arrays = {"a.codes": np.arange(10), "a.offsets": np.arange(11), "b.values": np.ones((10, 3), np.float32)}
    items = FeatureItemTower(10, 8, True, arrays, None, 0.0)
    model = TwoTower(items, EventInputs({"hour": 25}, 8), make_tower(name, 8), None, True)
    torch.nn.init.normal_(model.event_inputs.embeddings[0].weight)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer, _ = adamw(model, total_steps=1, learning_rate=0.1, weight_decay=0.5, warmup_fraction=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(before)
    for parameter_name, parameter in model.named_parameters():
        is_table = any(part in parameter_name for part in ("embedding", "position", "bags"))
        is_matrix = parameter.ndim == 2 and not is_table
        expected = before[parameter_name] * (1 - 0.1 * 0.5 if is_matrix else 1)
        torch.testing.assert_close(parameter.detach(), expected)
