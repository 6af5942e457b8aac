"""Does this working tree train and export the same as another revision? python experiments/same_results.py REVISION

The demo runs with one thread in both, a temporary checkout of REVISION and this tree. Compared to the last digit: all
of metrics.json but times, and the bytes of the bundle's files but those that hold times, names or versions. Files may
have other names: each has to have one of the same bytes. Exit status 0: the same.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMED = ("second", "milliseconds", "megabytes")  # parts of names of metrics that differ from run to run
TEXTS = {"manifest.json", "README.md", "index.html"}  # of a bundle: they have times, names and commands in them


def demo(checkout: Path, work: Path, overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics of a run of the demo, and the hashes of its bundle's files by name."""
    run, bundle = work / "run", work / "bundle"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    for script, *settings in (
        ["train.py", f"run_dir={run}", f"hydra.run.dir={run}", "logger=none", *overrides],
        ["export.py", f"run={run}", f"out={bundle}"],
    ):
        command = [sys.executable, str(checkout / script), *settings]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{checkout / script} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    metrics = json.loads((run / "metrics.json").read_text())
    files = [file for file in sorted(bundle.iterdir()) if file.name not in TEXTS]
    return (
        {name: value for name, value in metrics.items() if not any(word in name for word in TIMED)},
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="a commit, as git names it")
    parser.add_argument("overrides", nargs="*", help="settings of both trainings, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        old, works = Path(scratch) / "old", [Path(scratch) / name for name in ("a", "b")]
        subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", "-q", old, options.revision], check=True)
        try:
            for work in works:
                work.mkdir()
            (metrics, files), (new_metrics, new_files) = (
                demo(checkout, work, options.overrides) for checkout, work in zip((old, ROOT), works, strict=True)
            )
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", old], check=True)
    other = [name for name in metrics.keys() | new_metrics.keys() if metrics.get(name) != new_metrics.get(name)]
    print(
        f"metrics: {len(metrics) - len(other)} of {len(metrics)} the same; others: {', '.join(sorted(other)) or 'none'}"
    )
    lost = {name for name, sha in files.items() if sha not in new_files.values()}
    print(f"files: {len(files) - len(lost)} of {len(files)} the same; others: {', '.join(sorted(lost)) or 'none'}")
    return int(bool(other or lost))


if __name__ == "__main__":
    sys.exit(main())
