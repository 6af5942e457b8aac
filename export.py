"""Turn a training run into a bundle for serving: python export.py --help"""

import os
import shlex
import tempfile
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from omegaconf import DictConfig

from twotower import cli, run
from twotower.errors import UserError
from twotower.export.bundle import Report, export_bundle
from twotower.registry import keep_bundle
from twotower.tracked import located


def export(config: DictConfig) -> None:
    """Find the run, export it, say what was done."""
    source = Path(str(config.run))
    out = Path(config.out) if config.out else Path("bundles") / source.resolve().name
    if out.exists():
        raise UserError(f"{out} exists already; delete it, or name another folder: out=...")
    with tempfile.TemporaryDirectory() as scratch:
        loaded = run.load_run(located(str(source), config.tracking_uri, Path(scratch)))
        if config.dim is not None:
            sizes = list(loaded.config.model.matryoshka)
            if config.dim not in sizes:
                raise UserError(
                    f"dim={config.dim}: this run's first dimensions that serve alone are model.matryoshka={sizes}"
                )
            loaded.model.served_dim = config.dim
        report = export_bundle(loaded, out)
        print_report(report, keep_bundle(loaded, out, config.register, config.alias))


def print_report(report: Report, registered: str | None) -> None:
    """What was exported, how close it is to the trained model, and what to type next."""
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in report.bytes_by_file.items())
    print(f"{report.num_items:,} items, dim {report.dim}, similarity {report.similarity}")
    print(f"MB: {sum(report.bytes_by_file.values()) / 1e6:.1f} ({sizes})")
    print(
        f"largest differences: user tower {report.tower_difference:.1e}, "
        f"index {report.index_difference:.1e}, "
        f"answers to {report.histories} histories {report.answer_difference:.1e}"
    )
    if registered:
        print(f"mlflow: {registered}")
    print(
        "next:",
        shlex.join(["python", "-m", "twotower.serving.retriever", str(report.path), str(report.example)]),
    )
    print(f"bundle: {report.path}")


if __name__ == "__main__":
    cli.run(export, "export")
