"""Is anything lost when runs, exports and sweeps are killed, at any moment, again and again?

    python experiments/benchmarks/fault_drill.py --kills 50

Runs commands on the embedded marketplace, once undisturbed: a training, its export, a sweep, and two nights of
retraining, of which the second replaces the champion of the first. Then runs each in a new folder (with `resume=auto`),
sends SIGKILL after a random time, and starts it again until it ends; and all of that again, until there were so many
kills. After each round it compares with the undisturbed folder, to the bit: weights, metrics and results of the run,
the bundle's files, settings and values of the sweep's trials, weights and decision of each night, versions and champion
of the registry. It counts folders, MLflow runs, metric values that MLflow lost or has twice, and files that are
half-written or left over. Prints tables and, as its last line, one line of JSON; ends with status 1 where anything was
lost.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import torch
from forked_commands import start
from harness import command_line, print_table, report

from twotower.runs.checkpoint import read_checkpoint

SMALL = ["data.items=300", "data.users=300", "data.sessions=4000", "data.days=20", "model.dim=32"]
SMALL += ["trainer.max_epochs=4", "evaluation.baselines=false", "evaluation.replicates=100"]
SWEEP = ["sweep=tpe", "sweep.name=drill", "+sweep.sampler.n_startup_trials=2"]
SWEEP += ["sweep.pruner.n_startup_trials=1"]
NIGHT = ["retrain", "shop", "gate.margin=0.9", "gate.slice_margin=0.9", "gate.max_growth=99"]  # it always passes
COMMANDS = ("train", "export", "sweep", "first night", "second night")
FOLDERS = ("prepared", "runs", "sweeps", "bundle", "retrained")
TIMES = ("second", "seconds", "created")  # what differs between any two runs
TIMED_FILES = ("manifest.json", "README.md", "index.html")  # a bundle's, with what was measured


class Drill:
    """A new working folder in which the commands run.

    Args:
        folder: its path.
        overrides: more settings of the training.
        trials: of the sweep.
    """

    def __init__(self, folder: Path, overrides: list[str], trials: int) -> None:
        self.folder, self.overrides, self.trials = folder, overrides, trials
        folder.mkdir()

    def commands(self, *more: str) -> Iterator[list[str]]:
        """Yield the commands; some need the results of those before them."""
        small = [*SMALL, *self.overrides]
        yield ["train", *small, *more]
        yield ["export", f"run={self.runs[0]}", "out=bundle"]
        yield ["train", "-m", *small, *SWEEP, f"sweep.trials={self.trials}"]
        yield [*NIGHT, *small, "preparation.until=2025-01-18"]
        yield [*NIGHT, *small]

    def start(self, command: list[str]) -> BaseProcess:
        """Start a command; its output is appended to output.log."""
        return start(command, self.folder, self.folder / "output.log")

    def undisturbed(self) -> list[float]:
        """Run all commands; return the seconds that each took."""
        seconds = []
        for command in self.commands():
            begin = time.perf_counter()
            process = self.start(command)
            process.join()
            if process.exitcode:
                sys.exit((self.folder / "output.log").read_text())
            seconds.append(time.perf_counter() - begin)
        return seconds

    def disturbed(self, whole: list[float], moments: random.Random) -> list[list[float]]:
        """Run each command until it ends by itself; return the seconds after which it was killed, by command."""
        kills: list[list[float]] = []
        for command, seconds in zip(self.commands("resume=auto"), whole, strict=True):
            kills.append([])
            while not (command[0] == "export" and (self.folder / "bundle").exists()):  # killed at its very end
                process = self.start(command)
                wait = moments.uniform(0.2, 1.5) * seconds
                process.join(wait)
                if process.exitcode is None:
                    process.kill()
                    process.join()
                    kills[-1].append(wait)
                    continue
                if process.exitcode:
                    sys.exit(f"a command failed:\n{(self.folder / 'output.log').read_text()}")
                break
        return kills

    @property
    def runs(self) -> list[Path]:
        """Folders of runs."""
        return sorted(path.parent for path in self.folder.glob("runs/*/*/config.yaml"))

    def result(self) -> dict[str, dict[str, Any]]:
        """Return everything that has to be equal in all rounds, by kind."""
        run = self.runs[0]
        metrics = json.loads((run / "metrics.json").read_text())
        study = optuna.load_study(study_name="drill", storage=f"sqlite:///{self.folder / 'sweeps/drill/study.db'}")
        nights = {path.name[-12:]: path for path in self.folder.glob("retrained/shop/*-*")}
        bundle = [file for file in (self.folder / "bundle").iterdir() if file.name not in TIMED_FILES]
        return {
            "weights": read_checkpoint(run / "checkpoints" / "refit.safetensors")["state_dict"],
            "metrics": {name: n for name, n in metrics.items() if not any(word in name for word in TIMES)},
            "results": {"npz": (run / "answers.npz").read_bytes()},
            "files of the bundle": {file.name: file.read_bytes() for file in bundle},
            "weights of nights": {
                f"{night} {name}": weight
                for night, path in nights.items()
                for name, weight in read_checkpoint(path / "run/checkpoints/refit.safetensors")["state_dict"].items()
            },
            "decisions": {
                night: json.loads((path / "retrained.json").read_text())["words"] for night, path in nights.items()
            },
            "registry": _registry(self.folder),
            "trials": {str(t.number): (t.state, t.params, t.values) for t in study.trials},
        }

    def faults(self, undisturbed: "Drill") -> dict[str, int]:
        """Count what was lost or doubled, by kind; all have to be 0."""
        result, expected = self.result(), undisturbed.result()
        runs, parts, points = _mlflow(self.folder)
        expected_runs, expected_parts, expected_points = _mlflow(undisturbed.folder)
        left = [*self.folder.glob(".*"), *(p for name in FOLDERS for p in (self.folder / name).glob("**/.*"))]
        if left:
            print("left over:", *left, file=sys.stderr)
        different = {
            f"{what} that differ": sum(not _same(result[what].get(name), value) for name, value in values.items())
            for what, values in expected.items()
        }
        return different | {
            "run folders too many": len(self.runs) - 1,
            "trials too many": len(result["trials"]) - len(expected["trials"]),
            "MLflow runs too many": runs - expected_runs,
            "MLflow runs of trials lost": expected_parts - parts,
            "MLflow points lost": sum((expected_points - points).values()),
            "MLflow points doubled": sum((points - expected_points).values()),
            "files left over": len(left),
        }


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)


def _registry(folder: Path) -> dict[str, Any]:
    """Return the versions of the model, and its aliases."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    versions = sorted(int(version.version) for version in client.search_model_versions("name = 'shop'"))
    return {"versions": versions, "aliases": client.get_registered_model("shop").aliases}


def _mlflow(folder: Path) -> tuple[int, int, Counter[tuple[str, int]]]:
    """Count runs, runs that have a parent, and the values that each metric has for each step."""
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
    """Kill, resume, compare."""
    parser = command_line(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--trials", type=int, default=5, help="of the sweep")
    parser.add_argument("overrides", nargs="*", help="more settings of twotower train")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    faults: Counter[str] = Counter()
    kills, rounds = dict.fromkeys(COMMANDS, 0), []
    with tempfile.TemporaryDirectory(prefix="drill-") as scratch:
        undisturbed = Drill(Path(scratch) / "undisturbed", options.overrides, options.trials)
        whole = undisturbed.undisturbed()
        while sum(kills.values()) < options.kills:
            drill = Drill(Path(scratch) / f"round-{len(rounds)}", options.overrides, options.trials)
            killed_after = dict(zip(COMMANDS, drill.disturbed(whole, moments), strict=True))
            kills = {name: kills[name] + len(seconds) for name, seconds in killed_after.items()}
            faults.update(drill.faults(undisturbed))
            rounds.append({name: " ".join(f"{s:.1f}" for s in seconds) for name, seconds in killed_after.items()})
    print_table(rounds, "killed after, s")
    rows = [{f"after {sum(kills.values())} kills": name, "count": count} for name, count in faults.items()]
    seconds_of = dict(zip(COMMANDS, whole, strict=True))
    report(rows, kills=kills, undisturbed_seconds=seconds_of, faults=dict(faults))
    sys.exit(int(any(faults.values())))


if __name__ == "__main__":
    main()
