"""Objectives: the towers' output for an event type that is asked for, against loops."""

from typing import Any

import numpy as np
import pytest
import torch

from twotower.core.event_codes import ANY_TYPE
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.objective import Objective, code_of
from twotower.model.pointer import Pointer
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower

D, L, T = 4, 5, 3


def towers(objective: Objective | None) -> TwoTower:
    torch.manual_seed(0)
    parts = IdItemTower(9, D, normalize=True), EventInputs({}, D), GRUTower(D, layers=1, dropout=0.0)
    model = TwoTower(*parts, residual=None, normalize=True, pointer=Pointer(D, L, 0.1), objective=objective)
    assert model.pointer is not None
    for parameter in model.pointer.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.fixture
def random_objective() -> Objective:
    torch.manual_seed(1)
    objective = Objective(T, D)
    torch.nn.init.normal_(objective.scale)
    torch.nn.init.normal_(objective.shift)
    return objective


def encode(model: TwoTower, asked: Any) -> tuple[torch.Tensor, torch.Tensor]:
    items = torch.tensor([[3, 1, 3, 2, 7], [4, 4, 1, 0, 0]])
    vectors, pointer = model.encode_positions(
        model.item_tower(items), torch.zeros(2, L, 0, dtype=torch.long), items, asked
    )
    assert pointer is not None
    return vectors.detach(), pointer.detach()


def test_each_objective_scales_and_shifts(random_objective: Objective) -> None:
    states, asked = torch.randn(2, L, D), torch.randint(0, T + 1, (2, L))
    found = random_objective(states, asked)
    for row, position in np.ndindex(2, L):
        code = asked[row, position]
        expected = states[row, position] * (1 + random_objective.scale[code]) + random_objective.shift[code]
        torch.testing.assert_close(found[row, position], expected)
    torch.testing.assert_close(
        random_objective(states, torch.tensor([[2], [0]]))[1], random_objective(states, asked * 0)[1]
    )


def test_training_begins_as_without(random_objective: Objective) -> None:
    plain = encode(towers(None), None)
    for asked in (None, torch.full((2, L), 2)):
        for found, expected in zip(encode(towers(Objective(T, D)), asked), plain, strict=True):
            torch.testing.assert_close(found, expected)
    assert not torch.allclose(encode(towers(random_objective), None)[0], plain[0]), "ANY_TYPE has a scale of its own"


def test_a_position_knows_nothing_of_what_others_ask(random_objective: Objective) -> None:
    """In training each position asks for its own target's type, which tells the next event's: no other may see it."""
    model = towers(random_objective)
    asked = torch.tensor([[1, 3, 0, 2, 2]]).expand(2, L)
    together = encode(model, asked)
    for position in range(L):
        alone = encode(model, asked[:, position : position + 1])
        for found, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(found[:, position], expected[:, position])


def test_the_newest_event_alone_is_as_all_positions(random_objective: Objective) -> None:
    model = towers(random_objective)
    items, newest = torch.tensor([[3, 1, 3, 2, 7], [4, 4, 1, 0, 0]]), (4, 2)
    users, pointer = model.with_pointer(items, torch.zeros(2, L, 0, dtype=torch.long), torch.tensor([1, 3]))
    every = encode(model, torch.tensor([[1], [3]]))
    assert pointer is not None
    for row, position in enumerate(newest):
        torch.testing.assert_close(users[row], every[0][row, position])
        torch.testing.assert_close(pointer[row, : position + 1], every[1][row, position, : position + 1])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_positions_learns_any(share: float) -> None:
    torch.manual_seed(2)
    types = torch.randint(0, T, (100, 400))
    asked = Objective(T, D, any_share=share).draw(types)
    assert float((asked == ANY_TYPE).float().mean()) == pytest.approx(share, abs=0.01)
    assert torch.equal(asked[asked != ANY_TYPE], code_of(types)[asked != ANY_TYPE])
