"""The nightly job: prepare, train from the champion, test both, promote or say why not: twotower retrain --help"""

import hashlib
import json
import logging
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from twotower.commands.promote import PAGE_FILE, REFUSED, promote
from twotower.commands.train import train
from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.files import locked_folder, read_json, write_json
from twotower.core.schema import Prepared
from twotower.exporting.bundle import export_bundle
from twotower.runs import layout
from twotower.runs.identity import counted_settings
from twotower.runs.run import load_config, load_run
from twotower.tracking.champion import champion_version
from twotower.tracking.lookup import MODELS
from twotower.tracking.registry import keep_bundle, registered_version, require_names
from twotower.training.prepare import prepare

log = logging.getLogger(__name__)
CANDIDATE, AUTO = "candidate", "auto"
OWN = ("register", "champion", "work", "warm_epochs", "index", "gate")  # settings that are not of the training
DONE_FILE = "retrained.json"  # of a night: what became of it


def main_retrain(config: DictConfig) -> None:
    """`twotower retrain`: exit with REFUSED where the champion stays."""
    if not retrain(config)["promoted"]:
        sys.exit(REFUSED)


def retrain(config: DictConfig) -> dict[str, Any]:
    """Do every step of the night that is not done yet; the same data and settings are the same night.

    Returns:
        {"promoted", "words", "version", "run", "bundle", "page"}, which is DONE_FILE in the night's folder.

    Raises:
        UserError: a setting or the data is wrong, or another process retrains the same model.
    """
    if not config.logger:
        raise UserError("retrain keeps each model in MLflow's registry, and logger=none leaves that out")
    require_names(config.register, CANDIDATE)
    require_names(config.register, config.champion)
    prepared = prepare(config.data, config.accept)
    work = Path(config.work)
    work.mkdir(parents=True, exist_ok=True)  # not before: a mistake in the data leaves nothing
    with locked_folder(work, f"another process retrains in {work}; wait for it, or stop it"):
        night = night_of(work, config, prepared)
        done = night / DONE_FILE
        if done.exists():
            facts: dict[str, Any] = read_json(done, "a night's folder")
            print(f"nothing new since {night.name}: {facts['words']}")
            return facts
        night.mkdir(exist_ok=True)
        run = train(training_config(config, night), prepared)
        version = registered(config, run, night / "bundle")
        print(f"bundle: {night / 'bundle'}")
        shutil.rmtree(night / "promotion", ignore_errors=True)  # of a process that was killed there
        decision = promote(promotion_config(config, night, prepared, version))
        facts = {
            **{"promoted": decision.promoted, "words": decision.words, "version": version},
            **{"run": str(night / "run"), "bundle": str(night / "bundle")},
            "page": str(night / "promotion" / PAGE_FILE),
        }
        write_json(done, facts)
    if not decision.promoted:
        address = f"{MODELS}{config.register}/{version}"
        reason = 'force="the reason"'
        print(
            "to promote it all the same:",
            command("promote", address, f"champion={MODELS}{config.register}@{config.champion}", reason),
        )
    return facts


def night_of(work: Path, config: DictConfig, prepared: Prepared) -> Path:
    """Return the folder of this data and these settings: the one that exists, or a new one of today."""
    counted = {name: value for name, value in counted_settings(config).items() if name != "work"}
    counted["fingerprint"] = prepared.manifest["fingerprint"]
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:12]
    began = sorted(work.glob(f"*-{digest}"))
    return began[0] if began else work / f"{datetime.now():%Y-%m-%d}-{digest}"


def training_config(config: DictConfig, night: Path) -> DictConfig:
    """Return the training's settings; a run that has begun goes on from the model that it began from."""
    training = _without_own(config)
    training.run_dir = str((night / "run").resolve())
    if (night / "run" / layout.CONFIG_FILE).exists():
        began = load_config(night / "run")
        training.warm_start, training.trainer.max_epochs = began.warm_start, began.trainer.max_epochs
        return training
    if training.warm_start == AUTO:
        version = champion_version(config.logger.tracking_uri, config.register, config.champion)
        training.warm_start = f"{MODELS}{config.register}/{version}" if version else None
        if version is None:
            log.info("%s has no champion yet: training from the start", config.register)
    if training.warm_start is not None:
        training.trainer.max_epochs = config.warm_epochs
        log.info("a warm start has warm_epochs=%d, in the place of trainer.max_epochs", config.warm_epochs)
    return training


def registered(config: DictConfig, path: Path, bundle: Path) -> str:
    """Export and register the run, as far as that is not done; returns the version."""
    run = load_run(path)
    if not bundle.exists():
        export_bundle(run, bundle, config.index)
    version = registered_version(run, config.register)
    if version is None:
        keep_bundle(run, bundle, config.register, CANDIDATE)
        version = registered_version(run, config.register)
        assert version is not None
    return version


def promotion_config(config: DictConfig, night: Path, prepared: Prepared, version: str) -> DictConfig:
    """Return the settings of `twotower promote`."""
    return OmegaConf.create(
        {
            "gate": config.gate,
            "candidate": f"{MODELS}{config.register}/{version}",
            "champion": f"{MODELS}{config.register}@{config.champion}",
            "force": None,
            "out": str(night / "promotion"),
            "data": str(prepared.path),
            "tracking_uri": config.logger.tracking_uri,
            "threads": config.threads,
        }
    )


def _without_own(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(name) for name in config if name not in OWN])
