"""The weighted sum of a history's item vectors, against loops."""

import math

import torch

from twotower.model.residual import WeightedSum

DIM, LENGTH = 4, 7


def test_it_begins_as_the_plain_mean_of_what_was_seen() -> None:
    items, states = torch.randn(2, LENGTH, DIM), torch.randn(2, LENGTH, DIM)
    result = WeightedSum(DIM, LENGTH)(items, states, states)
    for t in range(LENGTH):
        torch.testing.assert_close(result[:, t], 2 * items[:, : t + 1].mean(1))  # 2 is the root of DIM


def test_weights_are_a_softmax_of_states_and_distance() -> None:
    torch.manual_seed(0)
    residual = WeightedSum(DIM, LENGTH + 2).double()
    for parameter in residual.parameters():
        torch.nn.init.normal_(parameter)
    items, states, asking = (torch.randn(3, LENGTH, DIM).double() for _ in range(3))
    residual.requires_grad_(False)
    result = residual(items, states, asking)
    for b in range(3):
        for t in range(LENGTH):
            query = [
                float(residual.query.bias[d] + sum(residual.query.weight[d, e] * asking[b, t, e] for e in range(DIM)))
                for d in range(DIM)
            ]
            weights = [
                math.exp(
                    sum(query[d] * float(states[b, i, d]) for d in range(DIM)) / math.sqrt(DIM)
                    + float(residual.position[t - i])
                )
                for i in range(t + 1)
            ]
            mean = sum(w / sum(weights) * items[b, i] for i, w in enumerate(weights))
            torch.testing.assert_close(result[b, t], residual.scale * mean)


def test_the_next_item_can_be_one_that_was_seen() -> None:
    """A history of orthogonal items: only the sum lies in their direction, whatever the tower says."""
    items = torch.eye(DIM)[None]
    states = torch.randn(1, DIM, DIM)
    result = WeightedSum(DIM, LENGTH)(items, states, states)
    assert (result[0, 1] @ torch.eye(DIM)).argsort(descending=True)[:2].sort().values.tolist() == [0, 1]


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    residual = WeightedSum(DIM, 3).double()
    for parameter in residual.parameters():
        torch.nn.init.normal_(parameter)
    inputs = [torch.randn(2, 3, DIM, dtype=torch.double, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(residual, inputs)
