"""Amazon Reviews 2023: reviews, metadata, and the benchmark's CSV files."""

import json
from pathlib import Path
from typing import Any

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers.amazon import read

PAGE = r"amazon-reviews-2023\.github\.io"
REVIEWS = [
    {
        "rating": 5.0,
        "title": "Such a lovely scent 🌸",
        "text": "a\nb",
        "images": [],
        "asin": "B00YQ6X8EO",
        "parent_asin": "B00YQ6X8EO",
    }
    | {"user_id": "AGKHLEW2", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
    {"rating": 4, "title": "", "text": "", "images": [{"small_image_url": "x"}], "asin": "B07", "parent_asin": "B0å"}
    | {"user_id": "AEYORY2A", "timestamp": 1589665266052, "helpful_vote": 2, "verified_purchase": False},
]
EMPTY: dict[str, Any] = {
    "average_rating": 4.8,
    "rating_number": 10,
    "features": [],
    "description": [],
    "images": [],
    "videos": [],
}
METAS = [
    EMPTY
    | {
        "main_category": "All Beauty",
        "title": "Howard, “Gold”",
        "price": None,
        "store": None,
        "categories": [],
        "details": {},
    }
    | {"parent_asin": "B01", "bought_together": None},
    EMPTY
    | {"main_category": None, "title": "B", "price": 14.99, "store": "Yes To", "categories": ["Beauty", "Hair"]}
    | {"details": {"Brand": "x", "Weight": {"g": 1}}, "parent_asin": "B02"},
    EMPTY | {"title": "C", "price": "from 1,299.50", "parent_asin": "B03", "details": "{}"},
    EMPTY | {"title": "D", "price": "—", "parent_asin": "B04"},
]
CSV = "user_id,parent_asin,rating,timestamp\nAGKHLEW2,B00YQ6X8EO,5.0,1588687728923\nAEYORY2A,B0å,4.0,1589665266052\n"
EVENTS = [("AGKHLEW2", "B00YQ6X8EO", 1588687728923, 5.0), ("AEYORY2A", "B0å", 1589665266052, 4.0)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_reviews_and_items(tmp_path: Path, end: str) -> None:
    review = write(tmp_path / f"All_Beauty.jsonl{end}", lines(REVIEWS))
    write(tmp_path / f"meta_All_Beauty.jsonl{end}", lines(METAS))
    for path in (tmp_path, review):
        source = source_of(read, path, items=True)
        assert (source.name, source.unit) == ("All_Beauty", "ms")
        assert source.columns == ["user_id", "item_id", "timestamp", "rating", "verified_purchase"]
        assert events_of(source).rows() == [(*EVENTS[0], "true"), (*EVENTS[1], "false")]
        assert len(source.files) == 2
    assert source.items is not None
    items = source.items().collect()
    assert items.columns == ["item_id", "main_category", "title", "store", "categories", "price"]
    assert items.rows() == [
        ("B01", "All Beauty", "Howard, “Gold”", None, [], None),
        ("B02", None, "B", "Yes To", ["Beauty", "Hair"], 14.99),
        ("B03", None, "C", None, None, 1299.5),
        ("B04", None, "D", None, None, None),
    ]


def test_folders_as_the_page_has_them(tmp_path: Path) -> None:
    write(tmp_path / "review_categories" / "Toys_and_Games.jsonl.gz", lines(REVIEWS))
    write(tmp_path / "meta_categories" / "meta_Toys_and_Games.jsonl.gz", lines(METAS))
    source = source_of(read, tmp_path, items=True)
    assert [file.name for file in source.files] == ["Toys_and_Games.jsonl.gz", "meta_Toys_and_Games.jsonl.gz"]
    assert events_of(source).height == 2


def test_ratings_of_the_benchmark(tmp_path: Path) -> None:
    source = source_of(read, write(tmp_path / "All_Beauty.csv", CSV), items=False)
    assert source.columns == ["user_id", "item_id", "timestamp", "rating"]
    assert events_of(source).rows() == EVENTS
    assert source.items is None


def test_splits_of_the_benchmark(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        text = (
            CSV.replace("\n", ",history\n", 1).replace("0\n", "0,\n").replace("3\n", "3,\n").replace("2\n", "2,B1 B2\n")
        )
        write(tmp_path / f"All_Beauty.{part}.csv", text)
    write(tmp_path / "meta_All_Beauty.jsonl", lines(METAS))
    source = source_of(read, str(tmp_path / "*.csv"), items=True)
    rows = events_of(source).rows()
    assert rows == [(*row, split) for split in ("test", "train", "validation") for row in EVENTS]
    assert len(source.files) == 4


def test_no_split_where_some_files_have_none(tmp_path: Path) -> None:
    for name in ("Toys.train.csv", "Toys.csv"):
        write(tmp_path / name, CSV)
    assert events_of(source_of(read, tmp_path, items=False)).columns == ["user_id", "item_id", "timestamp", "rating"]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no files of a table.* Download the data from {PAGE}; data\.path is"):
        source_of(read, tmp_path, items=True)
    write(tmp_path / "meta_All_Beauty.jsonl", lines(METAS))
    with pytest.raises(UserError, match=rf"expected reviews such as All_Beauty\.jsonl; download them from {PAGE}"):
        source_of(read, tmp_path, items=True)
    write(tmp_path / "Gift_Cards.jsonl", lines(REVIEWS))
    with pytest.raises(UserError, match=rf"no meta_Gift_Cards\.jsonl; download it from {PAGE} \(.*data\.items=false\)"):
        source_of(read, tmp_path, items=True)
    assert events_of(source_of(read, tmp_path, items=False)).height == 2


def test_a_truncated_line(tmp_path: Path) -> None:
    source = source_of(read, write(tmp_path / "A.jsonl.gz", lines(REVIEWS)[:-30]), items=False)
    with pytest.raises(UserError, match=r"A\.jsonl\.gz can't be read as JSON Lines: line 2 is not a JSON object"):
        events_of(source)
