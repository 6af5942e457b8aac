"""The run directory (hand-off 2): which file is called what, for everybody who reads or writes one. Needs no torch.

config.yaml          the resolved configuration
data.json            the prepared directory's manifest and path
catalogue.parquet    item ids by row, with their counts
features.json        how values become codes; item_features.npz: the items' codes, by row
audit.json           what the audit of the data found; card.html: the data card (both where preparation left them)
fitted.json          once an epoch is picked: {"best_epoch", "summary": of the training, "validated": {epoch: metrics}}
histories.json       a sample of validation histories, for the export's proofs and index: {"item_index": [Q][l],
                     "codes": {name of an event input: [Q][l]}}
environment.json     git commit and versions
checkpoints/         refit.safetensors (if asked for), best.safetensors; while it runs, last and refit_last, too
metrics.json         flat results: test/recall_at_20, baseline/item_knn/recall_at_20, ...
assessment.json      the test with intervals, by kind of query: see evaluation.assessment.assess
report.html          all of that to look at
answers.npz          the model's answers to the test's queries: see evaluation.record
train.log

No id of a user or a session is in any of them. Shapes: Q histories, l events each, K event inputs, V items.
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
COPIED = (CATALOGUE_FILE, FEATURES_FILE, ITEM_FEATURES_FILE, AUDIT_FILE, CARD_FILE)  # from the prepared directory
CHECKPOINTS_FOLDER = "checkpoints"
REFIT, BEST, LAST, REFIT_LAST = (f"{name}.safetensors" for name in ("refit", "best", "last", "refit_last"))
CHECKPOINTS = (REFIT, BEST, LAST)  # the first that exists is the run's model


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that is the run's model; raises UserError when there is none yet."""
    for name in CHECKPOINTS:
        if (path / CHECKPOINTS_FOLDER / name).is_file():
            return path / CHECKPOINTS_FOLDER / name
    raise UserError(f"{path} has no checkpoint yet; let training reach its first validation")
