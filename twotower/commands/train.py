"""Train a user tower and an item tower on a shop's events: twotower train --help"""

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path

from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig

from twotower.commands.evaluate import evaluate
from twotower.core.distributed import is_first_process
from twotower.core.errors import UserError
from twotower.runs import resume
from twotower.training import processes
from twotower.training.complete import complete

log = logging.getLogger(__name__)


def silence_libraries() -> None:
    """Hide other libraries' messages that do not concern the user; a sweep's workers call this, too."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")  # of Lightning's own code
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints for other uses of Lightning than this
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # it does when a run goes on
    for chatty in ("pytorch_lightning", "faiss.loader"):  # devices, tips and the like
        logging.getLogger(chatty).setLevel(logging.WARNING)


def train(config: DictConfig) -> Path:
    """Train a run, resume one, evaluate a model, or run a sweep's trial, as the configuration asks.

    Returns:
        The folder that holds the result: the run directory, the evaluation's or the trial's.
    """
    silence_libraries()
    if 20 not in config.evaluation.ks:
        raise UserError(f"evaluation.ks={config.evaluation.ks} lacks 20: ndcg@20 picks the epoch; add it")
    if config.evaluate:
        return evaluate(config)
    if config.sweep:
        from twotower.sweep.trial import attempt  # which needs what a machine that only trains may lack

        attempt(config)
        return Path(config.run_dir)
    with processes.together():
        fresh, resumed = processes.first(lambda: (config.run_dir, resume.to_resume(config)))
        config.run_dir = fresh  # the others have clocks of their own
        if resumed:  # the run goes on in its own folder, with the configuration it began with
            processes.first(lambda: resume.take_over(Path(fresh), resumed))
            config = resume.config_at(resumed)
            if resume.is_finished(resumed):
                processes.say(f"finished already\nnext: python export.py run={resumed}\nrun: {resumed}")
                return resumed
            log.info("going on with %s", resumed)
        with resume.exclusive_lock(Path(config.run_dir)) if is_first_process() else nullcontext():
            try:
                complete(config)
            except KeyboardInterrupt:
                processes.say(f"interrupted; next: python train.py resume={config.run_dir}\nrun: {config.run_dir}")
                raise
        return Path(config.run_dir)
