"""Train a user tower and an item tower on a shop's events: twotower train --help"""

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path

from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig, OmegaConf

from twotower.commands.evaluate import evaluate
from twotower.core.command_line import command, override
from twotower.core.distributed import is_first_process
from twotower.core.errors import UserError
from twotower.runs import resume
from twotower.runs.lock import exclusive_lock
from twotower.training.pipeline import run_pipeline
from twotower.training.processes import on_first_process, print_once, process_group

log = logging.getLogger(__name__)


def train(config: DictConfig) -> Path:
    """Train or resume a run; or, where the configuration asks for it, evaluate a model, or run a trial of a sweep.

    Returns:
        The folder that holds the result: the run directory, the evaluation's or the trial's.
    """
    silence_libraries()
    if 20 not in config.evaluation.ks:
        raise UserError(f"evaluation.ks={config.evaluation.ks} lacks 20: ndcg@20 picks the epoch; add it")
    if config.evaluate:
        return evaluate(config)
    if config.sweep:
        from twotower.sweep.trial import run_trial  # needs packages that a machine which only trains may lack

        return run_trial(config)
    with process_group():
        text = OmegaConf.to_yaml(config, resolve=True)
        new, resumed = on_first_process(
            lambda: (config.run_dir, resume.run_to_resume(config.resume, Path(config.run_dir), text))
        )
        config.run_dir = new  # the other processes' clocks may name another
        if resumed:
            on_first_process(lambda: resume.continue_log(Path(new), resumed))
            config = resume.resumed_config(resumed)
            if resume.is_finished(resumed):
                print_once(
                    f"finished already\nnext: {command('export', override('run', resumed.resolve()))}\nrun: {resumed}"
                )
                return resumed
            log.info("resuming %s", resumed)
        path = Path(config.run_dir)
        with exclusive_lock(path) if is_first_process() else nullcontext():
            try:
                run_pipeline(config)
            except KeyboardInterrupt:
                print_once(f"interrupted; next: {resume.resume_command(path)}\nrun: {path}")
                raise
        return path


def silence_libraries() -> None:
    """Hide other libraries' messages that do not concern the user; workers of a sweep call this, too."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")  # of Lightning's own code
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints for other uses of Lightning
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # always, when a run is resumed
    for name in ("pytorch_lightning", "faiss.loader"):  # devices, tips and the like
        logging.getLogger(name).setLevel(logging.WARNING)
