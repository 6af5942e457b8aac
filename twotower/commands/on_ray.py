"""Train one run on the machines of a Ray cluster, or on the processors of this one:

    python -m twotower.commands.on_ray --workers 4 --gpu -- experiment=myshop data.path=... resume=auto

Each worker is a process of the run, as torchrun would start it. What follows `--` is what train.py takes. The folder in
which this is typed has to be the same on all machines: runs, prepared data and MLflow's database go there.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.training.processes import PATIENCE

SCRIPT = Path(__file__).parents[2] / "train.py"


def work(job: dict[str, Any]) -> None:
    """What each worker does: type train.py."""
    os.chdir(job["folder"])
    sys.argv = [str(SCRIPT), "trainer=ray", *job["overrides"]]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as left:
        if left.code:
            raise RuntimeError(f"train.py ended with status {left.code}; its message is above") from None


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m twotower.commands.on_ray",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each")
    parser.add_argument("overrides", nargs="*", help="settings of train.py, after --")
    options = parser.parse_args(arguments)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config={"folder": os.getcwd(), "overrides": options.overrides},
        torch_config=TorchConfig(
            "cpu:gloo,cuda:nccl" if options.gpu else "gloo", timeout_s=int(PATIENCE.total_seconds())
        ),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(storage_path=str(Path(".ray").resolve())),
    )
    result = trainer.fit()
    return int(result.error is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
