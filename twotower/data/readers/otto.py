"""OTTO: sessions of clicks, carts and orders (kaggle.com/datasets/otto/recsys-dataset, or the Kaggle competition).

JSON Lines (.gz), one session a line: {"session": 1, "events": [{"aid": 2, "ts": milliseconds, "type": "clicks"}, ...]}
in files named train... or test...; labels: {"session": 1, "labels": {"clicks": 2, "carts": [3], "orders": [4]}}.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import EVENT_TYPE, ITEM_ID, SESSION_ID, SPLIT, TIMESTAMP, Prepared
from twotower.data.readers.chunks import RawFile, json_frames, prepare_files
from twotower.data.readers.files import count_about, published_files
from twotower.data.readers.source import Prepare

PAGE = "kaggle.com/datasets/otto/recsys-dataset"
TYPES = ("clicks", "carts", "orders")
EVENTS = {"session": pl.Int64(), "events": pl.List(pl.Struct({"aid": pl.Int64, "ts": pl.Int64, "type": pl.String}))}
LABEL = {"clicks": pl.Int64(), "carts": pl.List(pl.Int64), "orders": pl.List(pl.Int64)}
LABELS = {"session": pl.Int64(), "labels": pl.Struct(LABEL)}
ROOTS = {SESSION_ID: "session", ITEM_ID: "aid", TIMESTAMP: "ts", EVENT_TYPE: "type"}


def read(path: str, prepare: Prepare) -> Prepared:
    """Prepare OTTO's sessions.

    Labels beside the test sessions become events after the session's last one: the click, then the
    carts, then the orders, a millisecond apart. With split=predefined the train files and the given events of test
    sessions are "train", and the labels "test"; without labels all events of the test files are "test". Each label is
    then ranked as one next event with those before it in its history; the competition instead scores one list of 20
    for each type by the share of the set of labels in it, all from the given events. The figures do not compare.

    Args:
        path: one file, or a folder with train*.jsonl, and maybe test*.jsonl and test_labels.jsonl (.gz).
        prepare: what the source is given to.
    """
    given = Path(path).expanduser()
    found = published_files(str(given / "*.jsonl*") if given.is_dir() else path, PAGE)
    if not given.is_dir() and "test" in given.name:
        found += sorted(given.parent.glob("*labels*.jsonl*"))
    labels = [p for p in found if "labels" in p.name]
    files = [p for p in found if p not in labels and not (labels and "full" in p.name)]  # those hold the labels, too
    if not files:
        raise UserError(f"data.path={path}: expected train.jsonl or test.jsonl; download them from {PAGE}")
    tests = [p for p in files if "test" in p.name]
    labels = labels if tests else []
    raw = [RawFile(p, partial(_events, p), _columns("test" if p in tests and not labels else "train")) for p in files]
    raw += [RawFile(p, partial(_labels, p, tests), _columns("test")) for p in labels]
    rows = sum(count_about(p, b'"aid"') for p in files) + sum(count_about(p, b",") for p in labels)
    columns = [*ROOTS, *([SPLIT] if tests else [])]
    return prepare_files(prepare, raw, {"reader": "otto"}, unit="ms", columns=columns, rows=rows)


def _columns(split: str) -> Mapping[str, pl.Expr]:
    return {name: pl.col(source) for name, source in ROOTS.items()} | {SPLIT: pl.lit(split)}


def _events(file: Path, needed: Sequence[str]) -> Iterator[pl.DataFrame]:
    for sessions in json_frames(file, EVENTS):
        yield sessions.filter(pl.col("events").list.len() > 0).explode("events").unnest("events")


def _labels(file: Path, tests: Sequence[Path], needed: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the labels as events in the milliseconds after the last given event of their session."""
    given = [
        sessions.select("session", last=pl.col("events").list.eval(pl.element().struct.field("ts")).list.max())
        for test in tests
        for sessions in json_frames(test, EVENTS)
    ]
    last = pl.concat(given).unique("session", keep="last", maintain_order=True)
    for sessions in json_frames(file, LABELS):
        labels = (
            sessions.unnest("labels").with_columns(pl.concat_list("clicks").list.drop_nulls()).with_row_index("line")
        )
        kinds = [labels.select("line", "session", aid=kind, type=pl.lit(kind)) for kind in TYPES]
        events = pl.concat(kinds).explode("aid").drop_nulls("aid").sort("line", maintain_order=True)
        events = events.join(last, on="session", how="left", maintain_order="left")
        yield events.with_columns(ts=pl.col("last") + pl.int_range(1, pl.len() + 1).over("line"))
