"""recall, ndcg and mrr, against definitions read literally and ties broken in every possible way."""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from gloo import on_two_processes
from sklearn.metrics import ndcg_score
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from twotower.metrics.dense_ranks import rank
from twotower.metrics.ranking_metrics import RankingMetrics
from twotower.metrics.ranks import Ranks

KS = (1, 3, 5)


def values_at(place: int, k: int) -> dict[str, float]:
    """What a target at 1-based `place` gives."""
    hit = place <= k
    return {
        f"recall_at_{k}": float(hit),
        f"ndcg_at_{k}": 1 / math.log2(place + 1) if hit else 0.0,
        f"mrr_at_{k}": 1 / place if hit else 0.0,
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def over_all_orders(scores: Sequence[float], item: int) -> dict[str, float]:
    """Mean over all permutations of the catalogue, each sorted stably by score."""
    places = []
    for order in itertools.permutations(range(1, len(scores) + 1)):
        ranking = sorted(order, key=lambda i: -scores[i - 1])
        places.append(ranking.index(item) + 1)
    result = {}
    for k in KS:
        for name in values_at(1, k):
            result[name] = mean([values_at(place, k)[name] for place in places])
    return result


def measure(scores: torch.Tensor, target: torch.Tensor, ks: Sequence[int] = KS) -> dict[str, float]:
    metrics = RankingMetrics(ks, ["view"])
    metrics.update(rank(scores, target), torch.zeros_like(target))
    return metrics.compute()


@pytest.mark.parametrize("seed", range(12))
def test_ties_are_worth_their_mean_over_all_orders(seed: int) -> None:
    torch.manual_seed(seed)
    scores = torch.randint(0, 3, (1, 6)).float()
    target = torch.randint(1, 7, (1,))
    assert measure(scores, target) == pytest.approx(over_all_orders(scores[0].tolist(), int(target)))


def test_a_constant_scorer_gets_a_random_rankers_score() -> None:
    num_items = 50
    measured = measure(torch.full((num_items, num_items), 0.25), torch.arange(1, num_items + 1), ks=(1, 10))
    for k in (1, 10):
        expected = {n: mean([values_at(place, k)[n] for place in range(1, num_items + 1)]) for n in values_at(1, k)}
        assert {n: measured[n] for n in expected} == pytest.approx(expected, rel=1e-12)
    assert measured["recall_at_10"] == pytest.approx(0.2)


def test_without_ties_they_are_the_textbook_formulas() -> None:
    torch.manual_seed(0)
    scores = torch.stack([torch.randperm(40).float() for _ in range(200)])
    target = torch.randint(1, 41, (200,))
    places = [sorted(row, reverse=True).index(row[t - 1]) + 1 for row, t in zip(scores.tolist(), target, strict=True)]
    expected = {n: mean([values_at(place, k)[n] for place in places]) for k in KS for n in values_at(1, k)}
    assert measure(scores, target) == pytest.approx(expected)


@pytest.mark.parametrize("values", [None, 4], ids=["random", "tied"])
def test_other_libraries_agree(values: int | None) -> None:
    """torchmetrics, averaged over the places that a tied target may take, and scikit-learn, which averages itself."""
    queries, items, ks = 60, 50, (1, 10, 20)
    generator = torch.Generator().manual_seed(11)
    scores = torch.rand(queries, items, generator=generator, dtype=torch.double)
    if values:
        scores = torch.randint(0, values, (queries, items), generator=generator).double()
    target = torch.randint(1, items + 1, (queries,), generator=generator)
    relevant = torch.zeros_like(scores, dtype=torch.long).scatter_(1, target[:, None] - 1, 1)
    measured = measure(scores, target, ks)
    assert values is None or (scores == scores.gather(1, target[:, None] - 1)).sum() > 5 * queries
    for k in ks:
        functions = {
            "recall": partial(retrieval_recall, top_k=k),
            "ndcg": partial(retrieval_normalized_dcg, top_k=k),
            "mrr": partial(retrieval_reciprocal_rank, top_k=k),
        }
        for name, function in functions.items():
            each = []
            for row, hit in zip(scores, relevant, strict=True):
                tied = torch.nonzero(row == row[hit.bool()]).flatten()
                broken = torch.arange(len(tied)) / (2.0 * len(tied))  # under 1/2, so that nothing else moves
                for turn in range(len(tied)):
                    orders = row.index_add(0, tied, broken.roll(turn).double())
                    each.append((float(function(orders, hit)), 1 / len(tied)))
            expected = sum(value * weight for value, weight in each) / queries
            assert measured[f"{name}_at_{k}"] == pytest.approx(expected, abs=1e-6)
        assert measured[f"ndcg_at_{k}"] == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-6)


def test_cut_offs_may_exceed_the_catalogue_and_come_in_any_order() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    measured = measure(scores, torch.tensor([3, 2]), ks=(20, 2))
    assert measured["recall_at_20"] == 1.0
    assert measured["recall_at_2"] == pytest.approx((0 + 2 / 3) / 2)
    assert measured["mrr_at_20"] == pytest.approx((1 / 3 + (1 + 1 / 2 + 1 / 3) / 3) / 2)
    assert measured["ndcg_at_20"] == pytest.approx((1 / 2 + (1 + 1 / math.log2(3) + 1 / 2) / 3) / 2)


def test_ranks_far_behind_the_last_cut_off_are_worth_nothing() -> None:
    metrics = RankingMetrics([2], ["view"])
    metrics.update(Ranks(torch.tensor([2, 3, 10**9]), torch.tensor([1, 10**9, 1])), torch.tensor([0, 0, 0]))
    assert set(metrics.compute().values()) == {0.0}


def test_the_mean_is_over_queries_not_over_batches() -> None:
    metrics = RankingMetrics([1], ["view"])
    for places in ([0], [1, 1, 1]):
        better = torch.tensor(places)
        metrics.update(Ranks(better, torch.ones_like(better)), torch.zeros_like(better))
    assert metrics.compute()["recall_at_1"] == 0.25


def test_each_event_type_has_its_own_metrics_beside_the_total() -> None:
    metrics = RankingMetrics([1, 2], ["view", "cart", "buy"])
    better = torch.tensor([0, 1, 5, 0, 1])
    kind = torch.tensor([0, 0, 0, 2, 2])
    metrics.update(Ranks(better, torch.ones_like(better)), kind)
    result = metrics.compute()
    assert result["recall_at_2"] == pytest.approx(4 / 5)
    assert result["view/recall_at_1"] == pytest.approx(1 / 3)
    assert result["view/recall_at_2"] == pytest.approx(2 / 3)
    assert result["view/mrr_at_2"] == pytest.approx((1 + 1 / 2) / 3)
    assert result["buy/ndcg_at_2"] == pytest.approx((1 + 1 / math.log2(3)) / 2)
    assert not any(name.startswith("cart/") for name in result), "a type without queries has no metrics"


def test_no_query_gives_zeros_and_an_empty_update_changes_nothing() -> None:
    metrics = RankingMetrics([1], ["view", "cart"])
    none = torch.empty(0, dtype=torch.long)
    metrics.update(Ranks(none, none), none)
    assert metrics.compute() == {"recall_at_1": 0.0, "ndcg_at_1": 0.0, "mrr_at_1": 0.0}
    metrics.update(Ranks(torch.tensor([0]), torch.tensor([1])), torch.tensor([1]))
    metrics.update(Ranks(none, none), none)
    assert metrics.compute()["recall_at_1"] == 1.0


def test_reset_forgets() -> None:
    metrics = RankingMetrics([1], ["view"])
    metrics.update(Ranks(torch.tensor([0]), torch.tensor([1])), torch.tensor([0]))
    metrics.reset()
    metrics.update(Ranks(torch.tensor([7]), torch.tensor([1])), torch.tensor([0]))
    assert metrics.compute()["recall_at_1"] == 0.0


def sample(queries: int) -> tuple[Ranks, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    better = torch.randint(0, 12, (queries,), generator=generator)
    tied = torch.randint(1, 4, (queries,), generator=generator)
    return Ranks(better, tied), torch.randint(0, 2, (queries,), generator=generator)


def part(rank: int, world: int, queries: int = 31) -> RankingMetrics:
    """What one of `world` processes holds."""
    ranks, kind = sample(queries)
    metrics = RankingMetrics(KS, ["view", "buy"])
    metrics.update(Ranks(ranks.better[rank::world], ranks.tied[rank::world]), kind[rank::world])
    return metrics


def test_summed_states_equal_one_metric_over_all() -> None:
    whole, halves = part(0, 1), [part(0, 2), part(1, 2)]
    merged = RankingMetrics(KS, ["view", "buy"])
    merged.update(*sample(0))
    merged.total, merged.count = sum(h.total for h in halves), sum(h.count for h in halves)
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)


def compute_in_a_group(rank: int, world: int) -> dict[str, float]:
    return part(rank, world).compute()


@pytest.mark.slow
def test_two_processes_together_compute_what_one_does_alone(tmp_path: Path) -> None:
    for computed in on_two_processes(compute_in_a_group, tmp_path):
        assert computed == pytest.approx(part(0, 1).compute(), rel=1e-12)
