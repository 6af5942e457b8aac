"""Whether a model that a training begins from has learnt from the events that are to test it."""

import logging
from collections.abc import Mapping
from typing import Any

from twotower.audit.findings import format_timestamp
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import ORDINAL
from twotower.runs import layout
from twotower.runs.run import Run, has_learnt_validation

log = logging.getLogger(__name__)


def learnt_until(run: Run) -> int | None:
    """Return the time before which a run's model has learnt from events, its warm starts included; None: not known."""
    split = run.data["split"]
    if split["kind"] != "temporal" or run.data["timestamp_unit"] == ORDINAL:
        return None
    until = int(split["test_start" if has_learnt_validation(run.path) else "validation_start"])
    if not (run.path / layout.WARM_START_FILE).exists():
        return until
    before = read_json(run.path / layout.WARM_START_FILE, "a run directory").get("learnt_until")
    return None if before is None else max(until, before)


def require_unlearnt_test(source: str, until: int | None, manifest: Mapping[str, Any]) -> None:
    """Raise UserError where a model has learnt from the test, and warn where it has from validation, or may have.

    Args:
        source: names the model, for messages.
        until: of learnt_until.
        manifest: of the new data.
    """
    split = manifest["split"]
    if until is None or split["kind"] != "temporal" or manifest["timestamp_unit"] == ORDINAL:
        log.warning(
            "warm_start: whether %s has learnt from this data's test can't be told; its figures hold only if not;"
            " split=temporal tells, on data with times",
            source,
        )
        return
    learnt, *starts = (format_timestamp(t, "ms") for t in (until, split["test_start"], split["validation_start"]))
    if until > split["test_start"]:
        raise UserError(
            f"warm_start: {source} has learnt from events until {learnt}, and this test begins at {starts[0]}: it"
            " would be tested on what it knows. Take a later test (split.test_days=...), or a model that ends before it"
        )
    if until > split["validation_start"]:
        log.warning(
            "warm_start: %s has learnt from events until %s, and validation begins at %s: its figures are too good; "
            "those of the test are not",
            source, learnt, starts[1],
        )  # fmt: skip
