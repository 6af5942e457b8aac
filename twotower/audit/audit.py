"""The audit: faults of prepared data that make results wrong, found before a model is trained on them.

Errors block training, warnings are logged; both are kept in audit.json and shown in the data card.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from twotower.audit.findings import CHECKS, Finding
from twotower.audit.leakage import check_contexts, check_split, check_statistics
from twotower.audit.losses import check_losses, check_unlisted
from twotower.audit.measure import measure
from twotower.audit.plausibility import check_clocks, check_coverage, check_rows, check_sessions, check_values
from twotower.core.errors import UserError, nearest
from twotower.core.files import read_json
from twotower.core.schema import AUDIT_FILE, CARD_FILE, ORDINAL, Prepared

log = logging.getLogger(__name__)
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)


def audit(prepared: Prepared, statistics: Mapping[str, Any], today: date | None = None) -> list[Finding]:
    """Check prepared data; nothing is changed.

    Args:
        prepared: its arrays are read in blocks.
        statistics: counts of the preparation, see STATISTICS_FILE.
        today: no event should be later than tomorrow; None: the current date.

    Returns:
        The findings, as plain JSON, in the order of CHECKS.
    """
    today = today or datetime.now(UTC).date()
    latest = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=2)
    earliest_ms, latest_ms = (int(time.timestamp()) * 1000 for time in (EARLIEST, latest))
    measures = measure(prepared, statistics["split"], earliest=earliest_ms, latest=latest_ms)
    findings = [
        *check_split(measures, statistics),
        *check_statistics(prepared, measures),
        *check_contexts(measures.contexts),
        *check_rows(statistics),
        *check_losses(statistics),
        *check_unlisted(statistics),
        *check_values(statistics),
        *check_sessions(statistics),
        *(check_clocks(measures, statistics) if statistics["timestamp_unit"] != ORDINAL else ()),
        *check_coverage(measures, statistics),
    ]
    order = list(CHECKS)
    return sorted(findings, key=lambda finding: order.index(finding["check"]))


def require_sound(prepared: Prepared, accept: Iterable[str] | None = ()) -> None:
    """Log the warnings in the AUDIT_FILE of a prepared directory, and raise UserError if there are errors.

    Args:
        prepared: the directory.
        accept: checks whose errors count as warnings.

    Raises:
        UserError: there are errors, or `accept` names a check that does not exist.
    """
    accepted = [accept] if isinstance(accept, str) else list(accept or ())
    for name in accepted:
        if name not in CHECKS:
            hint = nearest(str(name), CHECKS)
            raise UserError(f"accept: there is no check '{name}'; expected one of {', '.join(CHECKS)}{hint}")
    findings: list[Finding] = read_json(prepared.path / AUDIT_FILE, "a prepared directory")
    errors = [finding for finding in findings if finding["level"] == "error" and finding["check"] not in accepted]
    for finding in findings:
        if finding not in errors:
            log.warning("%s: %s", finding["check"], finding["message"])
    if errors:
        raise UserError(
            "the audit of the data found errors, which make results wrong:\n"
            + "".join(f"  {finding['check']}: {finding['message']}\n" for finding in errors)
            + f"all findings: {prepared.path / CARD_FILE}\n"
            + f"to train regardless: 'accept=[{','.join(dict.fromkeys(finding['check'] for finding in errors))}]'"
        )
