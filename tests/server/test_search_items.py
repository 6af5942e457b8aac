"""The catalogue's search against a loop over its texts."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from twotower.server.search_items import ItemSearch

WORDS = st.lists(st.sampled_from(["Red", "blue", "SHOE", "Ünï", "<b>", "%", "a\\b"]), max_size=3)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), WORDS)
def test_finds_items_that_have_all_words(texts: list[tuple[list[str], list[str]]], asked: list[str]) -> None:
    table = pa.table(
        {
            "item_id": pa.array(range(len(texts)), pa.int64()),
            "train_count": pa.array([7 * number % 5 for number in range(len(texts))], pa.int64()),
            "name": pa.array([" ".join(name) or None for name, _ in texts], pa.string()),
            "tags": pa.array([tags for _, tags in texts], pa.list_(pa.string())),
        }
    )
    found, total = ItemSearch(table).search(" ".join(asked), 100)
    expected = {
        number
        for number, (name, tags) in enumerate(texts)
        if all(word.lower() in f"{number} {' '.join(name)} {' '.join(tags)}".lower() for word in asked)
    }
    assert {row["item_id"] for row in found} == expected and total == len(expected)
    assert sorted(-row["train_count"] for row in found) == [-row["train_count"] for row in found]
