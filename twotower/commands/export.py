"""Turn a training run into a bundle for serving: twotower export --help"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.threads import use_threads
from twotower.evaluation.verdicts import with_interval
from twotower.exporting.bundle import ExportReport, export_bundle
from twotower.exporting.choose_index import check_settings
from twotower.runs.run import Run, load_run
from twotower.segments.audiences import check_items, check_sizes, write_audience
from twotower.segments.events_file import open_events, read_events
from twotower.segments.prepared_sessions import prepared_sessions, run_sessions
from twotower.segments.segments import write_segments
from twotower.segments.user_histories import HistorySource, require_positive_integer
from twotower.serving.bundle_format import README_FILE
from twotower.serving.signature import read_private_key, sign
from twotower.tracking.lookup import locate
from twotower.tracking.registry import keep_bundle, require_registrable


def export(config: DictConfig) -> ExportReport:
    """Locate the run, export it, write segments and an audience where they are asked for, and print a summary.

    Returns:
        Where the bundle lies, its manifest, and how close its answers are to the trained model's.

    Raises:
        UserError: the run is missing or damaged, an output exists already, or the bundle's answers differ from the
            trained model's.
    """
    use_threads(config.threads)
    source = str(config.run)
    out = Path(config.out) if config.out else Path("bundles") / Path(source).resolve().name
    segments = Path(f"{out}-segments") if config.segments.number is not None else None
    audience = Path(f"{out}-audience.parquet") if config.audience["items"] is not None else None
    for path in (out, segments, audience):
        if path and path.exists():
            raise UserError(f"{path} exists already; delete it, or name another folder: out=...")
    with tempfile.TemporaryDirectory() as scratch:
        run = load_run(locate(source, config.tracking_uri, Path(scratch)))
        if config.dim is not None:
            serve_first_dimensions(run, config.dim)
        check_settings(config.index.families, config.index.target_recall)
        check_outputs(config, run)
        if config.register is not None:
            require_registrable(run, str(config.register), str(config.alias))
        report = export_bundle(run, out, config.index)
        if config.sign_key is not None:
            sign(out, config.sign_key)
        histories = source_of_histories(run, config.events, config.sessions)
        if segments:
            print(write_segments(out, histories, segments, **config.segments))
        if audience:
            print(write_audience(out, source=histories, out=audience, **config.audience))
        registered = keep_bundle(run, out, config.register, config.alias)
    print_report(report, registered)
    return report


def serve_first_dimensions(run: Run, dim: int) -> None:
    """Let the model's vectors be cut to their first `dim` components, one of the sizes it was trained for."""
    sizes = list(run.config.model.matryoshka)
    if dim not in sizes:
        raise UserError(f"dim={dim}: this run's first dimensions that serve alone are model.matryoshka={sizes}")
    run.model.served_dim = dim


def check_outputs(config: DictConfig, run: Run) -> None:
    """Raise UserError where settings of segments and audiences can't be met, as far as that shows before the work."""
    segments, audience = config.segments, config.audience
    if config.sign_key is not None:
        read_private_key(config.sign_key)
    if config.sessions is not None:
        require_positive_integer("sessions", config.sessions)
    if segments.number is not None:
        require_positive_integer("segments.number", segments.number)
        require_positive_integer("segments.min_size", segments.min_size)
    if audience["items"] is not None:
        check_sizes(audience.k, audience.min_size)
        check_items(audience["items"], run.path)
    if config.events is not None:
        open_events(Path(config.events), **columns_of(run))
    elif segments.number is not None or audience["items"] is not None:
        prepared_sessions(run.path, check=False)


def columns_of(run: Run) -> dict[str, Any]:
    """The names of columns, and the unit of timestamps, that the run's data had."""
    columns = dict(run.config.data.get("columns") or {})
    return {"columns": columns, "unit": run.data.get("timestamp_unit", "ms")}


def source_of_histories(run: Run, events: str | None, newest: int | None) -> HistorySource:
    """The histories that segments and audiences are made of.

    Args:
        run: the exported run.
        events: a file of events as training reads it, with the columns of the run's data; None: its prepared sessions.
        newest: of the run's sessions only so many, the newest; None: all.
    """
    if events is None:
        return partial(run_sessions, run_path=run.path, newest=newest)
    return partial(read_events, path=Path(events), **columns_of(run))


def print_report(report: ExportReport, registered: str | None) -> None:
    """Print what was exported, how close it is to the trained model, and the command to try it.

    Args:
        report: of the export.
        registered: the model's address in MLflow's registry, if it was registered.
    """
    manifest = report.manifest
    index, int8, measured = manifest["index"], manifest["int8"], manifest["measured"]
    sizes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in report.bytes_by_file.items())
    print(f"{manifest['num_items']:,} items, dim {manifest['dim']}, similarity {manifest['similarity']}")
    print(f"size: {sum(report.bytes_by_file.values()) / 1e6:.1f} MB ({sizes})")
    print(
        f"largest difference from the trained model: {report.tower_difference:.1e} in a user vector, "
        f"{report.answer_difference:.1e} in a score ({report.histories} histories)"
    )
    print(f"index: {index['kind']} ({index['factory']}), recall@20 {index['recall']:.4f} against exact search")
    kept = "in the bundle" if int8["kept"] else "left out"
    print(f"8-bit user tower: finds {int8['recall']:.4f} of the float32 tower's results; {kept}")
    if next_item := manifest["next_item"]:
        figures = (f"{name} {with_interval(mean, '.4f')}" for name, mean in next_item["recall_at_20"].items())
        print(f"recall@20 of the next item, {next_item['queries']:,} test queries: {', '.join(figures)}")
    print(
        f"time of an answer: {measured['p50_ms']:.2f} ms (median), {measured['p99_ms']:.2f} ms (99th percentile); "
        f"from start to first answer {measured['cold_start_s']:.1f} s, {measured['peak_memory_mb']:.0f} MB"
    )
    if registered:
        print(f"mlflow: {registered}")
    print(f"for the serving team: {report.path / README_FILE}")
    print("next:", command("retrieve", report.path.resolve(), report.example))
    print(f"bundle: {report.path}")
