"""The average of the weights, against a loop; that a stopped run goes on with both is in test_callbacks.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl

from twotower.core.errors import UserError
from twotower.data.loader import query_loader, training_loader
from twotower.runs.checkpoint import read_checkpoint
from twotower.training.callbacks.best_checkpoint import BestCheckpoint
from twotower.training.callbacks.weight_average import WeightAverage
from twotower.training.module import TwoTowerModule

EPOCHS = 3
Weights = dict[str, np.ndarray[Any, Any]]


def weights_of(module: pl.LightningModule) -> Weights:
    return {name: p.detach().double().numpy().copy() for name, p in module.named_parameters()}


class Watch(pl.Callback):
    """Keeps the weights of each step, of each validation, and those that the next epoch begins with."""

    def __init__(self) -> None:
        self.steps: list[Weights] = []
        self.validated: list[Weights] = []
        self.begun: list[Weights] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun.append(weights_of(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps.append(weights_of(pl_module))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        if batch_idx == 0:
            self.validated.append(weights_of(pl_module))


def fit(make_prepared, make_module, make_trainer, folder: Path, average: pl.Callback) -> tuple[TwoTowerModule, Watch]:
    random = np.random.default_rng(0)
    sessions = random.integers(1, 21, size=(30, 6)).tolist()
    prepared = make_prepared(sessions, [4] * 30, num_items=20)
    loader = training_loader(prepared, 5, 18, seed=0)
    assert len(loader) == 5
    module = make_module(loader, "gru", EPOCHS)
    watch = Watch()
    best = BestCheckpoint(folder, "best", monitor="val/ndcg_at_5", mode="max", enable_version_counter=False)
    trainer = make_trainer(EPOCHS, average, watch, best)
    trainer.fit(module, loader, query_loader(prepared, "validation", 5, 100))
    trainer.save_checkpoint(folder / "refit.safetensors")
    return module, watch


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.2, 1), (0.3, 3), (0.999, 2)])
def test_it_is_the_average_that_a_loop_gives_and_it_is_what_remains(
    make_prepared, make_module, make_trainer, tmp_path, decay: float, every: int
) -> None:
    initial: list[Weights] = []

    class Initial(WeightAverage):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            initial.append(weights_of(pl_module))
            super().on_train_start(trainer, pl_module)

    module, watch = fit(make_prepared, make_module, make_trainer, tmp_path, Initial(decay, every))
    average, averages = initial[0], []
    for step, weights in enumerate(watch.steps, start=1):
        if step % every == 0:
            updates = step // every - 1
            keep = min(decay**every, (1 + updates) / (10 + updates)) if updates else 0.0  # the first one copies
            average = {name: keep * average[name] + (1 - keep) * weights[name] for name in weights}
        averages.append(average)
    assert len(averages) == 15
    for name, weight in weights_of(module).items():
        np.testing.assert_allclose(weight, averages[-1][name], atol=1e-6)
        assert np.abs(weight - watch.steps[-1][name]).max() > 1e-5, name
        for epoch in range(EPOCHS):
            np.testing.assert_allclose(watch.validated[epoch][name], averages[5 * epoch + 4][name], atol=1e-6)
        for epoch in range(1, EPOCHS):
            np.testing.assert_array_equal(watch.begun[epoch][name], watch.steps[5 * epoch - 1][name])
    best = read_checkpoint(tmp_path / "best.safetensors")
    for kept, step in ((best, 5 * best["epoch"] + 4), (read_checkpoint(tmp_path / "refit.safetensors"), 14)):
        assert kept["state_dict"].keys() == module.state_dict().keys()
        for name, weight in averages[step].items():
            np.testing.assert_allclose(kept["state_dict"][name].numpy(), weight, atol=1e-6)
    for name, weight in watch.steps[5 * best["epoch"] + 4].items():
        np.testing.assert_array_equal(best["current_model_state"][name].double().numpy(), weight)


def test_training_itself_does_not_notice(make_prepared, make_module, make_trainer, tmp_path) -> None:
    _, averaged = fit(make_prepared, make_module, make_trainer, tmp_path / "a", WeightAverage(0.9, 1))
    _, alone = fit(make_prepared, make_module, make_trainer, tmp_path / "b", pl.Callback())
    for computed, reference in zip(averaged.steps, alone.steps, strict=True):
        for name in reference:
            np.testing.assert_array_equal(computed[name], reference[name])


@pytest.mark.parametrize(("decay", "every"), [(0.0, 1), (1.0, 1), (0.9, 0)])
def test_what_averages_nothing_is_refused(decay: float, every: int) -> None:
    with pytest.raises(UserError, match="weight_average"):
        WeightAverage(decay, every)
