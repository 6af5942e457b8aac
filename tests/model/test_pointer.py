"""The pointer in training against a dense softmax over the whole catalogue, written with loops."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from twotower.core.schema import PAD
from twotower.model.history_scores import ABSENT
from twotower.model.losses.scalable import scalable_cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.losses.top_k import top_k_softmax
from twotower.model.pointer import Pointer, history_scores, item_bonuses, occurrences
from twotower.model.scoring import Scores, accidental_hits
from twotower.serving.users import distinct_bonuses

B, L, D, V, TEMPERATURE = 4, 6, 5, 9, 0.3


@pytest.fixture
def case() -> dict[str, Any]:
    """Random histories with duplicates, ties and PAD; targets in the history and not."""
    generator = torch.Generator().manual_seed(0)
    item = torch.randint(1, 5, (B, L), generator=generator)
    target = torch.randint(1, V + 1, (B, L), generator=generator)
    length = torch.tensor([6, 1, 3, 5])
    padded = torch.arange(L) >= length[:, None]
    target[:, :-1] = torch.where(target[:, :-1] > 5, item[:, 1:], target[:, :-1])  # often the next event
    item[padded], target[padded] = PAD, PAD
    items = torch.randn(V + 1, D, generator=generator, dtype=torch.float64)
    items[PAD] = 0
    items[3] = items[2]  # a tie
    users = torch.randn(B, L, D, generator=generator, dtype=torch.float64)
    pointer = torch.randn(B, L, L, generator=generator, dtype=torch.float64)
    shift = torch.randn(V + 1, generator=generator, dtype=torch.float64)
    return {"item": item, "target": target, "items": items, "users": users, "pointer": pointer, "shift": shift}


def dense_logits(case: dict[str, Any], row: int, position: int) -> torch.Tensor:
    """[V] u . v / temperature - shift, plus log(sum of exp(p_j) over the events of v) where there are any, singly."""
    logits = []
    for item in range(1, V + 1):
        dot = case["users"][row, position] @ case["items"][item] / TEMPERATURE - case["shift"][item]
        own = [case["pointer"][row, position, e].exp() for e in range(position + 1) if case["item"][row, e] == item]
        logits.append(dot + torch.stack(own).sum().log() if own else dot)
    return torch.stack(logits)


@pytest.mark.parametrize(
    "loss_function",
    [
        softmax,
        partial(softmax, chunk_items=2),
        partial(top_k_softmax, k=V),
        partial(scalable_cross_entropy, buckets=2, bucket_positions=B * L, bucket_items=V),
    ],
)
def test_the_loss_is_the_softmax_over_the_catalogue_with_values_and_gradients(
    case: dict[str, Any], loss_function: Callable[[Scores], torch.Tensor]
) -> None:
    leaves = [case["items"], case["users"], case["pointer"]]
    for leaf in leaves:
        leaf.requires_grad_()
    is_target = case["target"] != PAD
    items = case["items"][case["item"]]
    ids = torch.arange(1, V + 1)
    shift = case["shift"]
    seen = case["pointer"], case["item"], case["target"], is_target, TEMPERATURE, ids, shift[case["item"]][:, None]
    scores = history_scores(case["users"], items, *seen)
    target = case["target"][is_target]
    loss = loss_function(
        Scores(
            case["users"][is_target], case["items"][target], case["items"][ids],
            torch.zeros(V, dtype=torch.float64), accidental_hits(target, ids), torch.ones(len(target)), TEMPERATURE,
            scores, shift[target], shift[ids],
        )
    )  # fmt: skip
    found = torch.autograd.grad(loss.sum(), leaves)
    expected = torch.stack(
        [
            -torch.log_softmax(dense_logits(case, row, position), 0)[case["target"][row, position] - 1]
            for row, position in is_target.nonzero().tolist()
        ]
    )
    torch.testing.assert_close(loss, expected, atol=1e-8, rtol=0)
    for gradient, wanted in zip(found, torch.autograd.grad(expected.sum(), leaves), strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-8, rtol=0)


def test_bonuses_are_those_of_the_dense_form(case: dict[str, Any]) -> None:
    case = {**case, "shift": torch.zeros(V + 1)}
    for row, newest in enumerate((case["item"] != PAD).sum(1).sub(1).tolist()):
        bonus = item_bonuses(case["pointer"][row : row + 1, newest], case["item"][row : row + 1])[0]
        dense = dense_logits(case, row, newest) - case["items"][1:] @ case["users"][row, newest] / TEMPERATURE
        for event, item in enumerate(case["item"][row].tolist()):
            assert bonus[event] == pytest.approx(float(dense[item - 1]) if item else 0.0, abs=1e-9)


def test_large_logits_stay_numbers() -> None:
    pointer, history = torch.tensor([[300.0, -5.0, 1e6, 300.0, -1e6]]), torch.tensor([[7, 8, 9, 7, 10]])
    found = item_bonuses(pointer, history)[0].tolist()
    assert found == pytest.approx([300 + math.log(2), -5, 700, 300 + math.log(2), -700], rel=1e-6)
    served = distinct_bonuses(pointer.numpy(), 1.0, history.numpy())[1][0].tolist()
    assert served == pytest.approx([*found[:3], 0, -700], rel=1e-5)


def test_occurrences_count_up_to_the_event() -> None:
    item = torch.tensor([[7, 8, 7, 7]])
    expected = [[[sum(int(item[0, k] == item[0, j]) for k in range(i + 1)) for j in range(4)] for i in range(4)]]
    assert occurrences(item).tolist() == expected


def test_newest_is_the_last_row_of_all_positions() -> None:
    torch.manual_seed(0)
    pointer = Pointer(D, L, TEMPERATURE)
    for parameter in pointer.parameters():
        torch.nn.init.normal_(parameter)
    states, events = torch.randn(3, L, D), torch.randn(3, L, D)
    item = torch.randint(1, 4, (3, L))
    newest = torch.tensor([5, 0, 3])
    times = torch.zeros(2, 3, L, dtype=torch.long)
    everywhere = pointer(states, states, events, *times, occurrences(item))
    for row, position in enumerate(newest.tolist()):
        count = occurrences(item)[row : row + 1, position]
        one = slice(row, row + 1)
        found = pointer.newest(newest[one], count, states[one], states[one], events[one], *times[:, one])
        torch.testing.assert_close(found[0, : position + 1], everywhere[row, position, : position + 1])


def test_later_events_and_padding_have_no_part() -> None:
    item = torch.tensor([[3, 4, PAD]])
    zeros, target = torch.zeros(1, 3, 3), torch.tensor([[4, 3, PAD]])
    seen = zeros + 2, item, target, target == target, 1.0, torch.arange(1, 6)
    scores = history_scores(torch.zeros(1, 3, D), torch.zeros(1, 3, D), *seen)
    assert (scores.pointer == ABSENT).tolist() == [[False, True, True], [False, False, True], [False, False, True]]
    assert scores.column.tolist() == [[2, -1, -1], [2, 3, -1], [2, 3, -1]]
    assert scores.target_bonus()[0] == 0 and scores.target_bonus()[1] == pytest.approx(2)
