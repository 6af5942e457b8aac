"""The audit: faults of prepared data that make results wrong, found before a model learns from it.

Errors block training, warnings print; both are kept in audit.json and shown in the data card.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from twotower.audit.findings import CHECKS, ORDINAL, Finding
from twotower.audit.leakage import check_contexts, check_split, check_statistics
from twotower.audit.measure import measure
from twotower.audit.plausibility import check_clocks, check_coverage, check_rows, check_sessions
from twotower.core.errors import UserError, nearest
from twotower.core.files import read_json
from twotower.core.schema import AUDIT_FILE, CARD_FILE, Prepared

log = logging.getLogger(__name__)
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)


def audit(prepared: Prepared, statistics: Mapping[str, Any], today: date | None = None) -> list[Finding]:
    """Check prepared data; nothing is repaired.

    Args:
        prepared: its arrays are read in blocks.
        statistics: what preparation counted, see STATISTICS_FILE.
        today: no event should be later than tomorrow; None: what the computer's clock says.

    Returns:
        The findings, as plain JSON, in the order of CHECKS.
    """
    today = today or datetime.now(UTC).date()
    latest = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=2)
    measures = measure(
        prepared, statistics["split"], earliest=int(EARLIEST.timestamp()) * 1000, latest=int(latest.timestamp()) * 1000
    )
    findings = [
        *check_split(measures, statistics),
        *check_statistics(prepared, measures),
        *check_contexts(measures.contexts),
        *check_rows(statistics),
        *check_sessions(statistics),
        *(check_clocks(measures, statistics) if statistics["timestamp_unit"] != ORDINAL else ()),
        *check_coverage(measures, statistics),
    ]
    order = list(CHECKS)
    return sorted(findings, key=lambda finding: order.index(finding["check"]))


def require_sound(prepared: Prepared, accept: Iterable[str] | None = ()) -> None:
    """Print the warnings of the audit of a prepared directory, and refuse to go on where it found errors.

    Args:
        prepared: its AUDIT_FILE holds the findings.
        accept: checks whose errors count as warnings.

    Raises:
        UserError: there are errors, or `accept` holds what is no check.
    """
    accepted = [accept] if isinstance(accept, str) else list(accept or ())
    for name in accepted:
        if name not in CHECKS:
            expected = f"expected some of {', '.join(CHECKS)}{nearest(str(name), CHECKS)}"
            raise UserError(f"accept: there is no check '{name}'; {expected}")
    findings: list[Finding] = read_json(prepared.path / AUDIT_FILE, "a prepared directory")
    errors = [finding for finding in findings if finding["level"] == "error" and finding["check"] not in accepted]
    for finding in findings:
        if finding not in errors:
            log.warning("%s: %s", finding["check"], finding["message"])
    if errors:
        raise UserError(
            "the audit of the data found errors, which make results wrong:\n"
            + "".join(f"  {finding['check']}: {finding['message']}\n" for finding in errors)
            + f"the whole picture: {prepared.path / CARD_FILE}\n"
            + f"to go on regardless: 'accept=[{','.join(dict.fromkeys(finding['check'] for finding in errors))}]'"
        )
