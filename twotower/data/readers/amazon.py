"""Amazon Reviews 2023 (amazon-reviews-2023.github.io): reviews and item metadata of one category.

Reviews, JSON Lines (.gz): {"rating", "title", "text", "images", "asin", "parent_asin", "user_id", "timestamp" in
milliseconds, "verified_purchase", "helpful_vote"}; or the benchmark's CSV user_id,parent_asin,rating,timestamp:
All_Beauty.csv, or All_Beauty.train.csv, .valid.csv and .test.csv. Items, meta_All_Beauty.jsonl (.gz): {"main_category",
"title", "average_rating", "rating_number", "features", "description", "price" (null, a number or text), "images",
"videos", "store", "categories", "details", "parent_asin", "bought_together"}.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import ITEM_ID, SPLIT, TIMESTAMP, USER_ID, Prepared
from twotower.core.table_files import CSV, file_format
from twotower.data.readers.chunks import RawFile, delimited_file, integer, json_frames, number, prepare_files
from twotower.data.readers.files import published_file, published_files, readable
from twotower.data.readers.source import Prepare

PAGE = "amazon-reviews-2023.github.io"
PARTS = {"train": "train", "valid": "validation", "test": "test"}
META = {
    "parent_asin": pl.String(),
    "main_category": pl.String(),
    "title": pl.String(),
    "store": pl.String(),
    "categories": pl.List(pl.String),
    "price": pl.String(),
}


def read(path: str, items: bool, prepare: Prepare) -> Prepared:
    """Prepare reviews: an event is a review, its item the parent_asin.

    Events have rating and, from JSON Lines, verified_purchase. Items have main_category, title, store, categories (a
    list) and price, but not average_rating and rating_number, which count the test's reviews, too. Files named
    .train.csv, .valid.csv and .test.csv give a split column.

    Args:
        path: a file, a folder or a glob of reviews.
        items: whether to read meta_CATEGORY.jsonl, beside the reviews or elsewhere in the folder.
        prepare: what the source is given to.
    """
    found = published_files(path, PAGE)
    files = [file for file in found if not file.name.startswith("meta_")]
    if not files:
        raise UserError(f"data.path={path}: expected reviews such as All_Beauty.jsonl; download them from {PAGE}")
    metas = list(dict.fromkeys(_meta(file, found) for file in files)) if items else []
    parts = [PARTS.get(file.name.split(".")[1]) for file in files]
    csv = file_format(files[0]) == CSV
    columns = {
        USER_ID: pl.col("user_id"),
        ITEM_ID: pl.col("parent_asin"),
        TIMESTAMP: integer("timestamp"),
        "rating": number("rating"),
    }
    columns |= {} if csv else {"verified_purchase": pl.col("verified_purchase")}
    raw = []
    for file, part in zip(files, parts, strict=True):
        of_file = columns | ({SPLIT: pl.lit(part)} if all(parts) else {})
        raw.append(delimited_file(file, of_file) if csv else RawFile(file, partial(_reviews, file), of_file))
    table = partial(_items, metas) if metas else None
    settings = {"reader": "amazon", "items": items}
    return prepare_files(prepare, raw, settings, unit="ms", name=_category(files[0]), tables=metas, items=table)


def _category(file: Path) -> str:
    return file.name.split(".")[0]


def _meta(file: Path, found: Sequence[Path]) -> Path:
    name = f"meta_{_category(file)}.jsonl"
    folders = [meta.parent for meta in found if meta.name.startswith(name)]
    return published_file([*folders, file.parent][0], [name], f"{PAGE} (or set data.items=false)")


def _reviews(file: Path, needed: Sequence[str]) -> Iterator[pl.DataFrame]:
    return json_frames(file, dict.fromkeys(needed, pl.String()))


def _items(metas: Sequence[Path]) -> pl.LazyFrame:
    frames = []
    for file in metas:
        with readable(file):
            frames += list(json_frames(file, META))
    price = pl.col("price").str.replace_all(",", "", literal=True).str.extract(r"(\d+(?:\.\d+)?)")
    return pl.concat(frames).rename({"parent_asin": ITEM_ID}).with_columns(price=price.cast(pl.Float64)).lazy()
