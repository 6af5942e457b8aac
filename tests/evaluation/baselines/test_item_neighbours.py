"""Sequential rules against a plain loop; item-kNN's own oracle is in test_baselines."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from twotower.evaluation.baselines.item_neighbours import ItemKNN, SequentialRules, TrainingEvents

ITEMS = 9


def log(seed: int, sessions: int = 40) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, ITEMS + 1, size=random.integers(1, 14)).tolist() for _ in range(sessions)]


def flat(sessions: list[list[int]]) -> TrainingEvents:
    items = np.array([item for session in sessions for item in session], dtype=np.int32)
    session = np.repeat(np.arange(len(sessions)), [len(s) for s in sessions])
    return TrainingEvents(items, session, np.arange(len(items)), ITEMS)


@pytest.mark.parametrize(("steps", "rules"), [(10, 20), (3, 20), (10, 2)])
def test_rules_equal_a_plain_loop(steps: int, rules: int) -> None:
    sessions = log(0)
    weight: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for session in sessions:
        for later in range(len(session)):
            for back in range(1, min(steps, later) + 1):
                weight[session[later - back]][session[later]] += 1 / back
    scorer = SequentialRules(flat(sessions), steps, rules)
    histories = torch.tensor([[4, 7, 2], [2, 0, 0], [9, 9, 0]])
    for scores, newest in zip(scorer(histories), [2, 2, 9], strict=True):
        best = sorted(weight[newest].items(), key=lambda pair: (-round(pair[1], 9), pair[0]))[:rules]
        expected = torch.zeros(ITEMS)
        for item, value in best:
            expected[item - 1] = value
        torch.testing.assert_close(scores, expected)


def test_nothing_learnt_gives_no_scores() -> None:
    nothing = np.empty(0, dtype=np.int64)
    events = TrainingEvents(nothing, nothing, nothing, 3)
    for scorer in (SequentialRules(events), ItemKNN(events)):
        assert scorer(torch.tensor([[1, 2], [3, 0]])).tolist() == [[0.0] * 3] * 2


def test_an_empty_history_has_no_scores() -> None:
    events = flat(log(1))
    for scorer in (SequentialRules(events), ItemKNN(events)):
        scores = scorer(torch.tensor([[0, 0], [3, 0]]))
        assert scores[0].sum() == 0 < scores[1].sum()
