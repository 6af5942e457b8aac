"""The transformer's parts against loops and literal numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.core.errors import UserError
from twotower.model.time_bias import TimeBias
from twotower.model.user_tower.branch import GELU, Branch, SwiGLU
from twotower.model.user_tower.transformer import Attention, DistanceBias, TransformerTower

DAY = 86_400


def random_parameters(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.double().eval()


@pytest.mark.parametrize(
    ("gap", "bucket"),
    # 2 log2(1 + gap), rounded down, is 0 for 0, 2 for 1, 3 for 2, 4 for 3 and 4 seconds, 5 for 5 and 6, 6 for 7 ...
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4), (5, 5), (6, 5), (7, 6), (9, 6), (10, 6), (11, 7), (DAY, 32), (-5, 1)],
)
def test_buckets_of_time(gap: int, bucket: int) -> None:
    bias = TimeBias(heads=1)
    with torch.no_grad():
        bias.bias[0] = torch.arange(bias.bias.shape[1])
    start = 1_700_000_000
    times = torch.tensor([[start, start + gap, 0]])
    computed = bias(times, times)[0, 0]
    assert computed[1, 0] == bucket
    assert computed[0, 0] == computed[1, 1] == 1  # an event and itself
    assert computed[2].tolist() == computed[:, 2].tolist() == [0, 0, 0]  # the time of one is unknown


def test_buckets_go_on_for_decades_and_grow_no_further() -> None:
    bias = TimeBias(heads=1)
    with torch.no_grad():
        bias.bias[0] = torch.arange(bias.bias.shape[1])
    gaps = [0, 60, 3600, DAY, 30 * DAY, 365 * DAY, 20 * 365 * DAY, 80 * 365 * DAY, 90 * 365 * DAY]
    computed = bias(torch.tensor([[1 + gap for gap in gaps]]), torch.tensor([[1]]))[0, 0, :, 0].tolist()
    assert computed[:8] == sorted(set(computed[:8])) and computed[8] == computed[7] == bias.bias.shape[1] - 1


def test_each_head_has_a_bias_for_each_distance() -> None:
    bias = DistanceBias(heads=2, max_length=5)
    with torch.no_grad():
        bias.bias.copy_(torch.tensor([[0, 1, 2, 3, 4], [0, 10, 20, 30, 40]]))
    assert bias(3).tolist() == [[[[0, 0, 0], [1, 0, 0], [2, 1, 0]], [[0, 0, 0], [10, 0, 0], [20, 10, 0]]]]


def test_attention_equals_a_loop_over_heads_and_positions() -> None:
    attention = random_parameters(Attention(dim=6, heads=2))
    hidden, bias = torch.randn(2, 4, 6).double(), torch.randn(2, 2, 4, 4).double()
    result = attention(hidden, bias)
    query, key, value = (attention.query_key_value(hidden)[..., i : i + 6] for i in (0, 6, 12))
    for b in range(2):
        for t in range(4):
            mixed = torch.empty(6).double()
            for head in range(2):
                part = slice(3 * head, 3 * head + 3)
                scores = [query[b, t, part] @ key[b, i, part] / math.sqrt(3) + bias[b, head, t, i] for i in range(4)]
                weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum()
                mixed[part] = sum(weights[i] * value[b, i, part] for i in range(4))
            torch.testing.assert_close(result[b, t], attention.output(mixed))


def test_a_branch_is_gated_by_its_input_and_works_on_the_norm() -> None:
    hidden = torch.randn(3, 4).double()
    gated = random_parameters(Branch(torch.nn.Linear(4, 4), 4, 0.5, gated=True))
    plain = random_parameters(Branch(torch.nn.Linear(4, 4), 4, 0.5, gated=False))

    def layer(branch: Branch) -> Tensor:
        centred = hidden - hidden.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        result: Tensor = (unit * branch.norm.weight + branch.norm.bias) @ branch.layer.weight.T + branch.layer.bias
        return result

    gate = 1 / (1 + (-(hidden @ gated.gate.weight.T + gated.gate.bias)).exp())
    torch.testing.assert_close(gated(hidden), hidden + gate * layer(gated))
    torch.testing.assert_close(plain(hidden), hidden + layer(plain))


def test_feed_forwards() -> None:
    hidden = torch.randn(5, 3).double()
    swiglu = random_parameters(SwiGLU(3))
    wide = hidden @ swiglu.input.weight.T + swiglu.input.bias
    gate, value = wide[:, :6], wide[:, 6:]
    torch.testing.assert_close(
        swiglu(hidden), (gate / (1 + (-gate).exp()) * value) @ swiglu.output.weight.T + swiglu.output.bias
    )
    gelu = random_parameters(GELU(3))
    wide = hidden @ gelu[0].weight.T + gelu[0].bias
    wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2
    torch.testing.assert_close(gelu(hidden), wide @ gelu[2].weight.T + gelu[2].bias)


def test_gated_and_plain_blocks_have_as_many_weights() -> None:
    def weights(gated: bool) -> int:
        tower = TransformerTower(16, 3, 2, 0.0, 5, gated, relative_position=True, time_bias=False)
        return sum(p.numel() for m in tower.modules() if isinstance(m, torch.nn.Linear) for p in [m.weight])

    assert weights(True) == weights(False) == 3 * 12 * 16**2


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("timed", [True, False])
def test_the_tower_is_its_parts(gated: bool, timed: bool) -> None:
    """Two layers of two heads each: the biases of a layer are its own, in order; the future has no weight."""
    tower = random_parameters(TransformerTower(4, 2, 2, 0.5, 6, gated, relative_position=True, time_bias=timed))
    events, seconds = torch.randn(2, 5, 4).double(), torch.tensor([[1, 9, 9, 70, 800], [5, 6, 7, 7, 7]])
    hidden = F.layer_norm(events, (4,), tower.norm.weight, tower.norm.bias)
    for layer in range(2):
        bias = torch.full((2, 2, 5, 5), -math.inf).double()
        for b in range(2):
            for head in range(2):
                for t in range(5):
                    for i in range(t + 1):
                        bias[b, head, t, i] = tower.relative_position.bias[2 * layer + head, t - i]
                        if timed:
                            gap = int(seconds[b, t] - seconds[b, i])
                            buckets = {0: 1, 1: 2, 2: 3, 8: 6}
                            bucket = (
                                buckets.get(gap)
                                or [q.item() for q in tower.time_bias.starts].index(
                                    max(s.item() for s in tower.time_bias.starts if s <= gap)
                                )
                                + 2
                            )
                            bias[b, head, t, i] += tower.time_bias.bias[2 * layer + head, bucket]
        hidden = tower.feed_forward[layer](tower.attention[layer](hidden, bias))
    expected = F.layer_norm(hidden, (4,), tower.output.weight, tower.output.bias)
    torch.testing.assert_close(tower(events, seconds), expected)


def test_absolute_positions_are_counted_from_the_oldest_event() -> None:
    tower = random_parameters(TransformerTower(4, 1, 1, 0.5, 6, False, relative_position=False, time_bias=False))
    assert tower.relative_position is None and tower.position.shape == (6, 4)
    events, seconds = torch.randn(1, 3, 4).double(), torch.zeros(1, 3, dtype=torch.long)
    hidden = tower.norm(events) + tower.position[:3]
    future = torch.full((3, 3), -math.inf).triu(1).double()
    expected = tower.output(tower.feed_forward[0](tower.attention[0](hidden, future[None, None])))
    torch.testing.assert_close(tower(events, seconds), expected)


def test_a_dimension_that_the_heads_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.dim=15.*model\.user_tower\.heads=2"):
        TransformerTower(15, 1, 2, 0.0, 4, gated=False, relative_position=True, time_bias=False)
