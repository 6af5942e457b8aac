"""Test a run or a bundle on any data, and train nothing: twotower evaluate MODEL data=..."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from twotower.core.command_line import command
from twotower.core.distributed import process_count
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import TOWER_FILE
from twotower.data.horizon import NEXT
from twotower.runs import layout, run
from twotower.runs.resume import removed_unless_begun
from twotower.tracking.lookup import DEFAULT_TRACKING_URI, MODELS, locate
from twotower.training.evaluate_and_report import evaluate_and_report
from twotower.training.final_test import test_model
from twotower.training.fit import build_module, queries
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)


def evaluate(config: DictConfig) -> Path:
    """Test the run or bundle `config.evaluate` on the configured data; returns the evaluation's folder.

    Raises:
        UserError: there is no such model, or the data shares no item with it.
    """
    # Imported here, as a machine that only trains may lack what they import.
    from twotower.evaluation.evaluate_bundle import evaluate_bundle, vocabulary_of_bundle, write_catalogue
    from twotower.evaluation.ranked import ranked_items, ranked_settings
    from twotower.evaluation.reindex import has_items_of, reindex_to_model, vocabulary_of_run
    from twotower.serving.bundle import open_bundle

    if process_count() > 1:
        raise UserError("evaluate=... takes one process; leave torchrun out")
    path = Path(config.run_dir)
    if (path / layout.CONFIG_FILE).exists():
        raise UserError(f"{path} holds a run; name another folder for its evaluation: hydra.run.dir=...")
    with removed_unless_begun(path), tempfile.TemporaryDirectory() as scratch:
        tracking_uri = config.logger.tracking_uri if config.logger else DEFAULT_TRACKING_URI
        name = str(config.evaluate)
        source = locate(name, tracking_uri, Path(scratch), "bundle" if name.startswith(MODELS) else "run")
        model = open_bundle(source) if (source / TOWER_FILE).exists() else run.load_run(source)
        prepared = prepare(config.data, config.accept)
        if isinstance(model, run.Run):
            vocabulary = vocabulary_of_run(model)
            config.refit = run.has_learnt_validation(model.path)
            config.model = OmegaConf.merge({"horizon": NEXT}, model.config.model)  # runs of before have no such key
        else:
            vocabulary = vocabulary_of_bundle(model)
            config.model.max_length = model.manifest["max_length"]
            config.refit = model.manifest.get("refit", config.refit)  # bundles of older versions do not say
            config.model.horizon = model.manifest.get("horizon", NEXT)
        position = None  # of each event in the data, where not all are kept
        data_path = prepared.path
        same_data = prepared.manifest["fingerprint"] == vocabulary.fingerprint
        if not (same_data and has_items_of(vocabulary, prepared)):  # a delta may have changed a bundle's items
            events = len(prepared.item_index)
            prepared, position = reindex_to_model(vocabulary, prepared)
            if not isinstance(model, run.Run):
                catalogue = Path(scratch) / "catalogue"
                catalogue.mkdir()
                write_catalogue(model, data_path, catalogue)
                prepared = replace(prepared, path=catalogue)
            few = 2 * len(position) < events
            hint = ": is it the right data? data=... names it" if few else ""
            told = f"{len(position):,} of {events:,} events are of items that the model knows{hint}"
            log.log(logging.WARNING if few else logging.INFO, told)
        max_length = config.model.max_length
        test = queries(prepared, vocabulary.inputs, max_length, config.target_weights, config.evaluation, "test")
        path.mkdir(parents=True, exist_ok=True)
        if isinstance(model, run.Run):
            results = test_model(build_module(config, prepared, test, model.model), test, config.trainer, path)
        else:
            ranked = ranked_items(prepared, **ranked_settings(config.evaluation))
            results = evaluate_bundle(model, test, list(config.evaluation.ks), ranked)
        evaluate_and_report(config, prepared, test, results, {}, position=position)
    if config.logger:
        name, tags = f"{config.name} evaluated", {"evaluates": str(config.evaluate)}
        parent = model.config.run_dir if isinstance(model, run.Run) else None
        logger = instantiate(config.logger, run_name=name, tags=tags, parent=parent, system_metrics=False)
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
        logger.log_dataset(str(prepared.manifest["name"]), prepared.manifest["fingerprint"], str(data_path))
        logger.log_metrics(read_json(path / layout.METRICS_FILE, "an evaluation"))
        logger.keep()
    if isinstance(model, run.Run):
        trained = Path(config.evaluate).resolve() if Path(config.evaluate).exists() else config.evaluate  # an MLflow id
        print(f"next: {command('compare', trained, path)}")
    print(f"evaluation: {path}")
    return path
