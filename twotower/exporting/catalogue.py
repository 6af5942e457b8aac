"""The run's catalogue as the columns of items.parquet. Shapes: V items."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.schema import AGE_DAYS, CATALOGUE_FILE, ITEM_ID, TRAIN_COUNT


def read_catalogue(run_path: Path, num_items: int) -> pa.Table:
    """Return the columns [V] of items.parquet but the vectors, with ids as int64 or string.

    Raises:
        UserError: the run's catalogue is missing, damaged or does not have `num_items` items.
    """
    file = run_path / CATALOGUE_FILE
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); copy the run again, or train again") from None
    if table.num_rows != num_items:
        raise UserError(f"{file} has {table.num_rows} items, the run's model {num_items}; train again")
    small = {pa.large_string(): pa.string(), pa.large_list(pa.large_string()): pa.list_(pa.string())}
    table = table.cast(pa.schema([pa.field(field.name, small.get(field.type, field.type)) for field in table.schema]))
    ids = table[ITEM_ID]
    id_type = pa.int64() if pa.types.is_integer(ids.type) else pa.string()
    columns = {ITEM_ID: ids.cast(id_type).combine_chunks(), TRAIN_COUNT: table[TRAIN_COUNT].cast(pa.int64())}
    has_age = AGE_DAYS in table.column_names  # older runs lack it
    columns[AGE_DAYS] = table[AGE_DAYS].cast(pa.int64()) if has_age else pa.nulls(len(ids), pa.int64())
    return pa.table(columns | {name: table[name] for name in table.column_names if name not in columns})
