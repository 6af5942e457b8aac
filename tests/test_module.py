"""TwoTowerModule: steps by hand, and that towers learn what can be learnt and nothing else."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from twotower.data.loader import query_loader, training_loader
from twotower.schema import PAD, Prepared

HELD_OUT = 2  # the last events of each session validate


def split(make_prepared, sessions: list[list[int]], num_items: int, **kwargs) -> Prepared:
    return make_prepared(sessions, [max(0, len(s) - HELD_OUT) for s in sessions], num_items=num_items, **kwargs)


def walks(successor: np.ndarray, sessions: int, length: int, seed: int) -> list[list[int]]:
    """Sessions that follow `successor` (1-based items) from a random start."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(sessions):
        session = [int(random.integers(1, len(successor) + 1))]
        while len(session) < length:
            session.append(int(successor[session[-1] - 1]))
        result.append(session)
    return result


def learn(make_module, make_trainer, prepared: Prepared, tower: str, epochs: int, **kwargs) -> dict[str, float]:
    """Train and return the last validation's metrics."""
    loader = training_loader(prepared, 8, 128, seed=0)
    module = make_module(loader, tower, epochs, **kwargs)
    trainer = make_trainer(epochs)
    trainer.fit(module, loader, query_loader(prepared, "validation", 8, 256))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("tower", "normalize", "uniform"),
    [("transformer", True, 0), ("gru", True, 0), ("transformer", False, 12), ("gru", False, 12)],
)
def test_a_fixed_successor_is_learnt(make_prepared, make_module, make_trainer, tower, normalize, uniform) -> None:
    successor = np.random.default_rng(0).permutation(30) + 1
    prepared = split(make_prepared, walks(successor, 250, 9, seed=1), 30)
    metrics = learn(make_module, make_trainer, prepared, tower, 8, normalize=normalize, uniform=uniform)
    assert metrics["val/recall_at_1"] >= 0.99


@pytest.mark.parametrize("tower", ["transformer", "gru", "mean_pool"])
def test_random_targets_are_not_foreseen(make_prepared, make_module, make_trainer, tower: str) -> None:
    """The control: what a tower that sees its target would be caught at."""
    random = np.random.default_rng(2)
    sessions = random.integers(1, 31, size=(250, 9)).tolist()
    prepared = split(make_prepared, sessions, 30)
    metrics = learn(make_module, make_trainer, prepared, tower, 4)
    chance, queries = 1 / 30, 250 * HELD_OUT
    assert metrics["val/recall_at_1"] < chance + 5 * math.sqrt(chance * (1 - chance) / queries)


def test_a_bag_of_items_tells_the_mean_tower_the_cluster(make_prepared, make_module, make_trainer) -> None:
    random = np.random.default_rng(3)
    clusters = random.permutation(40).reshape(5, 8) + 1
    sessions = [random.choice(clusters[random.integers(5)], size=9).tolist() for _ in range(250)]
    prepared = split(make_prepared, sessions, 40)
    metrics = learn(make_module, make_trainer, prepared, "mean_pool", 6, ks=(1, 8))
    assert metrics["val/recall_at_8"] >= 0.99
    assert metrics["val/recall_at_1"] < 0.3  # one of eight: nobody can know which


def test_a_training_step_is_the_mean_cross_entropy_over_all_positions(make_prepared, make_module, monkeypatch) -> None:
    prepared = make_prepared([[1, 2, 3, 4], [5, 1], [2, 2, 6]], num_items=7)
    loader = training_loader(prepared, 3, 100, seed=0)
    module = make_module(loader, "gru", 1)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    (batch,) = list(loader)
    losses = []
    for history, target in (
        ([1], 2), ([1, 2], 3), ([1, 2, 3], 4), ([5], 1), ([2], 2), ([2, 2], 6),
    ):  # fmt: skip
        scores = module.model(torch.tensor([history])) @ module.model.encode_items().T / module.temperature
        losses.append(F.cross_entropy(scores, torch.tensor([target - 1])).item())
    assert module.training_step(batch, 0).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_step_without_targets_costs_nothing_and_moves_nothing(make_prepared, make_module, monkeypatch) -> None:
    """What a rank with no row of a batch computes, so that all ranks take the same steps."""
    loader = training_loader(make_prepared([[1, 2, 3, 4], [5, 1]], num_items=7), 3, 100, seed=0)
    for uniform in (0, 3):
        module = make_module(loader, "transformer", 1, uniform=uniform)
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        (batch,) = list(loader)
        loss = module.training_step(batch._replace(target=torch.full_like(batch.target, PAD)), 0)
        loss.backward()
        assert loss.item() == 0.0
        for name, parameter in module.model.named_parameters():
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@pytest.mark.parametrize("normalize", [True, False])
def test_validation_ranks_each_query_as_serving_would(make_prepared, make_module, make_trainer, normalize) -> None:
    """Each query alone, its last events through the model, all items sorted."""
    random = np.random.default_rng(4)
    sessions = [random.integers(1, 21, size=random.integers(1, 14)).tolist() for _ in range(40)]
    types = [[i % 2 for i in s] for s in sessions]
    prepared = split(make_prepared, sessions, 20, types=types, event_types=("view", "buy"))
    max_length, k = 4, 5
    loader = training_loader(prepared, max_length, 64, seed=0)
    module = make_module(loader, "transformer", 1, normalize=normalize, ks=(k,), dropout=0.5)
    trainer = make_trainer(1)
    (metrics,) = trainer.validate(module, query_loader(prepared, "validation", max_length, 30), verbose=False)
    (again,) = trainer.validate(module, query_loader(prepared, "validation", max_length, 300), verbose=False)
    assert again == pytest.approx(metrics, abs=1e-6), "sums start anew, and batches make no difference"

    module.eval()
    hits: dict[int, list[bool]] = {0: [], 1: []}
    with torch.no_grad():
        for session, kinds in zip(sessions, types, strict=True):
            for position in range(max(1, len(session) - HELD_OUT), len(session)):
                history = torch.tensor([session[:position][-max_length:]])
                scores = (module.model(history) @ module.model.encode_items().T)[0].tolist()
                ranking = sorted(range(1, 21), key=lambda item, scores=scores: -scores[item - 1])
                hits[kinds[position]].append(session[position] in ranking[:k])
    assert metrics[f"val/recall_at_{k}"] == pytest.approx(np.mean(hits[0] + hits[1]), abs=1e-6)
    assert metrics[f"val/view/recall_at_{k}"] == pytest.approx(np.mean(hits[0]), abs=1e-6)
    assert metrics[f"val/buy/recall_at_{k}"] == pytest.approx(np.mean(hits[1]), abs=1e-6)
