"""Diginetica's raw views and purchases, and its products."""

import datetime as dt
from pathlib import Path

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.diginetica import read

FILES = {
    "train-item-views.csv": "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n"
    "1;NA;31331;1031018;2016-05-09\n2;7;32118;90000000;2016-05-09\n",
    "train-purchases.csv": "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n"
    "150;18278;17100868;2016-05-06;16421;25911\n",
    "product-categories.csv": "itemId;categoryId\n81766;1096\n5;12\n",
    "products.csv": "itemId;pricelog2;product.name.tokens\n81766;10;4875,776,56689\n31331;1.5;\n",
}


def folder(path: Path, *without: str, **other: str) -> Path:
    for name, text in (FILES | other).items():
        if name not in without:
            write(path / name, text)
    return path


def at(day: int, *fields: int) -> dt.datetime:
    return dt.datetime(2016, 5, day, *fields, tzinfo=dt.UTC)


EXPECTED = [
    (1, None, 81766, at(9, 0, 8, 46, 309_000), "view"),
    (1, None, 31331, at(9, 0, 17, 11, 18_000), "view"),
    (2, 7, 32118, at(10, 1), "view"),
    (150, 18278, 25911, at(6, 4, 45, 0, 868_000), "purchase"),
]


def test_views_and_purchases(tmp_path: Path) -> None:
    source = source_of(read, folder(tmp_path), purchases=True, items=True)
    assert source.columns == ["session_id", "user_id", "item_id", "timestamp", "event_type"]
    assert events_of(source).rows() == EXPECTED
    assert source.rows >= 4
    assert len(source.files) == 4


def test_names_of_some_copies_and_views_alone(tmp_path: Path) -> None:
    text = FILES["train-item-views.csv"].replace("sessionId;userId;itemId", "session_id;user_id;item_id")
    write(tmp_path / "train-item-views.csv.gz", text)
    source = source_of(read, tmp_path, purchases=False, items=False)
    assert events_of(source).rows() == EXPECTED[:3]
    assert source.items is None


def test_items(tmp_path: Path) -> None:
    source = source_of(read, folder(tmp_path), purchases=False, items=True)
    assert source.items is not None
    assert source.items().collect().sort("item_id").to_dicts() == [
        {"item_id": "31331", "price": 2**1.5, "name_tokens": None, "category": None},
        {"item_id": "5", "price": None, "name_tokens": None, "category": "12"},
        {"item_id": "81766", "price": 1024.0, "name_tokens": ["4875", "776", "56689"], "category": "1096"},
    ]


@pytest.mark.parametrize("name", list(FILES))
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"no {name}; download it from competitions\.codalab\.org/competitions/11161"):
        source_of(read, folder(tmp_path, name), purchases=True, items=True)


def test_odd_lines(tmp_path: Path) -> None:
    views = FILES["train-item-views.csv"]
    folder(tmp_path, **{"train-item-views.csv": f"{views}3;NA;NA;7;2016-05-09\n3;NA;8;NA;2016-05-09\n3;NA;8;7;2016-0"})
    rows = events_of(source_of(read, tmp_path, purchases=False, items=False), ["item_id", "timestamp"]).rows()
    assert rows[3:] == [(None, at(9, 0, 0, 0, 7_000)), (8, None), (8, None)]
    folder(tmp_path, **{"train-item-views.csv": "a;b\n1;2\n"})
    with pytest.raises(UserError, match=r"has no column sessionId or session_id \(it has: a, b\); see"):
        source_of(read, tmp_path, purchases=False, items=False)
