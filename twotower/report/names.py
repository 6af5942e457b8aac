"""What people call the items. Shapes: V items."""

from pathlib import Path

import pyarrow.parquet as pq

from twotower.schema import CATALOGUE_FILE


def item_names(directory: Path) -> list[str]:
    """[V] ids as text, by row of a prepared or a run directory's catalogue."""
    return [str(name) for name in pq.read_table(directory / CATALOGUE_FILE, columns=["item_id"])["item_id"].to_pylist()]
