"""Events that may not be used: of users who asked for erasure, and without consent."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import CONSENT, CONSENT_VALUES, NO_CONSENT_VALUES, USER_ID
from twotower.core.table_files import JSON_LINES, PARQUET, file_format, open_bytes, separator_of
from twotower.core.values import TextForm
from twotower.data.readers.feature_table import scan_table
from twotower.data.readers.files import readable
from twotower.data.text_form import ids


def read_erased_users(path: str | None, column: str | None, form: TextForm) -> frozenset[str]:
    """Read the user ids of the erase list, none without a path.

    Args:
        path: text with one id a line, or a table with a column of users: CSV, Parquet or JSON Lines.
        column: the events' name for users, which the table may have, too.
        form: how texts are read.

    Raises:
        UserError: the file can't be read, or it is a table without a column of users.
    """
    if path is None:
        return frozenset()
    file = Path(path).expanduser()
    try:
        if file_format(file) in (PARQUET, JSON_LINES):
            with readable(file):
                table = scan_table(file).collect()
            users = table[_column_of(table.columns, path, column)]
        else:
            with open_bytes(file) as raw:
                lines = raw.read().decode("utf-8-sig").splitlines()
            users = _users_of_lines(lines, path, column)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"preparation.erase={path} can't be read ({error}); expected text with one user id a line, or a table"
        ) from None
    return frozenset(ids(users, form).drop_nulls())


def _users_of_lines(lines: list[str], path: str, column: str | None) -> pl.Series:
    separator = separator_of(next(filter(str.strip, lines), ""))
    rows = [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
    names = [name.strip() for name in rows[0]] if rows else []
    place = 0
    if {USER_ID, column} & set(names) or any(len(row) > 1 for row in rows):
        place = names.index(_column_of(names, path, column))
        rows = rows[1:]
    return pl.Series(USER_ID, [row[place].strip() for row in rows if len(row) > place], pl.String)


def _column_of(names: Sequence[str], path: str, column: str | None) -> str:
    for name in (column, USER_ID):
        if name in names:
            return str(name)
    raise UserError(
        f"preparation.erase={path} has the columns {', '.join(names)}; expected {column or USER_ID} among them, "
        "or one id a line, in quotes where it holds commas"
    )


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
