"""What happens around training: the last checkpoint, the average of the weights, and how fast it went."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from twotower.core.batch import SessionBatch
from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.metrics.collapse import collapse_metrics, collapse_warnings
from twotower.metrics.ranking_results import LIST_LENGTH
from twotower.metrics.ranks import chunks
from twotower.model.sharded_embedding import sharded_in
from twotower.runs.checkpoint import previous_of

log = logging.getLogger(__name__)
WARM_UP, SAMPLE = 10, 40  # steps
SEEN = 1024  # queries
ASKED = 20  # steps between two times that several processes ask each other
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # of Lightning's ModelCheckpoint
SHOWN = ("val/recall_at_20", "val/ndcg_at_20")


class LastCheckpoint(Checkpoint):
    """Keeps the newest state: every few minutes, after each epoch, and when training is interrupted.

    The one before it is kept, too, as `previous`: should the newest be damaged, that is gone on from. Being a
    Checkpoint it comes after the other callbacks, so that it keeps what they have learnt of the epoch. What is drawn at
    random after a checkpoint is drawn again the same.

    Args:
        path: of the file.
        every_minutes: the longest time that is lost to a kill, about.
    """

    def __init__(self, path: Path, every_minutes: float) -> None:
        self.path = path
        self.every_minutes = every_minutes
        self._saved = time.monotonic()
        self._random: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on drawing where the checkpoint stopped."""
        if self._random:
            torch.set_rng_state(self._random["cpu"])
            for device, state in enumerate(self._random["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time."""
        if trainer.world_size > 1 and batch_idx % ASKED:  # all have to agree, which takes a message
            return
        late = time.monotonic() - self._saved > 60 * self.every_minutes
        if trainer.strategy.reduce_boolean_decision(late, all=False) and not trainer.is_last_batch:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """The newest becomes the previous one, which never is missing."""
        if self.path.exists() and trainer.is_global_zero:
            self.path.replace(previous_of(self.path))
        trainer.save_checkpoint(self.path)
        self._saved = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where the random numbers stand."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["random"] = {"cpu": torch.get_rng_state(), "cuda": cuda}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember it until training starts."""
        self._random = checkpoint["random"]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the loader: Lightning restores its state in the middle of an epoch only."""
        loader: Any = trainer.train_dataloader
        loader.set_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, once all others have seen the epoch's validation."""
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save after Ctrl-C; the batch or the validation that was under way will come again, whole."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.train_dataloader:
            loop: Any = trainer.fit_loop.epoch_loop
            trainer.train_dataloader.next_batch = loop.batch_progress.current.processed
            if trainer.validating:  # else Lightning would go on in its middle, without the sums so far
                progress = loop.val_loop.batch_progress
                progress.reset()
                progress.increment_ready()
                progress.increment_started()
            self.save(trainer)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, under the name of what is in it, and at home wherever its folder is."""

    FILE_EXTENSION = ".safetensors"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best so far, where it is now: else Lightning forgets it when the folder has another name."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in PATHS}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": best})


class WeightAverage(Callback):
    """Exponential moving average of the weights (Polyak & Juditsky 1992): what is validated, kept and exported.

    Training itself goes on with its own weights, which a checkpoint has beside the average. After n updates the decay
    is at most (1 + n) / (10 + n), so that the beginning is soon forgotten. Takes 4 bytes a weight, and each update is
    a pass over all weights: with optimizer=lazy_adamw rather every 10 or 100 steps.

    Args:
        decay: of the average, a step.
        every_n_steps: steps between updates.
    """

    def __init__(self, decay: float, every_n_steps: int) -> None:
        if not 0 < decay < 1 or every_n_steps < 1:
            raise UserError(
                f"callbacks.weight_average: decay={decay}, every_n_steps={every_n_steps}; "
                "expected a decay between 0 and 1, and 1 step or more"
            )
        self.decay = decay
        self.every_n_steps = every_n_steps
        self._average: list[Tensor] = []  # of the module's parameters, in their order; empty where nothing trains
        self._swapped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, or go on with the checkpoint's average."""
        if sharded_in(pl_module):
            raise UserError("callbacks=ema averages whole tables; leave model.item_tower.sharded out, or the average")
        parameters = list(pl_module.parameters())
        known = self._average or parameters
        self._average = [a.detach().to(p.device, copy=True) for a, p in zip(known, parameters, strict=True)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average."""
        updates, rest = divmod(trainer.global_step, self.every_n_steps)
        if rest == 0:
            decay = min(self.decay**self.every_n_steps, (1 + updates) / (10 + updates))
            weights = [p.detach() for p in pl_module.parameters()]
            torch._foreach_lerp_(self._average, weights, 1 - decay)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self._average:
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the weights of training back."""
        if self._swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Bring them back in the middle of a validation, too: the last checkpoint is about to be written."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average as the module's weights."""
        self._swap(pl_module)
        self._average, self._swapped = [], False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The average as the checkpoint's weights, and those of training beside it."""
        if self._average:
            names = [name for name, _ in pl_module.named_parameters()]
            weights = checkpoint["state_dict"]
            checkpoint["training_weights"] = {name: weights[name] for name in names}
            checkpoint["state_dict"] = {**weights, **dict(zip(names, self._average, strict=True))}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both back, when training goes on."""
        self._average = [p.detach().clone() for p in pl_module.parameters()]  # Lightning has loaded it by now
        with torch.no_grad():
            for name, parameter in pl_module.named_parameters():
                parameter.copy_(checkpoint["training_weights"][name])

    def _swap(self, pl_module: LightningModule) -> None:
        for average, parameter in zip(self._average, pl_module.parameters(), strict=True):
            average.data, parameter.data = parameter.data, average.data
        self._swapped = not self._swapped


class Health(Callback):
    """Looks at each validation for signs of collapse, logs them as `val/effective_rank` and so on, and warns.

    It sees the first SEEN queries, and lists LIST_LENGTH items for each.

    Args:
        stop: whether a sick run ends there.
    """

    def __init__(self, stop: bool) -> None:
        self.stop = stop
        self._counts = torch.empty(0)
        self._user: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask how often each item is a target."""
        loader: Any = trainer.train_dataloader
        self._counts = torch.from_numpy(loader.target_counts())

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: SessionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the queries of the first batches."""
        if len(self._counts) and sum(map(len, self._user)) < SEEN:
            module: Any = pl_module
            self._user.append(module.encode_queries(batch)[1].float())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge."""
        if not self._user:
            return
        module: Any = pl_module
        user, items = torch.cat(self._user)[:SEEN], module.candidates[0].float()
        self._user = []
        found = ["the weights are no numbers any more: a smaller optimizer.learning_rate may help"]
        if items.isfinite().all() and user.isfinite().all():
            listed = min(LIST_LENGTH, len(items))
            lists = [(user[part] @ items.T).topk(listed).indices + 1 for part in chunks(len(user), len(items))]
            signs = collapse_metrics(items, user, torch.cat(lists), self._counts.to(items.device))
            pl_module.log_dict({f"val/{name}": value for name, value in signs.items()}, sync_dist=True)
            found = collapse_warnings(signs, items.shape[1])
        for warning in found:
            log.warning("epoch %d  %s", trainer.current_epoch, warning)
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(found), all=False):
            trainer.should_stop = True


class Progress(Callback):
    """Keeps each epoch's validation metrics, and counts target positions and seconds of training alone.

    Logs once what training will take, from SAMPLE steps after the WARM_UP first ones, which are slower.
    """

    def __init__(self) -> None:
        self.validated: dict[int, dict[str, float]] = {}
        self.positions = 0
        self.seconds = 0.0
        self._mark = 0.0
        self._steps = 0  # since training began or went on
        self._warm = 0.0  # seconds when the sample began

    def summary(self) -> dict[str, float]:
        """Seconds of training, and target positions a second."""
        return {"train/seconds": self.seconds, "train/positions_per_second": self.positions / max(self.seconds, 1e-9)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    on_train_epoch_start = on_train_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SessionBatch, batch_idx: int
    ) -> None:
        """Add the batch, and the time since the one before."""
        self.positions += int((batch.target != PAD).sum()) * trainer.world_size
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now
        self._steps += 1
        if self._steps == WARM_UP:
            self._warm = self.seconds
        elif self._steps == WARM_UP + SAMPLE:
            steps = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
            minutes = (self.seconds - self._warm) / SAMPLE * steps / 60
            log.info("about %.1f min of training for all %d epochs, validation aside", minutes, trainer.max_epochs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out of the time."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the validation's metrics, and say where training stands."""
        values = {key: float(v) for key, v in trainer.callback_metrics.items() if key.startswith("val/")}
        self.validated[trainer.current_epoch] = values
        shown = [f"{name} {values[name]:.4f}" for name in SHOWN if name in values]
        speed = f"{self.summary()['train/positions_per_second']:,.0f} positions/s"
        log.info("epoch %d  %s", trainer.current_epoch, "  ".join([*shown, speed]))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on counting from."""
        return {"validated": self.validated, "positions": self.positions, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validated = dict(state_dict["validated"])
        self.positions, self.seconds = state_dict["positions"], state_dict["seconds"]
