"""Yoochoose, RecSys Challenge 2015: clicks and buys of sessions (recsys.acm.org/recsys15/challenge).

yoochoose-clicks.dat: session,timestamp,item,category; yoochoose-buys.dat: session,timestamp,item,price,quantity.
Commas, no line with names, times such as 2014-04-07T10:51:09.277Z; a category is 0 (unknown), S (special offer), 1 to
12, or a brand's number.
"""

import polars as pl

from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, TIMESTAMP, Prepared
from twotower.data.readers.chunks import delimited_file, integer, prepare_files, utc_time
from twotower.data.readers.files import published_file
from twotower.data.readers.source import Prepare

PAGE = "recsys.acm.org/recsys15/challenge (also Kaggle: chadgostopp/recsys-challenge-2015)"
CLICKS = ("session", "time", "item", "category")
BUYS = ("session", "time", "item", "price", "quantity")
FURTHER = {"category": pl.String(), "price": pl.Int64(), "quantity": pl.Int64()}


def read(path: str, buys: bool, prepare: Prepare) -> Prepared:
    """Prepare Yoochoose's sessions: clicks have the type view, buys the type purchase.

    `category` (of clicks), `price` and `quantity` (of buys) are further columns, null for the other type and where they
    are 0, which means unknown.

    Args:
        path: the folder with yoochoose-clicks.dat and, unless `buys` is false, yoochoose-buys.dat.
        buys: whether to read the buys, too.
        prepare: what the source is given to.
    """
    kinds = {"yoochoose-clicks.dat": (CLICKS, "view")} | ({"yoochoose-buys.dat": (BUYS, "purchase")} if buys else {})
    raw = []
    for name, (names, kind) in kinds.items():
        columns = {
            SESSION_ID: integer("session"),
            ITEM_ID: integer("item"),
            TIMESTAMP: utc_time("time", "%Y-%m-%dT%H:%M:%S%.fZ"),
            EVENT_TYPE: pl.lit(kind),
        }
        for further, dtype in FURTHER.items():
            known = pl.col(further) if further in names else pl.lit(None, pl.String)
            columns[further] = pl.when(known != "0").then(known).cast(dtype, strict=False)
        raw.append(delimited_file(published_file(path, [name], PAGE), columns, names=names))
    return prepare_files(prepare, raw, {"reader": "yoochoose", "buys": buys})
