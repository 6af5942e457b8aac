"""Train one run on the machines of a Ray cluster, or on the processors of this one:

    twotower on-ray --workers 4 --gpu -- experiment=myshop data.path=... resume=auto

Each worker is a process of the run, as torchrun would start it. What follows `--` is what `twotower train` takes. The
folder in which this is typed has to be the same on all machines: runs, prepared data and MLflow's database go there.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train_on_worker(job: dict[str, Any]) -> None:
    """Run `twotower train` in one worker; raises RuntimeError where it ends with an error."""
    from twotower.commands.main import main

    os.chdir(job["folder"])
    sys.argv = ["twotower"]
    try:
        status: Any = main(["train", "trainer=ray", *job["overrides"]])
    except SystemExit as left:
        status = left.code
    if status:
        raise RuntimeError(f"twotower train ended with status {status}; its message is above")


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="twotower on-ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each")
    parser.add_argument("overrides", nargs="*", help="settings of twotower train, after --")
    options = parser.parse_args(arguments)

    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from twotower.training.processes import TIMEOUT

    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"folder": os.getcwd(), "overrides": options.overrides},
        torch_config=TorchConfig(
            "cpu:gloo,cuda:nccl" if options.gpu else "gloo", timeout_s=int(TIMEOUT.total_seconds())
        ),
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(storage_path=str(Path(".ray").resolve())),
    )
    result = trainer.fit()
    return int(result.error is not None)
