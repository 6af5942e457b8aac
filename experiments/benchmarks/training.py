"""Speed of training, and quality after given seconds of it, of any configuration of `twotower train`.

    python experiments/benchmarks/training.py --marks 60,180,600 experiment=diginetica data.path=EVENTS
    python experiments/benchmarks/training.py --profile 20 experiment=diginetica data.path=EVENTS

All is as in `twotower train` on training and validation data, but that training goes on until the last mark, over which
the learning rate's schedule is spread. Evaluations at marks rank every test target among the whole catalogue; the clock
stands still meanwhile. Then the loader delivers an epoch alone. Beside the speed stands its floor: the matrix products
of a position at the speed that one of this shape reaches here. Prints tables and, as its last line, one line of JSON.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from harness import GIB, ROOT, command_line, peak_bytes, print_table, report, use_cores
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import WeightAveraging
from speed import Speed

from twotower.core.batch import SessionBatch
from twotower.core.schema import PAD
from twotower.data.loader import SessionLoader, query_loader
from twotower.training.fit import fit

ENDLESS = 1_000_000  # epochs


class Clock(Speed):
    """Evaluates after given seconds of training, and ends the training after the last of them.

    Args:
        marks: seconds of training.
        test: queries to evaluate; None: none.
        profile_steps: profile so many steps and end the training then; 0: don't.
    """

    def __init__(self, marks: Sequence[float], test: SessionLoader | None, profile_steps: int) -> None:
        super().__init__(float("inf"), profile_steps=profile_steps)
        self.marks, self.last, self.test = sorted(marks), max(marks), test
        self.curve: list[dict[str, float]] = []
        self.targets_per_second = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock; keep what is trained."""
        super().on_train_start(trainer, pl_module)
        self.module, self.loader = pl_module, trainer.train_dataloader
        self.cpu = _cpu_seconds()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count, move the learning rate's schedule to this second, evaluate where a mark has been reached."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        passed = time.perf_counter() - self.began - self.paused
        step = int(pl_module.total_steps * min(1.0, passed / self.last))
        trainer.lr_scheduler_configs[0].scheduler.last_epoch = step - 1  # it is stepped after each batch
        while self.marks and passed >= self.marks[0]:
            self.curve.append({"mark": self.marks.pop(0), **self._evaluate(trainer, pl_module)})
        trainer.should_stop = trainer.should_stop or not self.marks

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the speed, and how many cores other processes have used: figures with more than 0.1 are void."""
        self.speed = self.positions_per_second()
        wall = time.perf_counter() - self.began
        machine, process = (end - start for end, start in zip(_cpu_seconds(), self.cpu, strict=True))
        self.others = (machine - process) / wall

    @torch.no_grad()
    def _evaluate(self, trainer: Any, module: Any) -> dict[str, float]:
        """Metrics by the module's own evaluation, of averaged weights where there are any."""
        point = {"train_s": self.elapsed(), "steps": self.steps, "positions": int(self.positions)}
        if self.test is None:
            return point
        begin = time.perf_counter()
        averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]
        for callback in averages:
            callback.on_validation_epoch_start(trainer, module)
        module.eval()
        module.on_validation_epoch_start()
        for index, batch in enumerate(self.test):
            module.validation_step(SessionBatch(*(column.to(module.device) for column in batch)), index)
        metrics = module.metrics.compute()
        module.metrics.reset()
        module.train()
        for callback in averages:
            callback.on_validation_epoch_end(trainer, module)
        seconds = time.perf_counter() - begin
        self.targets_per_second = self.test.num_queries / seconds
        self.paused += seconds
        return {**point, **{f"{kind}@20": metrics[f"{kind}_at_20"] for kind in ("recall", "mrr", "ndcg")}}


def _cpu_seconds() -> tuple[float, float]:
    """Processor seconds of the whole machine and of this process."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system, time.process_time()


def configuration(overrides: Sequence[str], folder: str) -> DictConfig:
    """What `twotower train` would run with; prepared data is kept below `folder`, unless an override says where."""
    fixed = ["name=benchmark", f"run_dir={folder}", f"prepared_root={folder}", "logger=none"]
    endless = [f"trainer.max_epochs={ENDLESS}", f"checkpoint_minutes={ENDLESS}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return compose("train", [*fixed, *endless, *overrides])


def loader_alone(loader: SessionLoader) -> dict[str, float]:
    """Positions/s of an epoch that nothing consumes, and the share of its cells that is padding."""
    loader.set_epoch(ENDLESS)
    begin = time.perf_counter()
    for _ in loader:
        pass
    seconds = time.perf_counter() - begin
    padding = [(int((batch.item_index == PAD).sum()), batch.item_index.numel()) for batch in loader]
    return {
        "loader alone, positions/s": loader.num_queries / seconds,
        "padding": sum(pad for pad, _ in padding) / sum(cells for _, cells in padding),
    }


def floor(config: DictConfig, module: Any, loader: SessionLoader) -> dict[str, float]:
    """What a training position costs in floating-point operations, and how many of them this machine does.

    Matrix products alone, forward and twice that backward: 3 * (2 W + 4 l D a + 2 N D) with W weights in the user
    tower's matrices, D dim, N negatives, a attention layers, l events that a position attends to.
    """
    batches = [batch for _, batch in zip(range(20), loader, strict=False)]
    targets = [batch.target[batch.target_weight != 0].to(module.device) for batch in batches]
    negatives = sum(len(module.negatives(target).ids) for target in targets) / len(targets)
    cells = [batch.item_index.numel() * batch.item_index.shape[1] for batch in batches]
    attended = sum(cells) / sum(batch.item_index.numel() for batch in batches)
    linear = [m for m in module.model.user_tower.modules() if isinstance(m, torch.nn.Linear | torch.nn.RNNBase)]
    weights = sum(p.numel() for m in linear for p in m.parameters(recurse=False) if p.ndim == 2)
    dim, tower = config.model.dim, config.model.user_tower
    attention = tower.layers if "heads" in tower else 0
    operations = 3 * (2 * weights + attention * 4 * attended * dim + 2 * negatives * dim)
    rows = sum(map(len, targets)) // len(targets)
    per_s = matmul_per_s(min(rows, 8192), dim, min(round(negatives), 8192), module.device)
    return {
        "negatives": round(negatives),
        "MFLOP a position": operations / 1e6,
        "GFLOP/s": per_s / 1e9,
        "floor, positions/s": per_s / operations,
    }


def matmul_per_s(rows: int, inner: int, columns: int, device: torch.device) -> float:
    """Single-precision operations a second of a product [rows, inner] x [inner, columns], over half a second."""
    left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
    result = left @ right
    times, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.5:
        for _ in range(10):
            torch.mm(left, right, out=result)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times += 10
    return times * 2 * rows * inner * columns / (time.perf_counter() - began)


def main() -> None:
    """Prepare, train until the last mark, print."""
    parser = command_line(__doc__)
    parser.add_argument("--marks", default="60", help="seconds of training at which to evaluate; the last one ends it")
    parser.add_argument("--threads", type=int, default=2, help="and cores")
    parser.add_argument("--no-evaluation", action="store_true", help="speed alone")
    parser.add_argument("--profile", type=int, default=0, help="show where the time of so many steps goes, and stop")
    parser.add_argument("overrides", nargs="*", help="settings, as for twotower train")
    options = parser.parse_args()
    use_cores(options.threads)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        config = configuration(options.overrides, folder)
        began = time.perf_counter()
        prepared = instantiate(config.data)
        prepared_s, before = time.perf_counter() - began, peak_bytes() / GIB
        test = None
        if not (options.no_evaluation or options.profile):
            model, evaluation = config.model, config.evaluation
            settings = model.max_length, evaluation.positions_per_batch, evaluation.min_history
            test = query_loader(prepared, "test", *settings, model.inputs, config.target_weights)
        clock = Clock([float(mark) for mark in options.marks.split(",")], test, options.profile)
        fit(config, prepared, None, Path(folder) / "last.safetensors", refit_epochs=ENDLESS, callbacks=[clock])
        if clock.profiler:
            print_table(clock.slowest_operators(22), "operators")
        print_table(clock.curve, "after seconds of training")
        events = int((prepared.fit_end(True) - prepared.offsets[:-1]).sum())
        row = {
            "items": prepared.num_items,
            "prepared s": prepared_s,
            "positions/s": clock.speed,
            "events/s": clock.speed * events / clock.loader.num_queries,  # with each session's first, no target
            "targets/s": clock.targets_per_second,
            "cores of others": clock.others,
            "peak RSS GiB": peak_bytes() / GIB,
            "of it before training": before,
            **loader_alone(clock.loader),
            **floor(config, clock.module, clock.loader),
        }
        if torch.cuda.is_available():
            row |= {"GPU": torch.cuda.get_device_name(), "peak GiB of it": torch.cuda.max_memory_allocated() / GIB}
    report([{"figure": name, "value": value} for name, value in row.items()], curve=clock.curve, **row)


if __name__ == "__main__":
    main()
