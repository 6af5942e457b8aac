"""Each removed row is counted for one reason."""

from collections import Counter

import polars as pl

from twotower.data.preparation.clean import drop_unusable


def test_each_dropped_row_has_one_reason() -> None:
    rows = [
        ("a", "x", 1, "u", True),  # kept
        (None, None, None, "v", None),  # no consent comes before no item_id
        (None, None, None, "v", True),  # no item_id comes first of these
        ("a", None, -1, "v", True),
        ("a", "x", None, "v", True),
        ("a", "x", -1, "v", True),
        ("a", "x", 1, "w", False),  # erased comes before all
        ("a", "x", 2, "w", True),
        ("a", "x", 0, None, True),  # kept: nobody that could be erased
    ]
    names = ["item_id", "session_id", "timestamp", "user_id", "consent"]
    events = pl.DataFrame(rows, schema=names, orient="row")
    dropped: Counter[str] = Counter(before=1)
    kept = drop_unusable(events, ["item_id", "session_id"], {"w"}, None, dropped)
    assert kept.rows() == [rows[0], rows[-1]]
    assert +dropped == {
        "before": 1,
        "erased at the user's request": 2,
        "no consent": 1,
        "no item_id": 1,
        "no session_id": 1,
        "no readable timestamp": 1,
        "negative timestamp": 1,
    }
