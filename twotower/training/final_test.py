"""Test a trained model once: rank the whole catalogue for every query of the test."""

import sys
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.data.loader import SessionLoader
from twotower.evaluation.evaluate_run import ModelResults
from twotower.training.module import TwoTowerModule


def test_model(module: TwoTowerModule, test: SessionLoader, trainer: DictConfig, folder: Path) -> ModelResults:
    """Return metrics, rankings, item vectors and seconds.

    Args:
        module: with the trained weights.
        test: the queries.
        trainer: the configuration's group `trainer`.
        folder: where Lightning would write.
    """
    settings = {"enable_progress_bar": sys.stdout.isatty(), "enable_checkpointing": False, "logger": False}
    runner = instantiate(trainer, **settings, default_root_dir=str(folder))
    begin = time.perf_counter()
    metrics = dict(runner.test(module, test, verbose=False)[0])
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        items = module.model.encode_items().cpu().numpy()
    return ModelResults(metrics, module.results(), items, seconds)
