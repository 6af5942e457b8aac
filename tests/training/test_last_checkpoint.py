"""Stopping and going on: nothing replayed, nothing lost, and the same end."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from twotower.core.schema import PAD, Prepared
from twotower.data import loader
from twotower.data.loader import SessionLoader, query_loader, training_loader
from twotower.runs.checkpoint import previous_of, read_checkpoint
from twotower.training.callbacks.interruption import Interruption
from twotower.training.callbacks.last_checkpoint import LastCheckpoint
from twotower.training.callbacks.progress import Progress
from twotower.training.module import TwoTowerModule

# A run goes on in its own folder, or Lightning would forget which epoch was the best.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")

EPOCHS = 3
CONFIG = Path(__file__).parents[2] / "conf/callbacks"
LAST = "checkpoints/last.safetensors"
Act = Callable[[str, pl.Trainer, int], None]


class Recorder(pl.Callback):
    """Notes each batch that was trained on to its end, and calls `act` around steps and validations."""

    def __init__(self, act: Act | None) -> None:
        self.act = act or (lambda when, trainer, batch_index: None)
        self.trained: list[Any] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.act("step begins", trainer, batch_idx)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.trained.append((trainer.current_epoch, batch.target.tolist()))
        self.act("step ends", trainer, batch_idx)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.act("validation step begins", trainer, batch_idx)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.act("validation step ends", trainer, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.act("epoch ends", trainer, 0)


class Fitted(NamedTuple):
    module: TwoTowerModule
    recorder: Recorder
    progress: Progress
    early: EarlyStopping
    best: ModelCheckpoint
    loader: SessionLoader


@pytest.fixture(scope="module")
def prepared(make_prepared) -> Prepared:
    random = np.random.default_rng(0)
    sessions = [random.integers(1, 21, size=random.integers(3, 14)).tolist() for _ in range(50)]
    return make_prepared(sessions, train=[len(s) - 2 for s in sessions], num_items=20)


@pytest.fixture(scope="module", params=[("default", "next"), ("ema", "session")])
def run(request, prepared, make_module, make_trainer) -> Callable[..., Fitted]:
    """Fit with the callbacks that train.py has; `act` may break it off."""

    def fit(
        folder: Path,
        act: Act | None = None,
        resume: str | None = None,
        stops: type | None = None,
        every_minutes: float = 10,
    ) -> Fitted:
        callbacks_of, horizon = request.param
        training = training_loader(prepared, 8, 50, seed=1, horizon=horizon)
        module = make_module(training, "gru", EPOCHS, ks=(1, 20))
        chosen = OmegaConf.merge(*(OmegaConf.load(CONFIG / f"{name}.yaml") for name in {"default", callbacks_of}))
        evaluation = {"horizon": horizon, "ks": [1, 20]}
        config = OmegaConf.create({"run_dir": str(folder), "callbacks": chosen, "evaluation": evaluation})
        del config.callbacks.progress_bar
        config.callbacks.pop("defaults", None)  # of Hydra
        config.callbacks.early_stopping.patience = 50
        callbacks = instantiate(config.callbacks)
        recorder, progress = Recorder(act), Progress()
        last = LastCheckpoint(folder / LAST, every_minutes)
        trainer = make_trainer(EPOCHS, Interruption(), *callbacks.values(), recorder, progress, last)
        validation = query_loader(prepared, "validation", 8, 60)
        assert len(validation) >= 4
        arguments = {"ckpt_path": folder / resume if resume else None}
        if stops:
            with pytest.raises(stops):
                trainer.fit(module, training, validation, **arguments)
        else:
            trainer.fit(module, training, validation, **arguments)
        early, best = callbacks["early_stopping"], callbacks["best_checkpoint"]
        return Fitted(module, recorder, progress, early, best, training)

    return fit


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Fitted:
    """The run that nothing interrupts."""
    fitted = run(tmp_path_factory.mktemp("whole"))
    assert len(fitted.loader) >= 5
    assert len(fitted.recorder.trained) == EPOCHS * len(fitted.loader)
    return fitted


def at(when: str, epoch: int, batch_index: int, what: BaseException) -> Act:
    def act(now: str, trainer: pl.Trainer, index: int) -> None:
        if (now, trainer.current_epoch, index) == (when, epoch, batch_index):
            raise what

    return act


def assert_same_end(whole: Fitted, before: list[Any], resumed: Fitted) -> None:
    """The two halves saw what the whole saw, and ended where it ended."""
    assert before + resumed.recorder.trained == whole.recorder.trained
    weights = resumed.module.state_dict()
    for name, expected in whole.module.state_dict().items():
        assert torch.equal(weights[name], expected), name
    assert set(resumed.progress.validated) == set(whole.progress.validated) == set(range(EPOCHS))
    for epoch, expected in whole.progress.validated.items():
        assert resumed.progress.validated[epoch] == pytest.approx(expected, abs=1e-6)
    assert resumed.progress.positions == whole.progress.positions
    assert float(resumed.best.best_model_score) == pytest.approx(float(whole.best.best_model_score), abs=1e-6)
    assert float(resumed.early.best_score) == pytest.approx(float(whole.early.best_score), abs=1e-6)
    assert resumed.early.wait_count == whole.early.wait_count


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_checkpoint_from_the_middle_of_an_epoch_goes_on_with_the_next_batch(run, whole, tmp_path, epoch) -> None:
    def act(when: str, trainer: pl.Trainer, batch_index: int) -> None:
        if (when, trainer.current_epoch, batch_index) == ("step ends", epoch, 2):
            trainer.save_checkpoint(tmp_path / "middle.safetensors")

    first = run(tmp_path, act)
    resumed = run(tmp_path, resume="middle.safetensors")
    taken = epoch * len(whole.loader) + 3
    counted = [sum(i != PAD for row in rows for i in row) for _, rows in first.recorder.trained[:taken]]
    kept = read_checkpoint(tmp_path / "middle.safetensors")["callbacks"]["Progress"]["positions"]
    assert kept == sum(counted[:-1]), "Progress comes after the recorder and had not yet counted the last batch"
    assert first.recorder.trained[:taken] + resumed.recorder.trained == whole.recorder.trained
    for name, expected in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], expected), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "epoch", "batch_index"),
    [
        ("step begins", 0, 0),
        ("step begins", 1, 2),
        ("step begins", 1, 0),
        ("validation step begins", 1, 1),
        ("validation step ends", 1, 1),
    ],
)
def test_ctrl_c_at_any_time_can_be_resumed_as_if_nothing_had_been(
    run, whole, tmp_path, when, epoch, batch_index
) -> None:
    broken = run(tmp_path, at(when, epoch, batch_index, KeyboardInterrupt()), stops=SystemExit)
    read_checkpoint(tmp_path / LAST)
    assert_same_end(whole, broken.recorder.trained, run(tmp_path, resume=LAST))


@pytest.mark.parametrize(
    ("when", "epoch", "batch_index", "number"),
    [
        ("step ends", 0, 2, signal.SIGUSR1),
        ("validation step ends", 1, 1, signal.SIGTERM),
        ("epoch ends", 0, 0, signal.SIGTERM),
    ],
)
def test_a_signal_between_two_callbacks_leaves_neither_behind(
    run, whole, tmp_path, when, epoch, batch_index, number
) -> None:
    """The recorder's turn comes before Progress has counted the batch, or kept the epoch."""

    def act(now: str, trainer: pl.Trainer, index: int) -> None:
        if (now, trainer.current_epoch, index) == (when, epoch, batch_index):
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.default_int_handler)
    try:
        broken = run(tmp_path, act, stops=SystemExit)
        assert signal.getsignal(number) is signal.default_int_handler, "as it was"
    finally:
        signal.signal(number, before)
    assert len(broken.recorder.trained) < len(whole.recorder.trained)
    assert_same_end(whole, broken.recorder.trained, run(tmp_path, resume=LAST))


@pytest.mark.parametrize("gathered", [0, 2])
def test_ctrl_c_while_a_batch_is_gathered_loses_none(run, whole, tmp_path, monkeypatch, gathered) -> None:
    """In the second epoch, after `gathered` batches of it."""
    calls = 0

    def broken_off(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    def act(when: str, trainer: pl.Trainer, batch_index: int) -> None:
        end = ("step ends", 1, gathered - 1) if gathered else ("validation step ends", 0, validation_batches - 1)
        if (when, trainer.current_epoch, batch_index) == end:
            monkeypatch.setattr(loader, "gather", broken_off)

    validation_batches = len(query_loader(whole.loader.prepared, "validation", 8, 60))
    broken = run(tmp_path, act, stops=SystemExit)
    assert calls == 1
    monkeypatch.undo()
    assert_same_end(whole, broken.recorder.trained, run(tmp_path, resume=LAST))


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "batch_index"), [(0, 2), (1, 0), (1, 3)])
def test_a_kill_costs_only_what_came_after_the_last_checkpoint(run, whole, tmp_path, epoch, batch_index) -> None:
    """Saved after each step but an epoch's last; a kill leaves the files as they are. The folder may be moved then."""

    def kill(when: str, trainer: pl.Trainer, index: int) -> None:
        if (when, trainer.current_epoch, index) == ("step ends", epoch, batch_index):
            shutil.copytree(tmp_path / "checkpoints", tmp_path / "moved" / "checkpoints")

    broken = run(tmp_path, kill, every_minutes=0)
    assert broken.recorder.trained == whole.recorder.trained
    resumed = run(tmp_path / "moved", resume=LAST, every_minutes=0)
    before = whole.recorder.trained[: epoch * len(whole.loader) + batch_index]  # the act comes before the checkpoint
    assert before + resumed.recorder.trained == whole.recorder.trained
    for name, expected in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], expected), name
    read_checkpoint(previous_of(tmp_path / LAST))
    assert float(resumed.best.best_model_score) == float(whole.best.best_model_score)
    assert Path(resumed.best.best_model_path).parent == tmp_path / "moved" / "checkpoints"


def test_after_a_crash_the_last_whole_epoch_is_there(run, whole, tmp_path) -> None:
    """A power cut leaves last.ckpt as of the epoch's end, with the state that callbacks had then."""
    broken = run(tmp_path, at("step ends", 2, 1, RuntimeError("power cut")), stops=RuntimeError)
    kept = broken.recorder.trained[: 2 * len(whole.loader)]
    assert_same_end(whole, kept, run(tmp_path, resume=LAST))


def test_a_failing_step_leaves_the_checkpoint_before(run, tmp_path) -> None:
    run(tmp_path, at("step ends", 0, 1, RuntimeError("broken")), stops=RuntimeError)
    assert not (tmp_path / LAST).exists()


def test_an_evaluation_outside_training_saves_nothing(prepared, make_module, make_trainer, tmp_path) -> None:
    module = make_module(training_loader(prepared, 8, 50, seed=1), "gru", 1)
    progress = Progress()
    trainer = make_trainer(1, LastCheckpoint(tmp_path / LAST, 10), progress)
    trainer.validate(module, query_loader(prepared, "validation", 8, 60), verbose=False)
    trainer.test(module, query_loader(prepared, "validation", 8, 60), verbose=False)
    assert not (tmp_path / LAST).exists()
    assert progress.validated == {}
    assert progress.positions == 0


def test_progress_counts_targets_and_keeps_each_epochs_metrics(whole, prepared) -> None:
    targets = sum(max(0, e - b - 1) for b, e in zip(prepared.offsets[:-1], prepared.train_end, strict=True))
    assert whole.progress.positions == EPOCHS * targets
    names = {f"{m}_at_{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 20)}
    names |= {"effective_rank", "user_cosine", "list_overlap", "top_1_percent_share", "most_popular_share"}
    if whole.loader.ahead is not None:
        names |= {f"horizon/{m}_at_{k}" for m in ("recall", "ndcg") for k in (1, 20)}
    assert set(whole.progress.validated[0]) == {f"val/{name}" for name in names}
    summary = whole.progress.summary()
    assert summary["train/positions_per_second"] == pytest.approx(whole.progress.positions / whole.progress.seconds)
    assert 0 < summary["train/seconds"] < 60


def test_an_estimate_is_logged_once_from_steps_that_are_warm(monkeypatch, caplog) -> None:
    """The first ten steps take 5 s each, the others 0.5 s; 4 epochs of 300 of those are 600 s."""
    now = 0.0
    monkeypatch.setattr("twotower.training.callbacks.progress.time.perf_counter", lambda: now)
    progress, batch = Progress(), SimpleNamespace(target=torch.ones(2, 3))
    trainer: Any = SimpleNamespace(num_training_batches=300, max_epochs=4, world_size=1)
    with caplog.at_level("INFO", "twotower.training.callbacks.progress"):
        progress.on_train_start(trainer, None)
        for step in range(200):
            now += 5.0 if step < 10 else 0.5
            progress.on_train_batch_end(trainer, None, None, batch, step)
            assert len(caplog.messages) == (step >= 49)
    assert "about 10.0 min" in caplog.messages[0] and "4 epochs" in caplog.messages[0]


def test_the_learning_rate_goes_on_where_it_was(run, whole, tmp_path) -> None:
    run(tmp_path, at("step begins", 1, 2, KeyboardInterrupt()), stops=SystemExit)
    schedule = read_checkpoint(tmp_path / LAST)["lr_schedulers"][0]
    assert schedule["last_epoch"] == len(whole.loader) + 2
