"""Test a run or a bundle on any data: train.py evaluate=..."""

import logging
import tempfile
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from twotower.core.distributed import process_count
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import TOWER_FILE
from twotower.runs import layout, run
from twotower.tracking.lookup import locate
from twotower.training.evaluate_and_report import evaluate_and_report
from twotower.training.fit import queries, test_weights
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)


def track(config: DictConfig, trained: str) -> None:
    """Let MLflow have the evaluation as a part of the run that it is of, where it knows that."""
    path = Path(config.run_dir)
    name = f"{config.name} evaluated"
    settings = {"run_name": name, "parent": trained, "system_metrics": False}
    logger = instantiate(config.logger, tags={"evaluates": str(config.evaluate)}, **settings)
    logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
    logger.log_metrics(read_json(path / layout.METRICS_FILE, "an evaluation"))
    logger.keep()


def evaluate(config: DictConfig) -> Path:
    """Test a run or a bundle on any data and train nothing; returns the evaluation's folder."""
    from twotower.evaluation.other_data import (  # which need what a machine that only trains may lack
        reindex_to_model,
        vocabulary_of_run,
    )

    if process_count() > 1:
        raise UserError("evaluate=... takes one process; leave torchrun out")
    prepared = prepare(config.data, config.accept)
    path = Path(config.run_dir)
    with tempfile.TemporaryDirectory() as scratch:
        tracking_uri = config.logger.tracking_uri if config.logger else "sqlite:///mlflow.db"
        source = locate(str(config.evaluate), tracking_uri, Path(scratch))
        is_bundle = (source / TOWER_FILE).exists()
        if is_bundle:
            from twotower.evaluation.bundle_evaluation import test_bundle, vocabulary_of_bundle
            from twotower.serving.bundle import open_bundle

            bundle = open_bundle(source)
            known = vocabulary_of_bundle(bundle)
            config.model.max_length = bundle.manifest["max_length"]
        else:
            trained = run.load_run(source)
            known = vocabulary_of_run(trained)
            config.model, config.refit = trained.config.model, trained.config.refit
        position = None
        if prepared.manifest["fingerprint"] != known.fingerprint:
            events = len(prepared.item_index)
            prepared, position = reindex_to_model(known, prepared)
            log.info("%s of %s events are of items that the model knows", f"{len(position):,}", f"{events:,}")
        test = queries(config, prepared, "test", known.inputs)
        path.mkdir(parents=True, exist_ok=True)
        if is_bundle:
            tested = test_bundle(bundle, test, list(config.evaluation.ks))
        else:
            tested = test_weights(config, prepared, test, trained.model)
        evaluate_and_report(config, prepared, test, tested, {}, position=position)
        if config.logger:
            track(config, "" if is_bundle else trained.config.run_dir)
    print(f"next: twotower compare {'RUN' if is_bundle else config.evaluate} {path}\nevaluation: {path}")
    return path
