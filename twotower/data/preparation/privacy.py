"""Events that may not be used: of users who asked for erasure, and without consent."""

from collections.abc import Collection
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import CONSENT, CONSENT_VALUES, NO_CONSENT_VALUES, USER_ID


def read_erased_users(path: str | None) -> frozenset[str]:
    """Read the user ids of the erase list, a text file with one id a line; none without a path."""
    if path is None:
        return frozenset()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"preparation.erase={path} can't be read ({error}); expected text, one user id a line"
        ) from None
    return frozenset(line.strip() for line in lines if line.strip())


def not_erased(users: Collection[str]) -> pl.Expr:
    """Rows whose user is not among `users`, which are compared as text; rows without a user remain."""
    erased = pl.col(USER_ID).cast(pl.String).is_in(pl.Series(sorted(users)).implode())
    return ~erased.fill_null(False)


def with_consent() -> pl.Expr:
    """Rows whose consent column holds one of schema.CONSENT_VALUES."""
    return _consent().is_in(CONSENT_VALUES).fill_null(False)


def consent_understood() -> pl.Expr:
    """Rows whose consent column is null or holds one of schema.CONSENT_VALUES or NO_CONSENT_VALUES."""
    return _consent().is_in((*CONSENT_VALUES, *NO_CONSENT_VALUES)).fill_null(True)


def _consent() -> pl.Expr:
    return pl.col(CONSENT).cast(pl.String).str.strip_chars().str.to_lowercase()
