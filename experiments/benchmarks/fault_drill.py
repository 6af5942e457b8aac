"""Is anything lost when runs, exports and sweeps are killed, at any moment, again and again?

    python experiments/benchmarks/fault_drill.py --kills 50

Types three commands on the embedded marketplace, once undisturbed: train.py, export.py, and train.py with a sweep.
Then it types each again in a new folder (train.py with `resume=auto`), sends SIGKILL after a random time, and types it
again, until it comes to its end; and all of that again, until there were so many kills. After each round it compares
with the undisturbed folder, to the bit: weights, metrics and answers of the run, the bundle's files, settings and
values of the sweep's trials. It counts the folders, the MLflow runs, the values that MLflow lost or has twice, and
files that are half-written or left over. Prints a table and, as its last line, one line of JSON; ends with status 1
where anything was lost.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console
from rich.table import Table

from twotower.runs.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ["data.items=300", "data.users=300", "data.sessions=4000", "data.days=20", "model.dim=32"]
SMALL += ["trainer.max_epochs=4", "evaluation.baselines=false", "evaluation.replicates=100"]
SWEEP = ["sweep=tpe", "sweep.name=drill", "sweep.trials=5", "+sweep.sampler.n_startup_trials=2"]
SWEEP += ["sweep.pruner.n_startup_trials=1", "trainer.max_epochs=3"]
COMMANDS = ("train", "export", "sweep")
TIMES = ("second", "seconds", "created")  # what differs between any two runs
TIMED_FILES = ("manifest.json", "README.md", "index.html")  # a bundle's, with what was measured


class Drill:
    """A folder in which a user types commands.

    Args:
        folder: where.
        overrides: more settings of the training.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.overrides = folder, overrides
        folder.mkdir()

    def commands(self, *more: str) -> Iterator[list[str]]:
        """What is typed, one after the other."""
        small = [*SMALL, *self.overrides]
        yield ["train.py", *small, *more]
        yield ["export.py", f"run={self.runs[0]}", "out=bundle"]
        yield ["train.py", "-m", *small, *SWEEP]

    def start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Type it."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(ROOT / command[0]), *command[1:]],
                cwd=self.folder, env=environment, stdout=output, stderr=output,
            )  # fmt: skip

    def undisturbed(self) -> list[float]:
        """Type all; the seconds that each took."""
        seconds = []
        for command in self.commands():
            begin = time.perf_counter()
            if self.start(command).wait():
                sys.exit((self.folder / "output.log").read_text())
            seconds.append(time.perf_counter() - begin)
        return seconds

    def disturbed(self, whole: list[float], moments: random.Random) -> list[list[float]]:
        """Type all, each again and again until it comes to its end; the seconds after which each was killed."""
        kills: list[list[float]] = []
        for command, seconds in zip(self.commands("resume=auto"), whole, strict=True):
            kills.append([])
            while not (
                command[0] == "export.py" and (self.folder / "bundle").exists()
            ):  # it was killed at its very end
                process = self.start(command)
                wait = moments.uniform(0.2, 1.0) * seconds
                try:
                    status = process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    kills[-1].append(wait)
                    continue
                if status:
                    sys.exit(f"a command failed:\n{(self.folder / 'output.log').read_text()}")
                break
        return kills

    @property
    def runs(self) -> list[Path]:
        """Folders of runs."""
        return sorted(path.parent for path in self.folder.glob("runs/*/*/config.yaml"))

    def result(self) -> dict[str, dict[str, Any]]:
        """All that has to be the same, by what it is."""
        run = self.runs[0]
        metrics = json.loads((run / "metrics.json").read_text())
        study = optuna.load_study(study_name="drill", storage=f"sqlite:///{self.folder / 'sweeps/drill/study.db'}")
        bundle = [file for file in (self.folder / "bundle").iterdir() if file.name not in TIMED_FILES]
        return {
            "weights": read_checkpoint(run / "checkpoints" / "refit.safetensors")["state_dict"],
            "metrics": {name: n for name, n in metrics.items() if not any(word in name for word in TIMES)},
            "answers": {"npz": (run / "answers.npz").read_bytes()},
            "files of the bundle": {file.name: file.read_bytes() for file in bundle},
            "trials": {str(t.number): (t.state, t.params, t.values) for t in study.trials},
        }

    def faults(self, undisturbed: "Drill") -> dict[str, int]:
        """What was lost or doubled, by name; all 0 is right."""
        own, expected = self.result(), undisturbed.result()
        runs, parts, points = _mlflow(self.folder)
        expected_runs, expected_parts, expected_points = _mlflow(undisturbed.folder)
        left = [p for p in self.folder.glob("*s/**/*") if ".safetensors." in p.name or p.name.startswith(".lock")]
        left += [*self.folder.glob("prepared/.*"), *self.folder.glob(".bundle*"), *self.folder.glob("sweeps/drill/.*")]
        different = {
            f"{what} that differ": sum(not _same(own[what].get(name), value) for name, value in values.items())
            for what, values in expected.items()
        }
        return different | {
            "run folders too many": len(self.runs) - 1,
            "trials too many": len(own["trials"]) - len(expected["trials"]),
            "MLflow runs too many": runs - expected_runs,
            "MLflow runs of trials lost": expected_parts - parts,
            "MLflow points lost": sum((expected_points - points).values()),
            "MLflow points doubled": sum((points - expected_points).values()),
            "files left over": len(left),
        }


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)


def _mlflow(folder: Path) -> tuple[int, int, Counter[tuple[str, int]]]:
    """How many runs there are, how many are parts of another, and how often each metric has a value for each step."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment: Any = client.get_experiment_by_name("twotower")
    runs = client.search_runs([experiment.experiment_id])
    points: Counter[tuple[str, int]] = Counter()
    for run in runs:
        for name in run.data.metrics:
            if not name.startswith("system/"):  # how much there is depends on how long it took
                points.update((name, point.step) for point in client.get_metric_history(run.info.run_id, name))
    return len(runs), sum("mlflow.parentRunId" in run.data.tags for run in runs), points


def main() -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", help="more settings of train.py")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    table = Table("round", *(f"{name} killed after, s" for name in COMMANDS))
    total: Counter[str] = Counter()
    kills, rounds = dict.fromkeys(COMMANDS, 0), 0
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        undisturbed = Drill(Path(scratch) / "undisturbed", options.overrides)
        whole = undisturbed.undisturbed()
        while sum(kills.values()) < options.kills:
            rounds += 1
            drill = Drill(Path(scratch) / f"round-{rounds}", options.overrides)
            seconds = drill.disturbed(whole, moments)
            kills = {name: kills[name] + len(some) for name, some in zip(COMMANDS, seconds, strict=True)}
            total.update(drill.faults(undisturbed))
            table.add_row(str(rounds), *(", ".join(f"{second:.1f}" for second in some) for some in seconds))
    console = Console()
    console.print(table)
    faults = Table(f"after {sum(kills.values())} kills in {rounds} rounds", "")
    for name, count in total.items():
        faults.add_row(name, str(count))
    console.print(faults)
    seconds_of = dict(zip(COMMANDS, whole, strict=True))
    print(json.dumps({"kills": kills, "rounds": rounds, "undisturbed_seconds": seconds_of, "faults": dict(total)}))
    sys.exit(int(any(total.values())))


if __name__ == "__main__":
    main()
