"""What people call the items. Shapes: V items."""

from pathlib import Path

import pyarrow.parquet as pq

from twotower.schema import CATALOGUE_FILE, ITEMS_FILE


def item_names(directory: Path) -> list[str]:
    """[V] ids as text, by row of the catalogue of a prepared directory, a run or a bundle."""
    file = next(directory / name for name in (CATALOGUE_FILE, ITEMS_FILE) if (directory / name).exists())
    return [str(name) for name in pq.read_table(file, columns=["item_id"])["item_id"].to_pylist()]
