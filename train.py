"""Train two towers on a shop's events: python train.py --help"""

import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig

from twotower import cli, processes, resume
from twotower.complete import complete
from twotower.errors import UserError
from twotower.evaluate import evaluate
from twotower.processes import say

log = logging.getLogger("train")


def quiet() -> None:
    """Leave out what is no news to the user; here, as a sweep's workers have not been through the lines above."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")  # of Lightning's own code
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints for other uses of Lightning than this
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # it does when a run goes on
    for chatty in ("pytorch_lightning", "faiss.loader"):  # devices, tips and the like
        logging.getLogger(chatty).setLevel(logging.WARNING)


def train(config: DictConfig) -> None:
    """Prepare, fit on the training part, pick on validation, test once, compare, keep; or go on with all that."""
    quiet()
    if 20 not in config.evaluation.ks:
        raise UserError(f"evaluation.ks={config.evaluation.ks} lacks 20: ndcg@20 picks the epoch; add it")
    if config.evaluate:
        return evaluate(config)
    if config.sweep:
        from twotower.sweep.trial import attempt  # which needs what a machine that only trains may lack

        return attempt(config)
    with processes.together():
        fresh, resumed = processes.first(lambda: (config.run_dir, resume.to_resume(config)))
        config.run_dir = fresh  # the others have clocks of their own
        if resumed:  # the run goes on in its own folder, with the configuration it began with
            processes.first(lambda: resume.take_over(Path(fresh), resumed))
            config = resume.config_at(resumed)
            if resume.is_finished(resumed):
                say(f"finished already\nnext: python export.py run={resumed}\nrun: {resumed}")
                return
            log.info("going on with %s", resumed)
        with resume.held(Path(config.run_dir)) if processes.is_first() else nullcontext():
            try:
                complete(config)
            except KeyboardInterrupt:
                say(f"interrupted; next: python train.py resume={config.run_dir}\nrun: {config.run_dir}")
                raise


if __name__ == "__main__":
    cli.run(train, "train")
