"""Evaluate a tested model, and write results and report into the run directory."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy.typing as npt
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from twotower.core.files import write_bytes, write_json
from twotower.core.schema import CARD_FILE, Prepared
from twotower.data.horizon import NEXT
from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults, Settings, evaluate_results
from twotower.evaluation.ranked import ranked_settings
from twotower.evaluation.results_file import RESULTS_FILE, write_results
from twotower.evaluation.terminal_tables import print_evaluation
from twotower.runs.environment import git_commit
from twotower.runs.layout import ASSESSMENT_FILE, CONFIG_FILE, METRICS_FILE, REPORT_FILE

Array = npt.NDArray[Any]
LINKED = (CARD_FILE, CONFIG_FILE, METRICS_FILE, ASSESSMENT_FILE, "train.log")  # from the report
log = logging.getLogger(__name__)


def evaluate_and_report(
    config: DictConfig,
    prepared: Prepared,
    test: SessionLoader,
    model: ModelResults,
    metrics: dict[str, Any],
    validation: Mapping[int, Mapping[str, float]] | None = None,
    position: Array | None = None,
) -> None:
    """Evaluate a model's results, write everything into the run directory, and print the tables.

    Args:
        config: of the run.
        prepared: its events.
        test: the queries.
        model: its results for them.
        metrics: of the run so far.
        validation: metrics of each epoch's validation, if there was any.
        position: of each event in the data, if `prepared` is a part of them.
    """
    path = Path(config.run_dir)
    evaluation = evaluate_results(prepared, test, model.ranking, model.items, settings_of(config))
    speed = test.num_queries / model.seconds
    metrics = metrics | model.metrics | {"test/queries": test.num_queries, "test/queries_per_second": speed}
    metrics |= evaluation.metrics
    saved = evaluation.saved
    if position is not None:
        saved = saved._replace(ranking=model.ranking._replace(event=position[model.ranking.event]))
    write_results(path / RESULTS_FILE, saved)
    write_json(path / ASSESSMENT_FILE, evaluation.summary)
    write_json(path / METRICS_FILE, metrics)
    title = f"{config.name}: {test.num_queries:,} test queries, {prepared.num_items:,} items"
    try:
        from twotower.report.run_page import run_page
    except ImportError as error:  # a machine that only trains may lack what draws
        log.warning("no report is written: %s", error)
    else:
        files = [name for name in LINKED if (path / name).exists()]
        page = run_page(
            *(title, metrics, evaluation, model.items, validation or {}, prepared),
            *(about(config, prepared, metrics), files, OmegaConf.to_yaml(config, resolve=True)),
        )
        write_bytes(path / REPORT_FILE, page.encode())
    print_evaluation(metrics, evaluation.summary, title)


def about(config: DictConfig, prepared: Prepared, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return what a reader of the report asks first about the run, by name."""
    facts = {"folder": str(config.run_dir)}
    if config.get("evaluate"):
        facts["evaluated"] = str(config.evaluate)
    else:
        parts = (str(config.model[name]["_target_"]) for name in ("user_tower", "item_tower", "loss"))
        names, sizes = ", ".join(part.rpartition(".")[2] for part in parts), (config.model.dim, config.model.max_length)
        facts["model"] = f"{names}; dim {sizes[0]}, histories of up to {sizes[1]} events"
        again = ", then again on training + validation data" if config.refit else ""
        facts["trained"] = f"{metrics.get('train/seconds', 0.0):,.0f} s{again}; seed {config.seed}"
    return facts | {
        "data": f"{prepared.manifest.get('name', '')} {prepared.manifest['fingerprint']}".strip(),
        "commit": git_commit() or "unknown",
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "MLflow": f"{config.logger.experiment_name} in {config.logger.tracking_uri}" if config.logger else "not used",
    }


def settings_of(config: DictConfig) -> Settings:
    """Return the evaluation's part of a run's configuration."""
    return Settings(
        ks=list(config.evaluation.ks),
        baselines=config.evaluation.baselines,
        refit=config.refit,
        max_length=config.model.max_length,
        target_weights=config.target_weights,
        replicates=config.evaluation.replicates,
        seed=config.seed,
        extra_baselines={
            name: instantiate(fit) for name, fit in (config.evaluation.get("extra_baselines") or {}).items()
        },
        horizon=config.evaluation.get("horizon", NEXT),  # runs of before have no such key
        **ranked_settings(config.evaluation),
    )
