"""RetailRocket: visitors' views, carts and transactions, items' properties over time.

From Kaggle: retailrocket/ecommerce-dataset. Commas, a line with names, milliseconds. events.csv:
timestamp,visitorid,event,itemid,transactionid; item_properties_part1.csv and item_properties_part2.csv:
timestamp,itemid,property,value (numbers as "n12.000"); category_tree.csv: categoryid,parentid.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID, TIMESTAMP, USER_ID, Prepared
from twotower.data.readers.chunks import delimited_file, delimited_frames, integer, prepare_files, small_table
from twotower.data.readers.files import published_file, readable
from twotower.data.readers.source import Prepare

PAGE = "Kaggle: retailrocket/ecommerce-dataset"
TABLES = ("category_tree.csv", "item_properties_part1.csv", "item_properties_part2.csv")
CATEGORY = "categoryid"
BASIC = (CATEGORY, "available")
NUMBER = r"^n-?\d+(\.\d+)?$"
DEEPEST = 32  # levels of the tree


def read(path: str, items: bool, properties: Sequence[str], prepare: Prepare) -> Prepared:
    """Prepare RetailRocket's events: visitors are users; event types are view, addtocart and transaction.

    Items have, from each snapshot on, their categoryid, that category's parentid and rootid in the tree, available
    ("0" or "1"), and the properties asked for: floats where all values are numbers, else text.

    Args:
        path: the folder with events.csv and, unless `items` is false, the other three files.
        items: whether items' properties are read.
        properties: further properties (hashed numbers such as "790") that become columns of the items.
        prepare: what the source is given to.
    """
    events = published_file(path, ["events.csv"], PAGE)
    tables = [published_file(path, [name], PAGE) for name in TABLES] if items else []
    wanted = list(dict.fromkeys([*BASIC, *map(str, properties)]))
    columns = {
        USER_ID: integer("visitorid"),
        ITEM_ID: integer("itemid"),
        TIMESTAMP: integer("timestamp"),
        EVENT_TYPE: pl.col("event"),
    }
    settings = {"reader": "retailrocket", "items": items, "properties": wanted}
    table = partial(_items, tables[0], tables[1:], wanted) if items else None
    return prepare_files(prepare, [delimited_file(events, columns)], settings, unit="ms", tables=tables, items=table)


def _items(tree: Path, parts: Sequence[Path], wanted: Sequence[str]) -> pl.LazyFrame:
    """Return a row for each item and time at which one of its properties was logged, with all known by then."""
    chosen = pl.col("property").is_in(wanted)
    pieces = []
    for part in parts:
        with readable(part):
            pieces += [frame.filter(chosen) for frame in delimited_frames(part)]
    log = pl.concat(pieces)
    missing = [name for name in wanted if name not in set(log["property"].unique())]
    if missing:
        raise UserError(f"no item in {parts[0].parent} has the property '{missing[0]}'; see data.properties")
    values = [pl.col("value").filter(pl.col("property") == name).min().alias(name) for name in wanted]
    wide = log.group_by(integer("itemid").alias(ITEM_ID), integer("timestamp").alias(TIMESTAMP)).agg(values)
    wide = wide.sort(ITEM_ID, TIMESTAMP).with_columns(pl.col(wanted).forward_fill().over(ITEM_ID))
    numbers = [name for name in wanted if wide[name].str.contains(NUMBER).all()]
    wide = wide.with_columns(pl.col(numbers).str.strip_prefix("n").cast(pl.Float64))
    return wide.join(_ancestors(tree), on=CATEGORY, how="left").lazy()


def _ancestors(tree: Path) -> pl.DataFrame:
    """Return each category's parent, and its root: the ancestor without a parent, or the category itself."""
    parents = small_table(tree).select(CATEGORY, "parentid").unique(CATEGORY, maintain_order=True)
    upwards = parents.select(rootid=CATEGORY, above="parentid")
    roots = parents.with_columns(rootid=pl.col(CATEGORY))
    for _ in range(DEEPEST):
        roots = roots.join(upwards, on="rootid", how="left").with_columns(rootid=pl.coalesce("above", "rootid"))
        roots = roots.drop("above")
    return roots
