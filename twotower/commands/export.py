"""Turn a training run into a bundle for serving: twotower export --help"""

import shlex
import tempfile
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from twotower.core.errors import UserError
from twotower.export.bundle import Report, export_bundle
from twotower.runs import run
from twotower.segments.audiences import write_audience
from twotower.segments.events_file import read_events
from twotower.segments.segments import write_segments
from twotower.segments.user_histories import Source, run_sessions
from twotower.serving.manifest import README_FILE
from twotower.tracking.lookup import located
from twotower.tracking.registry import keep_bundle


def export(config: DictConfig) -> None:
    """Find the run, export it, say what was done."""
    source = Path(str(config.run))
    out = Path(config.out) if config.out else Path("bundles") / source.resolve().name
    segments = Path(f"{out}-segments") if config.segments.number is not None else None
    audience = Path(f"{out}-audience.parquet") if config.audience["items"] is not None else None
    for path in (out, segments, audience):
        if path and path.exists():
            raise UserError(f"{path} exists already; delete it, or name another folder: out=...")
    with tempfile.TemporaryDirectory() as scratch:
        loaded = run.load_run(located(str(source), config.tracking_uri, Path(scratch)))
        if config.dim is not None:
            sizes = list(loaded.config.model.matryoshka)
            if config.dim not in sizes:
                raise UserError(
                    f"dim={config.dim}: this run's first dimensions that serve alone are model.matryoshka={sizes}"
                )
            loaded.model.served_dim = config.dim
        report = export_bundle(loaded, out, config.index)
        registered = keep_bundle(loaded, out, config.register, config.alias)
        source_of_users = users_of(config, loaded)
        if segments:
            print(write_segments(out, source_of_users, segments, **config.segments))
        if audience:
            print(write_audience(out, source=source_of_users, out=audience, **config.audience))
        print_report(report, registered)


def users_of(config: DictConfig, loaded: run.Run) -> Source:
    """Whose histories segments and audiences are made of: a file of events, or the run's own prepared sessions."""
    if config.events is None:
        return partial(run_sessions, run_path=loaded.path, newest=config.sessions)
    columns = dict(loaded.config.data.get("columns") or {})
    unit = loaded.data.get("timestamp_unit", "ms")
    return partial(read_events, path=Path(config.events), columns=columns, unit=unit)


def print_report(report: Report, registered: str | None) -> None:
    """What was exported, how close it is to the trained model, and what to type next."""
    manifest = report.manifest
    index, int8, measured = manifest["index"], manifest["int8"], manifest["measured"]
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in report.bytes_by_file.items())
    print(f"{manifest['num_items']:,} items, dim {manifest['dim']}, similarity {manifest['similarity']}")
    print(f"MB: {sum(report.bytes_by_file.values()) / 1e6:.1f} ({sizes})")
    print(
        f"largest differences: user tower {report.tower_difference:.1e}, "
        f"answers to {report.histories} histories {report.answer_difference:.1e}"
    )
    print(f"index: {index['kind']} ({index['factory']}), recall@20 {index['recall']:.4f} against exact search")
    print(
        f"8-bit user tower: recall@20 of the next item {int8['label_recall']:.4f}, "
        f"float32 {int8['float32_label_recall']:.4f}; {'in the bundle' if int8['kept'] else 'left out'}"
    )
    print(
        f"an answer takes {measured['p50_ms']:.2f} ms (median) and {measured['p99_ms']:.2f} ms (99%); "
        f"from start to first answer {measured['cold_start_s']:.1f} s, {measured['peak_memory_mb']:.0f} MB"
    )
    if registered:
        print(f"mlflow: {registered}")
    print(f"for the serving team: {report.path / README_FILE}")
    print(
        "next:",
        shlex.join(["python", "-m", "twotower.serving.retriever", str(report.path), str(report.example)]),
    )
    print(f"bundle: {report.path}")
