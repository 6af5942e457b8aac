"""The collapse check: silent with a healthy model; it names each planted defect."""

import logging

import numpy as np
import pytest
import torch

from twotower.data.loader import query_loader, training_loader
from twotower.training.callbacks.collapse import CollapseCheck


@pytest.fixture(scope="module")
def prepared(make_prepared):
    random = np.random.default_rng(0)
    sessions = [(random.integers(1, 61) + random.integers(0, 9, size=8)).tolist() for _ in range(200)]
    return make_prepared(sessions, train=[6] * 200, num_items=80)


def fit(prepared, make_module, make_trainer, case: str, stop: bool, caplog) -> tuple[int, list[str]]:
    """Number of epochs trained, and the warnings."""
    torch.manual_seed(0)
    training = training_loader(prepared, 8, 200, seed=1)
    module = make_module(training, "gru", 3)
    if case == "one user":
        module.model.encode_positions = lambda history, *others: (torch.ones_like(history).requires_grad_(), None)
    if case == "no numbers":
        torch.nn.init.constant_(module.model.item_tower.embedding.weight, float("nan"))
    trainer = make_trainer(3, CollapseCheck(stop))
    with caplog.at_level(logging.WARNING, "twotower.training.callbacks.collapse"):
        trainer.fit(module, training, query_loader(prepared, "validation", 8, 100))
    return trainer.current_epoch, [
        r.message for r in caplog.records if r.name == "twotower.training.callbacks.collapse"
    ]


def test_a_healthy_model_gets_no_warning(prepared, make_module, make_trainer, caplog) -> None:
    assert fit(prepared, make_module, make_trainer, "well", True, caplog) == (3, [])


@pytest.mark.parametrize(
    ("case", "says"), [("one user", "collapse: user vectors"), ("no numbers", "optimizer.learning_rate")]
)
@pytest.mark.parametrize(("stop", "epochs"), [(False, 3), (True, 1)])
def test_a_defect_is_named_and_ends_the_run_if_asked_for(
    prepared, make_module, make_trainer, caplog, case: str, says: str, stop: bool, epochs: int
) -> None:
    trained, warnings = fit(prepared, make_module, make_trainer, case, stop, caplog)
    assert trained == epochs
    assert sum(says in message for message in warnings) == epochs
