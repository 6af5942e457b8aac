"""Git commit and package versions, as a run records them."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "polars", "mlflow", "numpy", "twotower")


def environment() -> dict[str, Any]:
    """Git commit (with a mark where the tree was changed), Python and package versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"git_commit": git_commit(), "python": platform.python_version(), "packages": versions}


def git_commit() -> str | None:
    """Of this code, with a mark where it was changed; None where git does not know."""
    try:
        here = Path(__file__).parent
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()
