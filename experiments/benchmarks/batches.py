"""How fast batches are made, beside how fast a training step of the same run consumes them.

    python experiments/benchmarks/batches.py --data events.parquet                   # experiment=diginetica
    python experiments/benchmarks/batches.py --data PREPARED --experiment none       # any prepared directory
    python experiments/benchmarks/batches.py --data events.parquet --inputs gap,hour model.dim=64

Both are measured in one process on two CPU cores: steps of train.py's own fit(), then whole epochs, shuffling
included, of the loader that it trained on. Prints a table and, as its last line, all figures as JSON.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from twotower.core.schema import MANIFEST_FILE, PAD  # noqa: E402
from twotower.data.loader import SessionLoader, training_loader  # noqa: E402
from twotower.training.fit import fit  # noqa: E402

GOAL_RATIO, GOAL_PADDING = 20, 0.05


def main() -> None:
    """Train for some steps, iterate over the loader, print both."""
    options = arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    torch.set_num_threads(options.cores)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        config = configuration(options, folder)
        prepared = instantiate(config.data)
        progress = fit(config, prepared, None, Path(folder) / "last.safetensors", refit_epochs=1)
        consumed = progress.summary()["train/positions_per_second"]
        settings = config.model.max_length, config.positions_per_batch, config.seed
        loader = training_loader(prepared, *settings, include_validation=True, inputs=config.model.inputs)
        figures = deliver(loader, options.epochs)
    figures |= {"consumed_positions_per_s": consumed, "ratio": figures["delivered_positions_per_s"] / consumed}
    figures |= {"inputs": options.inputs.split(",") if options.inputs else [], "cores": options.cores}
    rows = [
        ("loader alone (positions/s)", f"{figures['delivered_positions_per_s']:,.0f}", ""),
        (f"training, {options.batches} steps (positions/s)", f"{consumed:,.0f}", ""),
        ("loader / training", f"{figures['ratio']:.1f}", verdict(figures["ratio"] >= GOAL_RATIO, f"{GOAL_RATIO}")),
        ("padding (share of cells)", f"{figures['padding']:.2%}", verdict(figures["padding"] < GOAL_PADDING, "5 %")),
        ("batches an epoch", f"{figures['batches']:,}", ""),
        ("positions an epoch", f"{figures['positions']:,}", ""),
    ]
    for name, value, note in rows:
        print(f"{name:<40}{value:>14}  {note}".rstrip())
    print(json.dumps(figures))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="events, or a prepared directory")
    parser.add_argument("--experiment", default="diginetica", help="or none (default: %(default)s)")
    parser.add_argument("--inputs", default="", help="event inputs to deliver and to learn from: gap,hour")
    parser.add_argument("--batches", type=int, default=200, help="training steps (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of the loader; the median counts (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="default: %(default)s")
    parser.add_argument("overrides", nargs="*", help="further settings, as for train.py")
    return parser.parse_args()


def configuration(options: argparse.Namespace, folder: str) -> DictConfig:
    """What train.py would run with, but for a limit of steps and no logger."""
    overrides = [
        *([f"experiment={options.experiment}"] if options.experiment != "none" else []),
        f"data={'prepared' if (options.data / MANIFEST_FILE).is_file() else 'events'}",
        f"data.path={options.data.resolve()}",
        f"run_dir={folder}",
        f"prepared_root={folder}",
        f"model.inputs=[{options.inputs}]",
        "logger=none",
        "trainer.accelerator=cpu",
        f"+trainer.limit_train_batches={options.batches}",
        *options.overrides,
    ]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base=None):
        return compose("train", overrides)


def deliver(loader: SessionLoader, epochs: int) -> dict[str, Any]:
    """Positions a second over whole epochs, the share of padding, and what an epoch holds.

    What is counted is counted in an epoch of its own: it is the same in each.
    """
    positions = cells = events = 0
    seconds = []
    for epoch in range(1, epochs + 2):
        loader.set_epoch(epoch)
        began = time.perf_counter()
        if epoch == 1:
            for batch in loader:
                positions += int((batch.target != PAD).sum())
                events += int((batch.item_index != PAD).sum())
                cells += batch.item_index.numel()
        else:
            for _ in loader:
                pass
            seconds.append(time.perf_counter() - began)
    return {
        "delivered_positions_per_s": positions / statistics.median(seconds),
        "epoch_s": seconds,
        "padding": 1 - events / cells,
        "positions": positions,
        "batches": len(loader),
    }


def verdict(reached: bool, goal: str) -> str:
    """A goal, and whether it was reached."""
    return f"goal {goal}: {'reached' if reached else 'MISSED'}"


if __name__ == "__main__":
    main()
