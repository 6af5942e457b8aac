"""Baselines against plain loops over small random sessions."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from twotower.core.schema import Prepared
from twotower.data.loader import query_loader
from twotower.evaluation.baselines.baselines import fit_baselines, rank_with_baselines
from twotower.evaluation.baselines.item_neighbours import ItemKNN, TrainingEvents
from twotower.metrics.candidates import Candidates
from twotower.metrics.ranking_metrics import RankingMetrics
from twotower.metrics.ranking_results import means_by_type
from twotower.metrics.ranks import Ranks

Scorer = Callable[[list[int]], list[float]]
ITEMS = 12
RECENT = 0.1


@pytest.fixture(scope="module")
def prepared(make_prepared) -> Prepared:
    random = np.random.default_rng(0)
    sessions = [random.zipf(1.6, size=random.integers(1, 11)) % ITEMS + 1 for _ in range(60)]
    sessions = [s.tolist() for s in sessions]
    times = [np.sort(random.integers(0, 1000, size=len(s))).tolist() for s in sessions]
    train = [int(random.integers(0, len(s) + 1)) for s in sessions]
    validation = [int(random.integers(0, len(s) - t + 1)) for s, t in zip(sessions, train, strict=True)]
    types = [[i % 2 for i in s] for s in sessions]
    return make_prepared(sessions, train, validation, ITEMS + 1, types, times, ("view", "buy"))


def learnt(prepared: Prepared, include_validation: bool = False) -> list[list[tuple[int, int]]]:
    """(item, time) of the events that may be learnt from, session by session."""
    return [
        [(int(prepared.item_index[e]), int(prepared.timestamp[e])) for e in range(begin, end)]
        for begin, end in zip(prepared.offsets[:-1], prepared.fit_end(include_validation), strict=True)
    ]


def naive_scorers(sessions: list[list[tuple[int, int]]], num_items: int) -> dict[str, Scorer]:
    items = range(1, num_items + 1)
    events = [event for session in sessions for event in session]
    popularity = [float(sum(i == item for i, _ in events)) for item in items]
    times = sorted(t for _, t in events)
    where = (len(times) - 1) * (1 - RECENT)  # the quantile, between two neighbours
    low = math.floor(where)
    border = times[low] + (where - low) * (times[min(low + 1, len(times) - 1)] - times[low])
    recent = [float(sum(i == item and t >= border for i, t in events)) for item in items]

    def repeat(history: list[int]) -> list[float]:
        last = {item: place for place, item in enumerate(history, start=1)}
        return [last.get(item, popularity[item - 1] / (max(popularity) + 1)) for item in items]

    holders: dict[int, set[int]] = defaultdict(set)
    for number, session in enumerate(sessions):
        for item, _ in session:
            holders[item].add(number)

    def cosine(a: int, b: int) -> float:
        size = math.sqrt(len(holders[a]) * len(holders[b]))
        return len(holders[a] & holders[b]) / size if size else 0.0

    def knn(history: list[int]) -> list[float]:
        return [sum(cosine(seen, item) for seen in history) for item in items]

    return {
        "popularity": lambda history: popularity,
        "recent_popularity": lambda history: recent,
        "session_repeat": repeat,
        "item_knn": knn,
    }


def fitted(prepared: Prepared, include_validation: bool = False):
    return {name: scorer for name, (scorer, _) in fit_baselines(prepared, include_validation).items()}


@pytest.mark.parametrize("name", ["popularity", "recent_popularity", "session_repeat", "item_knn"])
@pytest.mark.parametrize("include_validation", [False, True])
def test_scores_equal_a_naive_loop_over_the_training_events(prepared, name: str, include_validation: bool) -> None:
    random = np.random.default_rng(1)
    histories = [random.integers(1, ITEMS + 2, size=random.integers(1, 9)).tolist() for _ in range(40)]
    histories += [[item] for item in range(1, ITEMS + 2)]
    padded = torch.zeros(len(histories), 9, dtype=torch.long)
    for row, history in zip(padded, histories, strict=True):
        row[: len(history)] = torch.tensor(history)
    scores = fitted(prepared, include_validation)[name](padded)
    scorer = naive_scorers(learnt(prepared, include_validation), prepared.num_items)[name]
    expected = torch.tensor([scorer(history) for history in histories])
    if name == "recent_popularity":
        assert expected.sum() < 0.5 * len(histories) * sum(map(len, learnt(prepared, include_validation)))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_learnt_changes_nothing(prepared) -> None:
    end = np.asarray(prepared.train_end)
    session = np.repeat(np.arange(len(end)), np.diff(prepared.offsets))
    changed = np.array(prepared.item_index)
    later = np.arange(len(changed)) >= end[session]
    assert later.any()
    changed[later] = changed[later] % ITEMS + 1
    history = torch.randint(1, ITEMS + 1, (20, 5), generator=torch.Generator().manual_seed(0))
    before, after = fitted(prepared), fitted(replace(prepared, item_index=changed))
    assert {"sequential_rules", "v_sknn", "stan"} <= set(before)
    for name in before:
        assert torch.equal(before[name](history), after[name](history)), name


def events_of(items: list[int], session: list[int], num_items: int) -> TrainingEvents:
    return TrainingEvents(np.array(items), np.array(session), np.arange(len(items)), num_items)


def test_an_item_is_its_own_best_neighbour() -> None:
    knn = ItemKNN(events_of([1, 2, 1, 3, 3], [0, 0, 1, 1, 1], 4))
    # item 1 in two sessions, items 2 and 3 in one each; item 3 twice in its session; item 4 never
    one = 1 / math.sqrt(2)
    assert knn(torch.tensor([[1, 0]])).tolist() == [pytest.approx([1.0, one, one, 0.0])]
    assert knn(torch.tensor([[3, 1]])).tolist() == [pytest.approx([1 + one, one, 1 + one, 0.0])]
    assert knn(torch.tensor([[4, 0]])).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_only_the_best_neighbours_are_kept() -> None:
    items = [1, 2, 1, 2, 1, 3, 3, 3]
    session = [0, 0, 1, 1, 2, 2, 3, 4]
    knn = ItemKNN(events_of(items, session, 3), neighbours=2)  # of item 1: itself and item 2
    scores = knn(torch.tensor([[1]]))
    assert scores.tolist() == [pytest.approx([1.0, 2 / math.sqrt(6), 0.0])]


def test_sessions_without_any_pair_give_each_item_itself() -> None:
    knn = ItemKNN(events_of([1, 2, 3], [0, 1, 2], 3))
    assert knn(torch.tensor([[2, 2]])).tolist() == [[0.0, 2.0, 0.0]]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_evaluation_equals_ranking_query_by_query(prepared, part: str) -> None:
    max_length, ks = 4, (1, 3, 5)
    loader = query_loader(prepared, part, max_length, 20)
    ranked = Candidates(prepared.item_index, prepared.offsets)
    answers, cost = rank_with_baselines(fit_baselines(prepared, False), loader, prepared.num_items, ranked)
    results = {}
    for name, own in answers.items():
        types, repeat = prepared.event_type[own.event], ranked.is_repeat(own.event)
        results |= {f"{name}/{k}": v for k, v in means_by_type(own, types, repeat, ks, prepared.event_types).items()}
        assert cost[f"{name}/fit_seconds"] > 0 and cost[f"{name}/queries_per_second"] > 0
    bounds = {
        "validation": (prepared.train_end, prepared.validation_end),
        "test": (prepared.validation_end, prepared.offsets[1:]),
    }[part]
    expected = {}
    for name, scorer in naive_scorers(learnt(prepared), prepared.num_items).items():
        better, tied, kind, repeat = [], [], [], []
        for begin, first, end in zip(prepared.offsets[:-1], *bounds, strict=True):
            for target in range(max(first, begin + 1), end):
                history = [int(i) for i in prepared.item_index[begin:target]][-max_length:]
                scores = [round(s, 5) for s in scorer(history)]
                own = scores[prepared.item_index[target] - 1]
                better.append(sum(s > own for s in scores))
                tied.append(sum(s == own for s in scores))
                kind.append(int(prepared.event_type[target]))
                repeat.append(prepared.item_index[target] in prepared.item_index[begin:target])
        metrics = RankingMetrics(ks, prepared.event_types)
        metrics.update(Ranks(torch.tensor(better), torch.tensor(tied)), torch.tensor(kind), torch.tensor(repeat))
        expected |= {f"{name}/{key}": value for key, value in metrics.compute().items()}
    assert {key: results[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert {f"item_knn/{prepared.event_types[1]}/recall_at_3", "stan/mrr_at_5_repeat", "stan/mrr_at_5_new"} <= set(
        results
    )


def test_item_knn_counts_its_window_in_the_sessions_order() -> None:
    items = [9, 1, 5]  # by id, 1 and 9 are two apart; in the session they are neighbours
    knn = ItemKNN(events_of(items, [0, 0, 0], 9), window=1)
    (scores,) = knn(torch.tensor([[9]]))
    assert scores[1 - 1] > 0 and scores[9 - 1] > 0 and scores[5 - 1] == 0
