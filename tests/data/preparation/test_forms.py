"""The same events and items in every form of file are prepared to the same arrays and vocabularies, bit by bit."""

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import preparing

from twotower.core.errors import UserError
from twotower.core.schema import FEATURES_FILE, Prepared
from twotower.data.readers import events

START = 1_767_225_600_000
FEATURES: dict[str, Any] = {
    "items": {
        "in_stock": {"kind": "categorical"},
        "size": {"kind": "categorical"},
        "price": {"kind": "price", "buckets": 3},
        "weight": {"kind": "numeric", "standardise": True},
    },
    "events": {
        "is_app": {"kind": "categorical"},
        "depth": {"kind": "categorical"},
        "age": {"kind": "numeric", "edges": [30], "column": "depth"},
    },
}
FLOATS = {"user_id": float, "item_id": float, "event_type": float, "depth": float}


@st.composite
def logs(draw: Callable[..., Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whole ids, types and numbers, with gaps in the features; users of all times, so that every part has events."""
    maybe = st.sampled_from([True, False, None])
    rows = [
        {
            "user_id": user,
            "item_id": draw(st.integers(1, 6)) if step > 2 else step + 1,
            "timestamp": START + 3_600_000 * user + 60_000 * step,
            "event_type": draw(st.integers(1, 2)),
            "is_app": draw(maybe),
            "depth": draw(st.sampled_from([None, 7, 25, 40])),
        }
        for user in range(12)
        for step in range(draw(st.integers(3, 5)))
    ]
    items = [
        {
            "item_id": item,
            "in_stock": draw(maybe),
            "size": draw(st.sampled_from([None, 36.0, 36.5, 9.0, 10.0])),
            "price": draw(st.sampled_from([None, 0.1, 9.99, 20.0, 1e-7])),
            "weight": draw(st.sampled_from([None, 1, 2, 30])),
        }
        for item in [1, 2, 3, 4, 5, 6, draw(st.integers(1, 6))]
    ]
    types = {"is_app": "boolean", "depth": "Int64"}
    return pd.DataFrame(rows).astype(types), pd.DataFrame(items).astype({"in_stock": "boolean", "weight": "Int64"})


def as_csv(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def as_json(frame: pd.DataFrame, path: Path) -> Path:
    rows = [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.astype(object).to_dict("records")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_parquet(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path, index=False)
    return path


def as_texts(frame: pd.DataFrame, path: Path) -> Path:
    """Strings as Python writes them, with the words that pandas has for null."""
    return as_parquet(frame.astype(object).map(lambda v: "nan" if pd.isna(v) else str(v)), path)


def as_floats(frame: pd.DataFrame, path: Path) -> Path:
    """What pandas makes of columns with gaps."""
    return as_parquet(frame.astype({n: t for n, t in FLOATS.items() if n in frame}), path)


FORMS: dict[str, tuple[Callable[[pd.DataFrame, Path], Path], str]] = {
    "csv": (as_csv, "csv"),
    "gzip csv": (as_csv, "csv.gz"),
    "json": (as_json, "jsonl"),
    "typed": (as_parquet, "parquet"),
    "texts": (as_texts, "parquet"),
    "floats": (as_floats, "parquet"),
}


def prepare(folder: Path, form: str, log: pd.DataFrame, items: pd.DataFrame, **settings: Any) -> Prepared:
    write, end = FORMS[form]
    (folder / form).mkdir()
    paths = [write(frame, folder / form / f"{name}.{end}") for name, frame in (("events", log), ("items", items))]
    run = preparing(folder / form / "prepared", **{"features": FEATURES, **settings})
    return events.read(str(paths[0]), {}, "auto", str(paths[1]), None, run)


@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(logs())
@pytest.mark.slow
def test_every_form_has_one_fingerprint(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = {form: prepare(Path(folder), form, *tables) for form in FORMS}
        encoders = {form: (prepared.path / FEATURES_FILE).read_text() for form, prepared in made.items()}
        assert len(set(encoders.values())) == 1, encoders
        assert len({prepared.manifest["fingerprint"] for prepared in made.values()}) == 1
        read = json.loads(encoders["csv"])
    assert read["event_types"] == [str(kind) for kind in sorted(set(tables[0]["event_type"]))]
    assert set(read["items"]["size"]["vocabulary"]) <= {"36", "36.5", "9", "10"}
    assert set(read["events"]["is_app"]["vocabulary"]) <= {"true", "false"}


def log_of(users: int = 12) -> pd.DataFrame:
    rows = [(u, 1 + (u + k) % 6, START + 3_600_000 * u + 60_000 * k, 1) for u in range(users) for k in range(4)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event_type"])


ITEMS = pd.DataFrame({"item_id": [1, 2, 3, 4, 5, 6], "price": ["1", "2", "12,99", "NA", "3", "4"]})
PRICE = {"items": {"price": {"kind": "price", "buckets": 2}}, "events": {}}


@pytest.mark.parametrize(
    ("change", "steps"),
    [(lambda i: f"00{i}", ["zeros"]), (lambda i: f"{i} ", ["strip"]), (lambda i: f" 0{i}.0", ["strip", "zeros"])],
)
def test_ids_are_healed_on_request_and_the_error_says_how(
    tmp_path: Path, change: Callable[[int], str], steps: list[str]
) -> None:
    items = ITEMS.assign(item_id=ITEMS["item_id"].map(change))
    with pytest.raises(UserError, match=rf"0 of 6 items .*preparation.ids=\[{','.join(steps)}\]"):
        prepare(tmp_path, "csv", log_of(), items, features=PRICE)
    (tmp_path / "csv").rename(tmp_path / "failed")
    prepared = prepare(tmp_path, "csv", log_of(), items, features=PRICE, ids=steps)
    assert prepared.manifest["matches"] == ["data.items: 6 of 6 items of the catalogue matched"]
    assert json.loads((prepared.path / FEATURES_FILE).read_text())["values"]["ids"] == steps


def findings(prepared: Prepared) -> dict[str, str]:
    return {f["check"]: f["message"] for f in json.loads((prepared.path / "audit.json").read_text())}


def test_numbers_that_cant_be_read_are_counted_or_read_by_their_setting(tmp_path: Path) -> None:
    found = findings(prepare(tmp_path, "csv", log_of(), ITEMS, features=PRICE))
    assert "1 of 5 values of 'price' are no numbers, such as '12,99'" in found["unreadable_numbers"]
    decimal = {**PRICE, "items": {"price": {"kind": "price", "buckets": 2, "decimal": ","}}}
    prepared = prepare(tmp_path, "typed", log_of(), ITEMS, features=decimal)
    assert "unreadable_numbers" not in findings(prepared)
    assert pl.read_parquet(prepared.path / "catalogue.parquet")["price"].to_list() == [1, 2, 12.99, None, 3, 4]


def test_ids_that_differ_in_little_are_reported(tmp_path: Path) -> None:
    log = log_of().astype({"item_id": str, "user_id": str})
    log.loc[3, "item_id"], log.loc[7, "user_id"] = "1 ", "01"
    prepared = prepare(tmp_path, "csv", log, ITEMS, features={})
    found = [finding["message"] for finding in json.loads((prepared.path / "audit.json").read_text())]
    assert any("item_id differ only by spaces around them, such as '1' and '1 '" in message for message in found)
    assert any("user_id differ only by leading zeros and count" in message for message in found)  # without an id


def test_an_export_day_is_no_time_of_validity(tmp_path: Path) -> None:
    items = ITEMS.assign(timestamp="2027-01-01")
    with pytest.raises(UserError, match=r"0 of 6 .*data.item_columns.timestamp=false"):
        prepare(tmp_path, "csv", log_of(), items, features=PRICE)
    paths = (str(tmp_path / "csv" / "events.csv"), str(tmp_path / "csv" / "items.csv"))
    run = preparing(tmp_path / "prepared", features=PRICE)
    prepared = events.read(paths[0], {}, "auto", paths[1], None, run, {"timestamp": False})
    assert prepared.manifest["matches"] == ["data.items: 6 of 6 items of the catalogue matched"]
    with pytest.raises(UserError, match=r"data.item_columns.price=x; expected"):
        events.read(paths[0], {}, "auto", paths[1], None, run, {"price": "x"})


LISTS = {
    "plain.txt": b"3\n5\n\n7\n",
    "quoted.txt": b'"3"\n"5"\n"7"\n',
    "floats.txt": b"3.0\n5.0\n7.0\n",
    "header.csv": b"user_id;asked\n3;2026-01-01\n5;2026-01-02\n7;\n",
    "gone.csv.gz": gzip.compress(b"asked,user_id\nx,3\nx,5\nx,7\n"),
    "gone.jsonl": b'{"user_id": 3}\n{"user_id": "5"}\n{"user_id": "7.0"}\n',
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("form", ["csv", "floats", "typed"])
def test_an_erase_list_may_have_any_form(tmp_path: Path, name: str, form: str) -> None:
    (tmp_path / name).write_bytes(LISTS[name])
    prepared = prepare(tmp_path, form, log_of(), ITEMS, features={}, erase=str(tmp_path / name))
    assert prepared.manifest["rows"]["dropped"]["erased at the user's request"] == 12
    assert prepared.manifest["matches"] == ["preparation.erase: 3 of 3 listed users matched"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", "0 of 2 listed users matched; 'a' did not, among ids like"),
        ("mail,asked\n3,x\n", "has the columns mail, asked; expected user_id among them"),
        ("003\n005\n", r"0 of 2 .*preparation.ids=\[zeros\]"),
    ],
)
def test_an_erase_list_that_erases_nobody_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path, "typed", log_of(), ITEMS, features={}, erase=str(tmp_path / "list.txt"))
