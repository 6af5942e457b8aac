"""One timed training of ours, by the clock, in a process of its own: what training.py runs. Prints one line of JSON.

    python experiments/benchmarks/timed_training.py --marks 60,180 experiment=diginetica data.path=EVENTS
    python experiments/benchmarks/timed_training.py --profile 20 experiment=diginetica data.path=EVENTS

From raw events on, all is train.py's: preparation, loader, towers, optimiser. Two things differ: training goes on until
the last mark, over training + validation data, and the learning rate's schedule is spread over that time, not over
epochs. Evaluations at marks rank every test query's target among the whole catalogue; the clock stands still meanwhile.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from machine import peak_bytes
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from twotower import fitting  # noqa: E402
from twotower.core.batch import SessionBatch  # noqa: E402
from twotower.data.loader import SessionLoader, training_loader  # noqa: E402

TICKS = 10_000  # steps of the learning rate's schedule, whatever its seconds
WARM_UP = 5  # training steps that the speed leaves out, as the peers' drivers do
GIB = 2**30


def main() -> None:
    """Prepare, train until the last mark, print."""
    options = arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        config = configuration(options.overrides, folder)
        seed_everything(config.seed, verbose=False)
        began = time.perf_counter()
        prepared = instantiate(config.data)
        prepared_s = time.perf_counter() - began
        settings = config.model.max_length, config.positions_per_batch, config.seed
        inputs, weights = list(config.model.inputs), config.target_weights
        loader = training_loader(prepared, *settings, include_validation=True, inputs=inputs, target_weights=weights)
        test = None if options.no_evaluation or options.profile else fitting.queries(config, prepared, "test", inputs)
        module = fitting.build_module(config, prepared, loader, fitting.fresh_model(config, prepared, loader))
        module.total_steps = TICKS
        ready_s = time.perf_counter() - began
        prepared_gib = peak_bytes() / GIB

        clock = Clock([float(mark) for mark in options.marks.split(",")], test, options.profile)
        averages = [instantiate(c) for name, c in config.callbacks.items() if name == "weight_average"]
        trainer = instantiate(
            config.trainer,
            max_epochs=1_000_000,
            min_epochs=0,
            callbacks=[*averages, clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=folder,
        )
        trainer.fit(module, loader)
        figures = clock.figures() | {
            "peak_rss_gb": round(peak_bytes() / GIB, 2),
            "peak_rss_prepared_gb": round(prepared_gib, 2),
        }
        if clock.profiler:
            print(clock.profiler.key_averages().table("self_cpu_time_total", row_limit=22, max_name_column_width=50))
        events = int((prepared.fit_end(True) - prepared.offsets[:-1]).sum())
        figures |= {
            "prep": {"prepared_s": round(prepared_s, 2), "ready_s": round(ready_s, 2)},
            "num_items": prepared.num_items,
            "events": events,
            "events_per_s": round(figures["positions_per_s"] * events / loader.num_queries),
            "positions_per_batch": config.positions_per_batch,
            "device": device_name(module),
            "floor": floor(config, module, loader),
        }
    print(json.dumps(figures))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--marks", default="60", help="training seconds at which to evaluate; the last one ends the run"
    )
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--no-evaluation", action="store_true", help="speed alone")
    parser.add_argument("--profile", type=int, default=0, help="show where the time of this many steps goes, and stop")
    parser.add_argument("overrides", nargs="*", help="settings, as for train.py")
    return parser.parse_args()


def configuration(overrides: Sequence[str], folder: str) -> DictConfig:
    """What train.py would run with; prepared data is kept below `folder`, unless an override says where."""
    fixed = ["name=benchmark", f"run_dir={folder}", f"prepared_root={folder}", "logger=none"]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        return compose("train", [*fixed, *overrides])


class Clock(Callback):
    """Counts targets and seconds of training alone, evaluates at marks, and ends the training at the last one.

    Args:
        marks: seconds of training.
        test: what to evaluate on; None: nothing.
        profile: how many steps to profile, after which training ends; 0: none.
    """

    def __init__(self, marks: Sequence[float], test: SessionLoader | None, profile: int) -> None:
        self.marks, self.last, self.test, self.profile = sorted(marks), max(marks), test, profile
        self.profiler: torch.profiler.profile | None = None
        self.steps = 0
        self.positions: Any = 0
        self.paused = 0.0
        self.warm = (0.0, 0)
        self.curve: list[dict[str, float]] = []
        self.evaluated_per_s = 0

    def elapsed(self) -> float:
        """Seconds of training so far; on a GPU, all that was asked of it is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - self.began - self.paused

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.began, self.cpu, self.machine = time.perf_counter(), time.process_time(), machine_cpu()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SessionBatch, batch_idx: int
    ) -> None:
        """Count; where a mark has been reached, evaluate."""
        self.steps += 1
        self.positions = self.positions + (batch.target_weight != 0).sum()
        if self.steps == WARM_UP:
            self.warm = (self.elapsed(), int(self.positions))
        passed = time.perf_counter() - self.began - self.paused
        # The scheduler is stepped after each batch: it comes to the tick after this one.
        trainer.lr_scheduler_configs[0].scheduler.last_epoch = min(TICKS, int(TICKS * passed / self.last)) - 1
        if self.profile:
            self.profile_steps(trainer)
        while self.marks and passed >= self.marks[0]:
            self.marks.pop(0)
            self.mark(trainer, pl_module)
        if not self.marks:
            trainer.should_stop = True

    def mark(self, trainer: Trainer, module: Any) -> None:
        """Keep where training stands."""
        seconds, paused = self.elapsed(), time.perf_counter()
        point = {"train_s": round(seconds, 1), "steps": self.steps, "positions": int(self.positions)}
        if self.test is not None:
            metrics = evaluate(trainer, module, self.test)
            self.evaluated_per_s = round(self.test.num_queries / (time.perf_counter() - paused))
            point |= {f"{kind}@20": round(metrics[f"{kind}_at_20"], 4) for kind in ("recall", "mrr", "ndcg")}
        self.curve.append(point)
        print("EVAL", json.dumps(point), file=sys.stderr, flush=True)
        self.paused += time.perf_counter() - paused

    def profile_steps(self, trainer: Trainer) -> None:
        """Profile once the first steps are done."""
        if self.steps == 2 * WARM_UP:
            self.profiler = torch.profiler.profile()
            self.profiler.start()
        if self.profiler and self.steps == 2 * WARM_UP + self.profile:
            self.profiler.stop()
            trainer.should_stop = True

    def figures(self) -> dict[str, Any]:
        """Under the names that the peers' drivers use."""
        seconds, wall = self.elapsed(), time.perf_counter() - self.began
        others = (machine_cpu() - self.machine - (time.process_time() - self.cpu)) / wall
        return {
            "train_s": round(seconds, 1),
            "steps": self.steps,
            "positions_per_s": round((int(self.positions) - self.warm[1]) / (seconds - self.warm[0]), 1),
            "others_cores": round(others, 2),
            "curve": self.curve,
            "evaluation": {"both_per_s": self.evaluated_per_s},
        }


@torch.no_grad()
def evaluate(trainer: Trainer, module: Any, test: SessionLoader) -> dict[str, float]:
    """Metrics over all test queries by the module's own evaluation, of averaged weights where there are any."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        callback.on_validation_epoch_start(trainer, module)
    module.eval()
    module.on_validation_epoch_start()
    for index, batch in enumerate(test):
        module.validation_step(SessionBatch(*(column.to(module.device) for column in batch)), index)
    metrics: dict[str, float] = module.metrics.compute()
    module.metrics.reset()
    module.train()
    for callback in callbacks:
        callback.on_validation_epoch_end(trainer, module)
    return metrics


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
        "attended": round(attended, 1),
        "operations_per_position": round(operations),
        "gflop_per_s": round(per_s / 1e9, 1),
        "positions_per_s": round(per_s / operations),
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


def device_name(module: Any) -> str:
    """What it ran on, as Lightning chose."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, peak {torch.cuda.max_memory_allocated() / GIB:.2f} GiB of it"
    return f"{torch.get_num_threads()} CPU threads"


def machine_cpu() -> float:
    """Processor seconds of every process since the machine started, as the peers' drivers count; 0 without /proc."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
