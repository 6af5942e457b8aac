"""Is anything lost when a run is killed, at any moment, again and again?

    python experiments/benchmarks/fault_drill.py --kills 50

Trains the embedded marketplace once undisturbed. Then it types the same command with `resume=auto`, sends SIGKILL after
a random time, and types it again, until one of them comes to its end; and all of that again, until there were so many
kills. After each end it compares with the undisturbed run, to the bit: weights, metrics, answers. It counts the runs'
folders, the MLflow runs, the values that MLflow lost or has twice, and files that are half-written or left over. Prints
a table and, as its last line, one line of JSON; ends with status 1 where anything was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from twotower.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ["data.items=300", "data.users=300", "data.sessions=4000", "data.days=20", "model.dim=32"]
SMALL += ["trainer.max_epochs=4", "evaluation.baselines=false", "evaluation.replicates=100"]
TIMES = ("second", "seconds", "created")  # what differs between any two runs


class Drill:
    """A folder in which a user types one command.

    Args:
        folder: where.
        overrides: of the command.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides
        folder.mkdir()

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        """Type it."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "train.py"), *SMALL, *self.overrides, *more]
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=output)

    @property
    def runs(self) -> list[Path]:
        """Folders of runs."""
        return sorted(path.parent for path in self.folder.glob("runs/*/*/config.yaml"))

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, float], bytes]:
        """Weights, metrics that are no times, and answers of the first run."""
        run = self.runs[0]
        weights = read_checkpoint(run / "checkpoints" / "refit.safetensors")["state_dict"]
        metrics = json.loads((run / "metrics.json").read_text())
        same = {name: value for name, value in metrics.items() if not any(word in name for word in TIMES)}
        return weights, same, (run / "answers.npz").read_bytes()

    def faults(self, undisturbed: "Drill") -> dict[str, int]:
        """What was lost or doubled, by name; all 0 is right."""
        weights, metrics, answers = self.result()
        expected = undisturbed.result()
        own, points = _mlflow(self.folder)
        _, expected_points = _mlflow(undisturbed.folder)
        left = [p for p in self.folder.glob("runs/*/*/**/*") if ".safetensors." in p.name or p.name.startswith(".lock")]
        left += [p for p in self.folder.glob("prepared/.*")]
        return {
            "weights that differ": sum(not _same(weights[name], value) for name, value in expected[0].items()),
            "metrics that differ": sum(metrics.get(name) != value for name, value in expected[1].items()),
            "answers that differ": int(answers != expected[2]),
            "run folders too many": len(self.runs) - 1,
            "MLflow runs too many": own - 1,
            "MLflow points lost": sum((expected_points - points).values()),
            "MLflow points doubled": sum((points - expected_points).values()),
            "files left over": len(left),
        }


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)


def _mlflow(folder: Path) -> tuple[int, Counter[tuple[str, int]]]:
    """How many runs there are, and how often each metric has a value for each step."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment: Any = client.get_experiment_by_name("twotower")
    runs = client.search_runs([experiment.experiment_id])
    points: Counter[tuple[str, int]] = Counter()
    for run in runs:
        for name in run.data.metrics:
            points.update((name, point.step) for point in client.get_metric_history(run.info.run_id, name))
    return len(runs), points


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="more settings of train.py")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    table = Table("round", "kills", "seconds of the kills")
    total: Counter[str] = Counter()
    kills = rounds = 0
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        undisturbed = Drill(Path(scratch) / "undisturbed", options.overrides)
        begin = time.perf_counter()
        if undisturbed.start().wait():
            sys.exit((undisturbed.folder / "output.log").read_text())
        whole = time.perf_counter() - begin
        while kills < options.kills:
            rounds += 1
            drill = Drill(Path(scratch) / f"round-{rounds}", options.overrides)
            seconds: list[str] = []
            while True:
                process = drill.start("resume=auto")
                wait = moments.uniform(0.2, 1.0) * whole
                try:
                    status = process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    seconds.append(f"{wait:.1f}")
                    continue
                if status:
                    sys.exit(f"a command failed:\n{(drill.folder / 'output.log').read_text()}")
                break
            kills += len(seconds)
            total.update(drill.faults(undisturbed))
            table.add_row(str(rounds), str(len(seconds)), ", ".join(seconds))
    console = Console()
    console.print(table)
    faults = Table(f"after {kills} kills in {rounds} runs", "")
    for name, count in total.items():
        faults.add_row(name, str(count))
    console.print(faults)
    print(json.dumps({"kills": kills, "runs": rounds, "undisturbed_seconds": whole, "faults": dict(total)}))
    sys.exit(int(any(total.values())))


if __name__ == "__main__":
    main()
