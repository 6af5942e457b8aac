"""V-SKNN and STAN against plain loops written from their papers."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from twotower.core.event_codes import MS_PER_DAY
from twotower.evaluation.baselines.item_neighbours import TrainingEvents
from twotower.evaluation.baselines.session_neighbours import STAN, VSKNN

ITEMS = 15
Log = list[list[tuple[int, int]]]  # (item, time) of each session


def log(seed: int, sessions: int = 60) -> Log:
    random = np.random.default_rng(seed)
    result = []
    for _ in range(sessions):
        times = np.sort(random.integers(0, 20 * MS_PER_DAY, size=1)) + np.arange(random.integers(1, 9))
        result.append([(int(random.integers(1, ITEMS + 1)), int(t)) for t in times])
    return result


def training(sessions: Log, num_items: int = ITEMS) -> TrainingEvents:
    events = [(item, number, time) for number, session in enumerate(sessions) for item, time in session]
    item, number, time = (np.array(column, dtype=np.int64) for column in zip(*events, strict=True))
    return TrainingEvents(item.astype(np.int32), number, time, num_items)


def latest_sharing(sessions: Log, history: list[int], sample: int) -> list[list[tuple[int, int]]]:
    sharing = [s for s in sessions if {i for i, _ in s} & set(history)]
    return sorted(sharing, key=lambda s: s[-1][1])[-sample:]  # no two sessions end at one time here


def add_up(votes: dict[int, float]) -> list[float]:
    return [votes.get(item, 0.0) for item in range(1, ITEMS + 1)]


def naive_vsknn(sessions: Log, history: list[int], neighbours: int, sample: int) -> list[float]:
    place = {item: k for k, item in enumerate(history, start=1)}
    near = []
    for session in latest_sharing(sessions, history, sample):
        shared = {i for i, _ in session} & set(history)
        near.append((round(sum(place[i] / len(history) for i in shared), 9), session[-1][1], session))
    votes: dict[int, float] = defaultdict(float)
    for similarity, _, session in sorted(near, reverse=True)[:neighbours]:
        items = {i for i, _ in session}
        step = next(k for k, item in enumerate(reversed(history), start=1) if item in items)
        for item in items:
            votes[item] += similarity / step
    return add_up(votes)


def naive_stan(sessions: Log, history: list[int], neighbours: int, sample: int, days: float | None) -> list[float]:
    weight = {item: math.exp((k - len(history)) / 1.02) for k, item in enumerate(history, start=1)}
    now = max(s[-1][1] for s in sessions) + 3 * MS_PER_DAY
    near = []
    for session in latest_sharing(sessions, history, sample):
        items = {i for i, _ in session}
        cosine = sum(weight[i] for i in items & set(history)) / math.sqrt(len(items))
        cosine /= math.sqrt(sum(w * w for w in weight.values()))
        if days:
            cosine *= math.exp(-(now - session[-1][1]) / (days * MS_PER_DAY))
        near.append((cosine, session[-1][1], session))
    votes: dict[int, float] = defaultdict(float)
    for similarity, _, session in sorted(near, reverse=True)[:neighbours]:
        last = {item: k for k, (item, _) in enumerate(session)}
        anchor = max(k for item, k in last.items() if item in weight)
        for item, k in last.items():
            votes[item] += similarity * math.exp(-abs(k - anchor) / 2.05)
    return add_up(votes)


def histories(seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, ITEMS + 1, size=random.integers(1, 8)).tolist() for _ in range(50)]


def padded(rows: list[list[int]]) -> torch.Tensor:
    result = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, history in zip(result, rows, strict=True):
        row[: len(history)] = torch.tensor(history)
    return result


def same_up_to_a_factor(scores: torch.Tensor, expected: torch.Tensor) -> None:
    assert (expected.sum(1) > 0).all()
    own, other = (x / x.sum(1, keepdim=True) for x in (scores, expected))
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("neighbours", "sample"), [(100, 1000), (5, 1000), (100, 7), (3, 8)])
def test_vsknn_equals_a_plain_loop_up_to_a_factor_of_each_query(neighbours: int, sample: int) -> None:
    sessions, rows = log(0), histories(1)
    scores = VSKNN(training(sessions), neighbours, sample)(padded(rows))
    expected = torch.tensor([naive_vsknn(sessions, row, neighbours, sample) for row in rows])
    same_up_to_a_factor(scores, expected)


@pytest.mark.parametrize(("neighbours", "sample"), [(100, 5000), (5, 5000), (100, 7), (3, 8)])
@pytest.mark.parametrize("days", [5.0, None])
def test_stan_equals_a_plain_loop_up_to_a_factor_of_each_query(neighbours: int, sample: int, days) -> None:
    sessions, rows = log(0), histories(1)
    scores = STAN(training(sessions), neighbours, sample, days)(padded(rows))
    expected = torch.tensor([naive_stan(sessions, row, neighbours, sample, days) for row in rows])
    same_up_to_a_factor(scores, expected)


def test_sessions_are_latest_by_their_last_event_not_their_first() -> None:
    sessions = [[(1, 0), (2, 100)], [(1, 50), (3, 60)]]
    assert VSKNN(training(sessions, 3), sample=1)(torch.tensor([[1]])).tolist() == [[1.0, 1.0, 0.0]]


def test_old_sessions_still_have_an_order() -> None:
    years = 20 * 365 * MS_PER_DAY
    sessions = [[(1, 0), (2, 1)], [(1, 10 * MS_PER_DAY), (3, 10 * MS_PER_DAY)], [(4, years), (4, years)]]
    _, two, three, _ = STAN(training(sessions, 4))(torch.tensor([[1]]))[0].tolist()
    assert 0 < two < three


@pytest.mark.parametrize("kind", [VSKNN, STAN])
def test_who_shares_nothing_gets_no_scores(kind) -> None:
    scorer = kind(training([[(1, 0), (2, 1)]], 5))
    assert scorer(torch.tensor([[5, 4], [0, 0]])).tolist() == [[0.0] * 5] * 2
    nothing = np.empty(0, dtype=np.int64)
    assert kind(TrainingEvents(nothing, nothing, nothing, 5))(torch.tensor([[5, 4]])).tolist() == [[0.0] * 5]
