"""Train a user tower and an item tower on a shop's events: twotower train --help"""

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path

from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig

from twotower.commands.evaluate import evaluate
from twotower.core.command_line import command, override
from twotower.core.errors import UserError
from twotower.core.schema import Prepared
from twotower.core.threads import use_threads
from twotower.runs import resume
from twotower.runs.layout import CONFIG_FILE
from twotower.training.pipeline import run_pipeline
from twotower.training.prepare import prepare
from twotower.training.processes import first_process_first, on_first_process, print_once, process_group

log = logging.getLogger(__name__)


def train(config: DictConfig, prepared: Prepared | None = None) -> Path:
    """Train or resume a run; or, where the configuration asks for it, evaluate a model, or run a trial of a sweep.

    Args:
        config: of training.
        prepared: the data, of a caller that goes on by itself; None: it is prepared, and the next command is printed.

    Returns:
        The folder that holds the result: the run directory, the evaluation's or the trial's.
    """
    silence_libraries()
    use_threads(config.threads)
    if 20 not in config.evaluation.ks:
        raise UserError(f"evaluation.ks={config.evaluation.ks} lacks 20: ndcg@20 picks the epoch; add it")
    if config.evaluate:
        return evaluate(config)
    if config.sweep:
        from twotower.sweep.trial import run_trial  # needs packages that a machine which only trains may lack

        return run_trial(config)
    with process_group(), resume.removed_unless_begun(Path(config.run_dir)), ExitStack() as locks:
        new = on_first_process(lambda: Path(config.run_dir))  # the other processes' clocks may name another
        runs = on_first_process(lambda: resume.runs_to_go_on_with(config.resume, new, config))
        if config.resume and config.resume != "auto":
            asked_for, config = config.resume, resume.resumed_config(runs[0])
            config.resume = asked_for
        alone = prepared is None
        data = prepared or first_process_first(lambda: prepare(config.data, config.accept))
        path = on_first_process(lambda: resume.claim_run(runs, new, config, data, locks))
        on_first_process(lambda: resume.continue_log(new, path))
        config.run_dir = str(path)
        if on_first_process(lambda: resume.is_finished(path)):
            print_once("finished already")
        else:
            if path in runs:
                log.info("resuming %s", path)
            try:
                run_pipeline(config, data, locks)
            except KeyboardInterrupt:
                if alone and (path / CONFIG_FILE).exists():
                    print_once(f"interrupted; next: {resume.resume_command(path)}\nrun: {path}")
                raise
        next_line = f"next: {command('export', override('run', path.resolve()))}\n" if alone else ""
        print_once(f"{next_line}run: {path}")
        return path


def silence_libraries() -> None:
    """Hide other libraries' messages that do not concern the user; workers of a sweep call this, too."""
    warnings.filterwarnings("ignore", message=".*LeafSpec", module="pytorch_lightning")  # of Lightning's own code
    warnings.filterwarnings("ignore", category=PossibleUserWarning)  # hints for other uses of Lightning
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists")  # always, when a run is resumed
    for name in ("pytorch_lightning", "faiss.loader"):  # devices, tips and the like
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # that a new experiment is new
