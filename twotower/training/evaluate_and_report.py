"""The test of a run: compared, written into the run directory, drawn, and printed."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from omegaconf import DictConfig, OmegaConf

from twotower.core.files import write_bytes, write_json
from twotower.core.schema import CARD_FILE, Prepared
from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults, evaluate_results
from twotower.evaluation.record import RECORD_FILE, write_record
from twotower.evaluation.tables import print_report
from twotower.runs.layout import ASSESSMENT_FILE, METRICS_FILE, REPORT_FILE

Array = npt.NDArray[Any]
log = logging.getLogger(__name__)


def evaluate_and_report(
    config: DictConfig,
    prepared: Prepared,
    test: SessionLoader,
    tested: ModelResults,
    metrics: dict[str, Any],
    validated: Mapping[int, Mapping[str, float]] | None = None,
    position: Array | None = None,
) -> None:
    """Compare, write all of it into the run directory, and print it.

    Args:
        config: of the run.
        prepared: its events.
        test: the queries.
        tested: the model's answers to them.
        metrics: what is known of the run so far.
        validated: metrics of each epoch's validation, if there was any.
        position: where each event lies in the data, if `prepared` has not all of them.
    """
    path = Path(config.run_dir)
    answers, items = tested.answers, tested.items
    assessed = evaluate_results(config, prepared, test, answers, items)
    speed = test.num_queries / tested.seconds
    metrics = metrics | tested.metrics | {"test/queries": test.num_queries, "test/queries_per_second": speed}
    metrics |= assessed.metrics
    record = assessed.record
    if position is not None:
        record = record._replace(answers=answers._replace(event=position[answers.event]))
    write_record(path / RECORD_FILE, record)
    write_json(path / ASSESSMENT_FILE, assessed.found)
    write_json(path / METRICS_FILE, metrics)
    title = f"{config.name}: {test.num_queries:,} test queries, {prepared.num_items:,} items"
    try:
        from twotower.report.names import item_names
        from twotower.report.run_page import Result, report
    except ImportError as error:  # a machine that only trains may lack what draws
        log.warning("no report is written: %s", error)
    else:
        result = Result(
            title=title,
            metrics=metrics,
            found=assessed.found,
            validated=validated or {},
            answers=answers,
            facts=assessed.facts,
            history=assessed.history,
            counts=assessed.counts,
            items=items,
            features=assessed.features,
            names=item_names(prepared.path),
            data=prepared.manifest,
            has_card=(path / CARD_FILE).exists(),
            config=OmegaConf.to_yaml(config, resolve=True),
        )
        page = report(result, config.seed)
        write_bytes(path / REPORT_FILE, page.encode())
    print_report(metrics, assessed.found, title)
