"""The moment that is asked about, in the user tower and the pointer, against loops over positions and events."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from twotower.core.event_codes import AT_ONCE, TIME, TIME_SIZE
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.objective import Objective
from twotower.model.pointer import Pointer, occurrences
from twotower.model.query_time import draw_now
from twotower.model.residual import WeightedSum
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.transformer import TransformerTower

B, L, D, DAY = 2, 5, 4, 86_400
ITEMS = torch.tensor([[3, 1, 3, 2, 7], [4, 4, 1, 0, 0]])
SECONDS = torch.tensor([[100, 130, 130, 4000, 9 * DAY], [50, 0, 900, 0, 0]])  # of one event it is unknown
NOW = SECONDS + torch.tensor([[0, 7, 90 * DAY, 60, 3 * DAY], [1, 5, 0, 0, 0]])


def random_parameters(module: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


def tower() -> TransformerTower:
    return random_parameters(TransformerTower(D, 2, 2, 0.5, 6, gated=True, relative_position=True, time_bias=True))


def towers(query_time: bool, objective: Objective | None = None) -> TwoTower:
    parts = IdItemTower(9, D, normalize=True), EventInputs({TIME: TIME_SIZE}, D), tower(), WeightedSum(D, 6)
    pointer = Pointer(D, 6, 0.1, age=True)
    return random_parameters(TwoTower(*parts, True, None, pointer, objective, query_time))


def encode(model: TwoTower, now: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    vectors, pointer = model.encode_positions(model.item_tower(ITEMS), SECONDS[..., None], ITEMS, now=now)
    assert pointer is not None
    return vectors.detach(), pointer.detach().tril()  # what stands at later events has no meaning


def bucket(now: int, then: int) -> int:
    """1 + floor(2 log2(1 + gap)), without the numbers that no whole gap has (1); 0 where a time is unknown."""
    if now <= 0 or then <= 0:
        return 0
    place = math.floor(2 * math.log2(1 + max(now - then, 0)))
    return 1 + place - (place >= 1)


def test_the_last_block_attends_by_the_time_to_the_moment() -> None:
    """Two layers of two heads: the first has the times between events alone."""
    model, events = tower(), torch.randn(B, L, D).double()
    assert model.relative_position is not None and model.time_bias is not None
    hidden = F.layer_norm(events, (D,), model.norm.weight, model.norm.bias)
    for layer, moment in enumerate((SECONDS, NOW)):
        bias = torch.full((B, 2, L, L), -math.inf).double()
        for b in range(B):
            for head in range(2):
                for i in range(L):
                    for j in range(i + 1):
                        age = bucket(int(moment[b, i]), int(SECONDS[b, j]))
                        bias[b, head, i, j] = model.relative_position.bias[2 * layer + head, i - j]
                        bias[b, head, i, j] += model.time_bias.bias[2 * layer + head, age]
        hidden = model.feed_forward[layer](model.attention[layer](hidden, bias))
    states, asked = model.asked(events, SECONDS, NOW)
    torch.testing.assert_close(asked, F.layer_norm(hidden, (D,), model.output.weight, model.output.bias))
    torch.testing.assert_close(states, model(events, SECONDS), rtol=0, atol=0)
    assert not torch.allclose(asked, states)


def test_the_pointer_has_a_term_for_the_age_of_each_event() -> None:
    aged, plain = (random_parameters(Pointer(D, 6, 0.1, age)) for age in (True, False))
    plain.load_state_dict({name: value for name, value in aged.state_dict().items() if not name.startswith("age")})
    states = torch.randn(3, B, L, D).double()
    found, without = (each(*states, NOW, SECONDS, occurrences(ITEMS)) for each in (aged, plain))
    for b in range(B):
        for i in range(L):
            for j in range(i + 1):
                age = aged.age.bias[0, bucket(int(NOW[b, i]), int(SECONDS[b, j]))]
                kept = aged.keep(states[0, b, i]).sigmoid().squeeze() / occurrences(ITEMS)[b, i, j]
                expected = (without[b, i, j].exp() - kept).mul(age.exp()).add(kept).log()
                torch.testing.assert_close(found[b, i, j], expected)


@pytest.mark.parametrize("objective", [None, Objective(3, D)])
def test_asked_at_its_own_event_a_position_answers_as_without(objective: Objective | None) -> None:
    model, plain = towers(True, objective), towers(False, objective)
    for now in (None, torch.full((B, L), AT_ONCE), SECONDS, torch.tensor([[AT_ONCE]])):
        for found, expected in zip(encode(model, now), encode(plain, None), strict=True):
            torch.testing.assert_close(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(encode(plain, NOW), encode(plain, None), strict=True))


def test_training_begins_with_the_same_answer_at_all_times() -> None:
    model = towers(True)
    assert isinstance(model.user_tower, TransformerTower) and model.pointer is not None
    for bias in (model.user_tower.time_bias, model.pointer.age):
        assert bias is not None
        torch.nn.init.zeros_(bias.bias)
    for found, expected in zip(encode(model, NOW), encode(model, None), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("objective", [None, Objective(3, D)])
def test_a_moment_changes_the_answer_of_its_own_position_alone(objective: Objective | None) -> None:
    """In training a position's moment tells when its target comes: neither earlier nor later ones may see it."""
    model = towers(True, objective)
    before = encode(model, NOW)
    for position in range(L):
        later = NOW.clone()
        later[0, position] += 400 * DAY
        others = torch.arange(L) != position
        for found, expected in zip(encode(model, later), before, strict=True):
            torch.testing.assert_close(found[1], expected[1], rtol=0, atol=0)
            torch.testing.assert_close(found[0, others], expected[0, others], rtol=0, atol=0)
            if position == L - 1:  # events of about one age keep their shares of the attention
                assert not torch.allclose(found[0, position], expected[0, position])


def test_the_newest_event_alone_is_as_all_positions() -> None:
    model, newest = towers(True), (4, 2)
    for now in (torch.tensor([12 * DAY, 5000]), torch.tensor([AT_ONCE, 5000])):
        users, pointer = model.with_pointer(ITEMS, SECONDS[..., None], now=now)
        every = encode(model, now[:, None].expand(B, L))
        assert pointer is not None
        for row, position in enumerate(newest):
            torch.testing.assert_close(users[row], every[0][row, position])
            torch.testing.assert_close(pointer[row, : position + 1], every[1][row, position, : position + 1])


def test_half_of_the_positions_learn_without_the_time_of_their_target() -> None:
    torch.manual_seed(2)
    times = torch.randint(1, 10**9, (100, 400))
    now = draw_now(times)
    assert float((now == AT_ONCE).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(now[now != AT_ONCE], times[now != AT_ONCE])
    torch.manual_seed(2)
    assert torch.equal(torch.randint(1, 10**9, (100, 400)), times) and torch.equal(draw_now(times), now)
