"""The library: what the commands do, as functions with typed arguments and results. Use it as `import twotower as tt`.

data = tt.prepare("events.parquet", columns={"item_id": "sku"})
run = tt.train(data, overrides=["trainer.max_epochs=5"])
bundle = tt.export(run)
tt.Retriever.load(bundle.path).recommend([["sku-1", "sku-2"]], k=10).ids
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from twotower.commands.compose import as_user_error, compose_config
from twotower.core.errors import UserError
from twotower.core.files import new_directory, read_json
from twotower.core.schema import MANIFEST_FILE, Prepared
from twotower.evaluation.comparison import Comparison, compare_runs
from twotower.evaluation.summary import PRIMARY_METRIC
from twotower.runs.layout import DATA_FILE, METRICS_FILE

FilePath = str | os.PathLike[str]
Overrides = Sequence[str]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder, and its flat metrics such as `test/recall_at_20`."""

    path: Path
    metrics: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """A model's test on some data: its folder, with report.html, and its flat metrics."""

    path: Path
    metrics: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class ExportedBundle:
    """A bundle: its folder, and its manifest."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)


@as_user_error("train")
def prepare(
    path: FilePath | None = None,
    *,
    items: FilePath | None = None,
    users: FilePath | None = None,
    columns: Mapping[str, str | None] | None = None,
    overrides: Overrides = (),
    config_dir: FilePath | None = None,
) -> Prepared:
    """Prepare events for training, or open what was prepared from the same files with the same settings before.

    Args:
        path: Parquet, CSV or JSON Lines; a file, a folder or a glob. None: the data that `overrides` name, as
            `data=otto` or an experiment; without any the embedded marketplace.
        items: a table of item features.
        users: a table of user features.
        columns: item_id, timestamp, session_id, user_id, event_type -> what the files call it; None: it is ignored.
        overrides: settings as on the command line: `preparation.session_gap_minutes=60`, `split.test_days=3`.
        config_dir: a folder with experiments and groups of your own, as --config-dir.

    Raises:
        UserError: a file, a column or a setting is wrong, or the audit found errors; the message says what to do.
    """
    from twotower.training.prepare import prepare as prepare_data

    values = {**_events(path, overrides), "data.items": items, "data.users": users}
    values |= {f"data.columns.{name}": False if column is None else column for name, column in (columns or {}).items()}
    config = compose_config("train", values, overrides, config_dir)
    return prepare_data(config.data, config.accept)


@as_user_error("train")
def train(
    data: Prepared | FilePath | None = None,
    *,
    run_dir: FilePath | None = None,
    experiment: str | None = None,
    overrides: Overrides = (),
    config_dir: FilePath | None = None,
) -> TrainedRun:
    """Train and test a model, as `twotower train` does.

    Args:
        data: from `prepare`, or a prepared directory, or event files; None: the data that the experiment or the
            overrides name.
        run_dir: folder of the run; None: a new one, runs/DATE/TIME-NAME.
        experiment: the name of an experiment file.
        overrides: settings as on the command line: `model.dim=128`, `model/user_tower=gru`, `logger=none`.
        config_dir: a folder with experiments and groups of your own, as --config-dir.

    Raises:
        UserError: a setting is wrong, the data does not suit it, or memory would not suffice.
    """
    from twotower.commands.train import train as train_run

    config = compose_config("train", {"experiment": experiment, **_data(data, overrides)}, overrides, config_dir)
    if config.sweep:
        raise UserError("a sweep is many runs: start it with twotower train -m sweep=...")
    config.run_dir = str(run_dir or _new_folder(config.name))
    path = train_run(config)
    return TrainedRun(path, read_json(path / METRICS_FILE, "a finished run"))


@as_user_error("train")
def evaluate(
    model: TrainedRun | ExportedBundle | FilePath,
    data: Prepared | FilePath | None = None,
    *,
    run_dir: FilePath | None = None,
    overrides: Overrides = (),
    config_dir: FilePath | None = None,
) -> Evaluation:
    """Test a model on data that it may never have seen; items are matched by their ids.

    Args:
        model: a run or a bundle, or its folder, or the id of an MLflow run.
        data: as in `train`; None: what `overrides` name, else what a run was trained on.
        run_dir: folder of the evaluation; None: a new one, runs/DATE/TIME-NAME.
        overrides: settings of training: of the data, the split and `evaluation`.
        config_dir: as in `train`.

    Raises:
        UserError: there is no such model, or it knows none of the data's items.
    """
    from twotower.commands.evaluate import evaluate as evaluate_model

    path = _path(model)
    if data is None and not _chosen("data", overrides):
        data = read_json(path / DATA_FILE, "a run; say which data to test it on")["path"]
    config = compose_config("train", {"evaluate": path, **_data(data, overrides)}, overrides, config_dir)
    config.run_dir = str(run_dir or _new_folder(f"{config.name}-evaluated"))
    folder = evaluate_model(config)
    return Evaluation(folder, read_json(folder / METRICS_FILE, "an evaluation"))


@as_user_error("export")
def export(run: TrainedRun | FilePath, *, out: FilePath | None = None, overrides: Overrides = ()) -> ExportedBundle:
    """Turn a run into a bundle that serves without torch, and prove that it answers as the trained model does.

    Args:
        run: a run or its folder, or the id of an MLflow run.
        out: folder of the bundle; None: bundles/ and the run folder's name.
        overrides: settings of `twotower export`: `index=exact`, `dim=16`.

    Raises:
        UserError: the run or a setting is wrong, or `out` exists already.
    """
    from twotower.commands.export import export as export_run

    report = export_run(compose_config("export", {"run": _path(run), "out": out}, overrides))
    return ExportedBundle(report.path, report.manifest)


def compare(
    first: TrainedRun | Evaluation | FilePath, second: TrainedRun | Evaluation | FilePath, metric: str = PRIMARY_METRIC
) -> Comparison:
    """Compare two models on the queries that both have answered: metrics, slices by `metric`, and a verdict.

    Raises:
        UserError: the two were tested on different data, or there is no such metric.
    """
    return compare_runs(_path(first), _path(second), metric)


def _path(made: TrainedRun | Evaluation | ExportedBundle | FilePath) -> Path:
    return made.path if isinstance(made, TrainedRun | Evaluation | ExportedBundle) else Path(made)


def _chosen(group: str, overrides: Overrides) -> bool:
    """Whether overrides choose a group's member, or an experiment, which may do so."""
    return any(word.split("=")[0] in (group, "experiment") for word in overrides)


def _events(path: FilePath | None, overrides: Overrides) -> dict[str, object]:
    if path is None:
        return {}
    return {"data": None if _chosen("data", overrides) else "events", "data.path": Path(path)}


def _data(data: Prepared | FilePath | None, overrides: Overrides) -> dict[str, object]:
    """Overrides of a prepared directory, or of event files."""
    path = data.path if isinstance(data, Prepared) else data
    if path is not None and (Path(path) / MANIFEST_FILE).is_file():
        return {"data": "prepared", "data.path": Path(path).absolute()}
    return _events(path, overrides)


def _new_folder(name: str) -> Path:
    """Create a folder of the moment."""
    return new_directory(Path("runs") / f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{name}")
