"""How long does a sweep of pruned trials take, and is its best trial better than the settings that it began with?

    python experiments/benchmarks/sweep.py --trials 30

Types `train.py -m sweep=tpe` on the embedded marketplace, with one trial a core side by side, and reads the study that
it leaves. Trial 0 has the default recipe's settings, so that both are judged by the same validation. Prints the sweep's
own table, then one of figures and, as its last line, one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import optuna
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Sweep, and read what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="default: %(default)s, one a core")
    parser.add_argument("--folder", type=Path, help="where all of it stays (default: nowhere)")
    parser.add_argument("overrides", nargs="*", help="more settings of train.py")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "train.py"), "-m", "sweep=tpe", f"sweep.trials={options.trials}"]
        command += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={options.workers}", *options.overrides]
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True)
        minutes = (time.perf_counter() - begin) / 60
        (path,) = folder.glob("sweeps/*/study.db")
        study = optuna.load_study(study_name=path.parent.name, storage=f"sqlite:///{path}")
        states = Counter(trial.state.name.lower() for trial in study.trials)
        default, best = study.trials[0], study.best_trial
        alone = sum(trial.user_attrs["seconds"] for trial in study.trials) / 60
    assert default.value is not None and best.value is not None
    figures = {
        "trials": len(study.trials),
        **states,
        "minutes": minutes,
        "minutes of all trials together": alone,
        "default val/ndcg_at_20": default.value,
        "best val/ndcg_at_20": best.value,
    }
    table = Table("", f"{options.workers} workers")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if "val/" in name else f"{value:.1f}" if "minutes" in name else str(value))
    Console().print(table)
    print(json.dumps({**figures, "workers": options.workers, "best": best.params, "settings": options.overrides}))


if __name__ == "__main__":
    main()
