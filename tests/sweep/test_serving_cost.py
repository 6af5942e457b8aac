"""The cost of a model, against sizes counted by hand."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower
from twotower.runs.run import Run
from twotower.sweep.serving_cost import serving_cost


@pytest.mark.parametrize("tied", [True, False])
def test_size_is_of_vectors_and_user_tower(tied: bool) -> None:
    items, dim = 30, 8
    towers = [IdItemTower(items, dim, True) for _ in range(1 if tied else 2)]
    inputs = EventInputs({"event_type": 5}, dim)
    model = TwoTower(towers[0], inputs, GRUTower(dim=dim, layers=1, dropout=0.0), None, True, *towers[1:]).eval()
    threads = torch.get_num_threads()
    found = serving_cost(Run(Path(), OmegaConf.create({"model": {"max_length": 6}}), {}, {}, model))
    assert torch.get_num_threads() == threads
    tower = sum(p.numel() for p in model.user_tower.parameters())
    assert found["serving/megabytes"] == pytest.approx(4e-6 * (items * dim * (1 if tied else 2) + 5 * dim + tower))
    assert 0 < found["serving/milliseconds"] < 1000
