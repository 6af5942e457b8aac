"""Dropout from random bytes."""

import numpy as np
import pytest
import torch

from twotower.core.errors import UserError
from twotower.model.dropout import Dropout


@pytest.mark.parametrize(("share", "rounded"), [(0.3, 77 / 256), (0.5, 0.5), (0.002, 1 / 256), (0.9, 230 / 256)])
def test_the_share_falls_and_the_rest_keeps_the_mean(share: float, rounded: float) -> None:
    torch.manual_seed(0)
    values = torch.full((1000, 801), 3.0)  # not a multiple of eight
    result = Dropout(share)(values)
    torch.testing.assert_close(result.unique(), torch.tensor([0.0, 3 / (1 - rounded)]))
    dropped = (result == 0).double()
    deviation = (rounded * (1 - rounded)) ** 0.5
    assert abs(dropped.mean() - rounded) < 4 * deviation / 801_000**0.5
    lanes = dropped.flatten()[:800_000].view(-1, 8).mean(0)  # each byte of a number is as random as the others
    assert (lanes - rounded).abs().max() < 5 * deviation / 100_000**0.5
    pairs = np.corrcoef(dropped.flatten()[:800_000].view(-1, 8).T.numpy())
    assert np.abs(pairs - np.eye(8)).max() < 5 / 100_000**0.5  # and independent of them
    assert abs(result.double().mean() - 3) < 0.02 * 3 / (1 - rounded)


def test_the_gradient_goes_where_the_values_went() -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 7, requires_grad=True)
    result = Dropout(0.25)(values)
    result.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.where(result == 0, 0.0, 4 / 3))
    assert 0 < (result == 0).sum() < 35


def test_every_call_draws_anew_and_a_seed_draws_again() -> None:
    dropout, values = Dropout(0.5), torch.ones(100)
    torch.manual_seed(1)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(1)
    assert torch.equal(dropout(values), first) and not torch.equal(first, second)


def test_nothing_falls_in_evaluation_or_without_a_share() -> None:
    values = torch.randn(100)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
    assert Dropout(0.999)(torch.ones(1000)).isfinite().all()


@pytest.mark.parametrize("share", [-0.1, 1.0, 30, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"dropout=.*from 0 to less than 1"):
        Dropout(share)
