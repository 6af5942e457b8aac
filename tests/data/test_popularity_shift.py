"""The shift of logits by recent popularity: against naive counts, and what a model that is trained with it learns."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from twotower.data import popularity_shift as module
from twotower.data.popularity_shift import popularity_shift
from twotower.model.losses.softmax import softmax
from twotower.model.scoring import Scores

SESSIONS = 40


@pytest.fixture(scope="module")
def prepared(make_prepared: Any) -> Any:
    """Sessions of 5 events each, one after the other; item 1 comes less and less, item 3 in the last sessions alone."""
    random = np.random.default_rng(0)
    items = [[1 + int(random.random() * SESSIONS < s) + int(s > 34) for _ in range(5)] for s in range(SESSIONS)]
    times = [[1000 * s + place for place in range(5)] for s in range(SESSIONS)]
    train = [5 if s < 36 else 2 for s in range(SESSIONS)]
    return make_prepared(items, train, [0 if s < 36 else 3 for s in range(SESSIONS)], 4, timestamps=times)


@pytest.mark.parametrize("include_validation", [False, True])
def test_it_is_the_log_ratio_of_popularity_in_the_newest_tenth(
    prepared: Any, include_validation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVENTS_AT_ONCE", 7)
    kept = np.flatnonzero(prepared.training_mask(include_validation))
    newest = kept[prepared.timestamp[kept] >= np.quantile(prepared.timestamp[kept], 0.9)]
    share = len(newest) / len(kept)
    expected = [0.0]
    for item in range(1, 5):
        lately = sum(prepared.item_index[event] == item for event in newest)
        in_all = sum(prepared.item_index[event] == item for event in kept)
        expected.append(0.5 * math.log((lately + 10 * share) / (in_all * share + 10 * share)))
    found = popularity_shift(prepared, include_validation, 0.5)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[1] < -0.1 and found[3] > 0.1 and found[4] == 0, "falls, rises, never came"


def test_a_model_of_popularity_alone_learns_the_newest_popularity(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMOOTHING", 1e-3)
    shift = torch.from_numpy(popularity_shift(prepared, False, 1.0))
    kept = prepared.training_mask(False)
    target = torch.from_numpy(prepared.item_index[kept]).long()
    scores = torch.zeros(3, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        user, ids = torch.ones(len(target), 1), torch.arange(1, 4)
        vectors = scores[target - 1], scores
        of_all = Scores(
            user, *vectors, torch.zeros(3), target - 1, torch.ones(len(target)), 1.0, None, shift[target], shift[ids]
        )
        loss = softmax(of_all).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    newest = kept & (prepared.timestamp >= np.quantile(prepared.timestamp[kept], 0.9))
    shares = np.bincount(prepared.item_index[newest], minlength=4)[1:] / newest.sum()
    assert scores.softmax(0).flatten().tolist() == pytest.approx(shares.tolist(), abs=1e-2)
    assert abs(shares - np.bincount(target, minlength=4)[1:] / len(target)).max() > 0.3, "other than in all"


def test_no_shift_without_strength_events_times_or_a_test_that_is_later(make_prepared: Any, prepared: Any) -> None:
    assert not popularity_shift(prepared, True, 0).any()
    nothing = make_prepared([[1, 2]], [0], [0], 3)
    assert popularity_shift(nothing, True, 1).tolist() == [0, 0, 0, 0]
    at_once = make_prepared([[1, 2], [1, 3]], timestamps=[[5, 5], [5, 5]])
    assert not popularity_shift(at_once, True, 1).any()
    left_out = replace(prepared, manifest={**prepared.manifest, "split": {"kind": "leave_one_out"}})
    assert not popularity_shift(left_out, True, 1).any()


def test_on_many_events_a_sample_of_the_times_says_what_is_newest(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 60)
    every_third = slice(None, None, 1 + len(prepared.item_index) // 60)
    is_training = prepared.training_mask(False)
    begin = np.quantile(prepared.timestamp[every_third][is_training[every_third]], 0.9)
    newest = prepared.item_index[is_training & (prepared.timestamp >= begin)]
    in_all = prepared.item_index[is_training]
    share = len(newest) / len(in_all)
    ratio = ((newest == 3).sum() + 10 * share) / (((in_all == 3).sum() + 10) * share)
    assert popularity_shift(prepared, False, 1.0)[3] == pytest.approx(math.log(ratio), abs=1e-6)
