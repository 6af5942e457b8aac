"""Are a bundle's figures those of the test, with and without a refit? Trains and exports runs of several seeds.

    python experiments/benchmarks/bundle_figures.py
    python experiments/benchmarks/bundle_figures.py --seeds 2 --sessions 2000

After a refit the model has learnt from the validation part, so a figure from there would be too good. `inside`: each
of the two figures lies in the other's 95 % interval. Prints a table and, as its last line, one line of JSON.
"""

import contextlib
import io
import os
import tempfile
from typing import Any

from harness import command_line, report

import twotower as tt
from twotower.core.files import read_json
from twotower.runs.layout import ASSESSMENT_FILE


def figures(seed: int, refit: bool, settings: list[str]) -> dict[str, Any]:
    """Train, export, and read recall@20 in both places."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = tt.train(overrides=[*settings, f"seed={seed}", f"refit={str(refit).lower()}"], run_dir=f"{seed}-{refit}")
        facts = tt.export(run, out=f"bundle-{seed}-{refit}").manifest["next_item"]
    test, low, high = read_json(run.path / ASSESSMENT_FILE, "a run")["rankers"]["model"]["recall_at_20"]
    bundle, lowest, highest = facts["recall_at_20"]["index"]
    return {
        **{"refit": refit, "seed": seed, "validation": run.metrics["val/recall_at_20"]},
        **{"test": test, "test ±": (high - low) / 2, "bundle": bundle, "bundle ±": (highest - lowest) / 2},
        **{"8 bits": facts["recall_at_20"].get("int8", [None])[0], "queries": facts["queries"]},
        "inside": low <= bundle <= high and lowest <= test <= highest,
    }


def main() -> None:
    """Measure all runs."""
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    settings = [f"data.{name}={value}" for name, value in {"items": 300, "users": 300, "days": 20}.items()]
    settings += [f"data.sessions={options.sessions}", f"trainer.max_epochs={options.epochs}", "logger=none"]
    settings += ["model/user_tower=mean_pool", "evaluation.baselines=false"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = [figures(seed, refit, settings) for refit in (True, False) for seed in range(options.seeds)]
    report(rows, "recall@20 of the next item", inside=sum(row["inside"] for row in rows), runs=len(rows))


if __name__ == "__main__":
    main()
