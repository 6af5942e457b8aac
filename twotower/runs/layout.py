"""File names of the run directory (hand-off 2), for every module that writes or reads one; imports no torch.

config.yaml          resolved configuration
data.json            manifest and path of the prepared directory
catalogue.parquet    item ids by row, with their counts
features.json        how feature values become codes; item_features.npz: the items' codes by row
audit.json           findings of the data audit; card.html: the data card (both copied from the prepared directory)
fitted.json          the picked epoch: {"best_epoch", "summary": of training, "validated": {epoch: metrics}}
histories.json       sample of validation histories for the export's parity checks and index choice:
                     {"item_index": [Q][l], "codes": {event input: [Q][l]}}, and in "test" a sample of the test's
                     queries for its figures: the same, "target": [Q] item_index and "session": [Q]
environment.json     git commit and package versions
checkpoints/         refit.safetensors (with refit=true), best.safetensors; until the run is finished also last and
                     refit_last, each with the one before it as previous_*, and initial.safetensors of a warm start
warm_start.json      of a warm start: from which run, and what of it was kept, is new or gone
metrics.json         flat results: test/recall_at_20, baseline/item_knn/recall_at_20, ...
assessment.json      evaluation with intervals and slices
report.html          the same as a page
answers.npz          per-query ranking results: see evaluation.results_file
train.log
.lock                until the run is finished

None of them holds an id of a user or a session. Shapes: Q histories, l events each.
"""

from pathlib import Path

from twotower.core.errors import UserError
from twotower.core.schema import AUDIT_FILE, CARD_FILE, CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE

CONFIG_FILE = "config.yaml"
FITTED_FILE = "fitted.json"
DATA_FILE = "data.json"
HISTORIES_FILE = "histories.json"
METRICS_FILE = "metrics.json"
ASSESSMENT_FILE = "assessment.json"
REPORT_FILE = "report.html"
ENVIRONMENT_FILE = "environment.json"
WARM_START_FILE = "warm_start.json"
LOCK_FILE = ".lock"
COPIED = (CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE, AUDIT_FILE, CARD_FILE)  # from the prepared directory
CHECKPOINTS_FOLDER = "checkpoints"
REFIT, BEST, LAST, REFIT_LAST = (f"{name}.safetensors" for name in ("refit", "best", "last", "refit_last"))
INITIAL = "initial.safetensors"
CHECKPOINTS = (REFIT, BEST, LAST)  # the first that exists holds the run's model


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that holds the run's model; raises UserError where there is none yet."""
    for name in CHECKPOINTS:
        if (path / CHECKPOINTS_FOLDER / name).is_file():
            return path / CHECKPOINTS_FOLDER / name
    raise UserError(f"{path} has no checkpoint yet; let training reach its first validation")
