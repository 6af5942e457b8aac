"""Item names for people. Shapes: V items."""

from pathlib import Path

import pyarrow.parquet as pq

from twotower.core.schema import CATALOGUE_FILE, ITEM_ID, ITEM_NAME, ITEMS_FILE


def item_names(directory: Path) -> list[str]:
    """Return [V] `NAME [ID]`, or ids without names, by row of the catalogue of a prepared directory, run or bundle."""
    file = next(directory / name for name in (CATALOGUE_FILE, ITEMS_FILE) if (directory / name).exists())
    table = pq.read_table(file, columns=[n for n in (ITEM_ID, ITEM_NAME) if n in pq.read_schema(file).names])
    ids = map(str, table[ITEM_ID].to_pylist())
    if ITEM_NAME not in table.column_names:
        return list(ids)
    names = table[ITEM_NAME].to_pylist()
    return [item if name is None else f"{name} [{item}]" for item, name in zip(ids, names, strict=True)]
