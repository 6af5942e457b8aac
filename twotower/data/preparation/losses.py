"""Which rows were left out, by reason, and of which file, event type or other group: for the audit.

Shapes: E rows. Memory: a few counts for each group; a column of more than MOST_GROUPS values has none.
"""

from collections import Counter
from typing import Any

import polars as pl

MOST_GROUPS = 100  # values of a column; more are no groups, but ids or numbers
SAMPLES = 3  # values kept for each reason
FEW = 0.01  # share of a group below which a reason is not noted


class Losses:
    """Counts of rows and of lost rows, by reason and group.

    >>> losses = Losses()
    >>> rows = pl.DataFrame({"event_type": ["view", "buy", "buy"], "timestamp": ["1", "2", "31/12/25"]})
    >>> losses.add_rows(rows, ["event_type"])
    >>> losses.add_lost("no readable timestamp", rows[2:], "timestamp")
    >>> losses.as_json()["groups"]
    {'event_type': {'buy': {'rows': 2, 'lost': {'no readable timestamp': 1}}}}
    """

    def __init__(self) -> None:
        self._rows: dict[str, Counter[str]] = {}
        self._lost: dict[str, dict[str, Counter[str]]] = {}  # reason -> column -> value
        self._samples: dict[str, dict[str, None]] = {}  # reason -> values, in the order of their appearance

    @property
    def state(self) -> dict[str, Any]:
        """All counts and samples, as JSON."""
        return {"rows": self._rows, "lost": self._lost, "samples": self._samples}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Losses":
        """Return the losses of this `state`."""
        losses = cls()
        losses._rows = {column: Counter(counts) for column, counts in state["rows"].items()}
        losses._lost = {
            reason: {column: Counter(counts) for column, counts in columns.items()}
            for reason, columns in state["lost"].items()
        }
        losses._samples = state["samples"]
        return losses

    def add_rows(self, rows: pl.DataFrame, columns: list[str]) -> None:
        """Count all rows [E] that were read, by the values of these columns."""
        for column in columns:
            counts = self._rows.setdefault(column, Counter())
            if len(counts) <= MOST_GROUPS:  # else they are never used
                counts.update(_counts(rows[column]))

    def add_lost(self, reason: str, rows: pl.DataFrame, sample: str | None = None) -> None:
        """Count lost rows [E]; of the column `sample` keep some values."""
        lost = self._lost.setdefault(reason, {})
        for column, counts in self._rows.items():
            if len(counts) <= MOST_GROUPS:
                lost.setdefault(column, Counter()).update(_counts(rows[column]))
        kept = self._samples.setdefault(reason, {})
        if sample and len(kept) < SAMPLES:
            values = rows[sample].drop_nulls().head(10_000).cast(pl.String).unique(maintain_order=True)
            kept.update(dict.fromkeys(values.head(SAMPLES - len(kept)).to_list()))

    def as_json(self) -> dict[str, Any]:
        """Return the samples by reason, and the groups that lost more than FEW of their rows for a reason."""
        groups: dict[str, dict[str, Any]] = {}
        for reason, columns in self._lost.items():
            for column, counts in columns.items():
                rows = self._rows[column]
                for value, count in sorted(counts.items()) if len(rows) <= MOST_GROUPS else ():
                    if count > FEW * rows[value]:
                        group = groups.setdefault(column, {}).setdefault(value, {"rows": rows[value], "lost": {}})
                        group["lost"][reason] = count
        return {"samples": {reason: list(values) for reason, values in self._samples.items()}, "groups": groups}


def _counts(column: pl.Series) -> dict[str, int]:
    """Rows by value; more values than MOST_GROUPS are too many anyway."""
    counts = column.rename("value").drop_nulls().value_counts(name="rows").head(MOST_GROUPS + 1)
    return {str(value): rows for value, rows in counts.iter_rows()}
