"""The linear recurrence against a loop over events with complex numbers."""

import math

import torch

from twotower.model.user_tower.linear_recurrence import LinearRecurrence, LinearRecurrenceTower

DIM = 5


def test_states_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    recurrence = LinearRecurrence(DIM)
    hidden = torch.randn(3, 9, DIM)
    with torch.no_grad():
        result = recurrence(hidden)
    weight = recurrence.input.weight.detach().double()
    for b in range(3):
        states = [0j] * DIM
        for t in range(9):
            for d in range(DIM):
                size = math.exp(-math.exp(recurrence.decay[d].item()))
                angle = math.exp(recurrence.angle[d].item())
                x = complex(*(weight[2 * d + part] @ hidden[b, t].double() for part in (0, 1)))
                factor = size * complex(math.cos(angle), math.sin(angle))
                states[d] = factor * states[d] + math.sqrt(1 - size**2) * x
            parts = torch.tensor([part for state in states for part in (state.real, state.imag)])
            expected = recurrence.output.weight @ parts + recurrence.output.bias
            torch.testing.assert_close(result[b, t], expected, atol=1e-5, rtol=1e-4)


def test_factors_begin_in_a_ring_and_all_around() -> None:
    torch.manual_seed(0)
    recurrence = LinearRecurrence(4000)
    size, angle = (-recurrence.decay.exp()).exp(), recurrence.angle.exp()
    assert 0.5 <= size.min() < 0.51 and 0.98 < size.max() <= 0.99 + 1e-6
    assert abs((size > 0.78).double().mean() - (0.99**2 - 0.78**2) / (0.99**2 - 0.5**2)) < 0.04  # even over the area
    assert angle.min() < 0.05 and 6.2 < angle.max() <= 2 * math.pi
    assert abs(angle.mean() - math.pi) < 0.1


def test_long_histories_neither_explode_nor_vanish() -> None:
    torch.manual_seed(0)
    tower = LinearRecurrenceTower(16, 2, 0.0)
    events = torch.randn(2, 300, 16, requires_grad=True)
    tower(events, torch.zeros(2, 300, dtype=torch.long))[:, -1].square().sum().backward()
    assert events.grad is not None and events.grad.isfinite().all()
    assert events.grad[:, -20:].abs().amin(dim=(0, 2)).gt(0).all()


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    recurrence = LinearRecurrence(3)
    hidden = torch.randn(1, 4, 3)
    weights = torch.randn(1, 4, 3)
    (recurrence(hidden) * weights).sum().backward()
    for parameter in (recurrence.decay, recurrence.angle):
        for d in range(3):
            values = []
            for change in (1e-3, -1e-3):
                with torch.no_grad():
                    parameter[d] += change
                    values.append((recurrence(hidden) * weights).sum().item())
                    parameter[d] -= change
            assert abs((values[0] - values[1]) / 2e-3 - parameter.grad[d].item()) < 2e-3
