"""Git commit and package versions, as a run records them."""

import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "polars", "mlflow", "numpy", "twotower")


def environment() -> dict[str, Any]:
    """Git commit, Python and package versions."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"git_commit": git_commit(), "python": platform.python_version(), "packages": versions}


def git_commit() -> str | None:
    """Commit of this code, ending in "-dirty" where files were changed since; None outside a git checkout."""
    here, command = Path(__file__).parent, ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
