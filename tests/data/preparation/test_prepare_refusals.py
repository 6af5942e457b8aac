"""What can't be prepared is refused by a message that says why, and leaves nothing."""

from pathlib import Path
from typing import Any

import pytest
from event_log import PREDEFINED, log
from preparing import Prepare

from twotower.core.errors import UserError
from twotower.data.preparation import splits

REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sessions of length one": ({"session_id": list(range(18))}, {}, "each session has one event"),
    "too small a gap": (
        {"session_id": None, "user_id": [1] * 18},
        {"session_gap_minutes": 5},
        "each session has one event.*is preparation.session_gap_minutes too small",
    ),
    "one item": ({"item_id": [5] * 18}, {}, "1 different items; ranking needs at least 2"),
    "no items": ({"item_id": [None] * 18}, {}, "none of the 18 rows can be used: 18 no item_id"),
    "no times": ({"timestamp": [None] * 18}, {}, "none of the 18 rows can be used: 18 no readable timestamp"),
    "negative times": ({"timestamp": range(-20, -2)}, {}, "none of the 18 rows .*: 18 negative timestamp"),
    "text times": ({"timestamp": ["then"] * 18}, {}, r"18 no readable timestamp \(such as 'then'\). Write all"),
    "no sessions": ({"session_id": None}, {}, "neither a session nor a user column.*user_id=NAME"),
    "ordinal gap": (
        {"session_id": None, "user_id": [1] * 18, "timestamp": range(18)},
        {},
        "no unit, so a gap in minutes can't cut sessions",
    ),
    "negative gap": ({"session_id": None, "user_id": [1] * 18}, {"session_gap_minutes": -1}, "above 0"),
    "text gap": ({"session_id": None, "user_id": [1] * 18}, {"session_gap_minutes": "x"}, "a number above 0"),
    "unit": ({}, {"timestamp_unit": "min"}, "data.timestamp_unit=min; expected auto, s, ms"),
    "no split column": ({}, {"split": PREDEFINED}, "needs a split column: data.columns.split=NAME"),
    "unknown split": (
        {"split": ["train"] * 9 + ["hold-out"] * 9},
        {"split": PREDEFINED},
        "the split column holds 'hold-out'; expected train, validation or test",
    ),
    "no test": (
        {"split": ["train"] * 18},
        {"split": PREDEFINED},
        "split=predefined leaves events of .*'test': 0.*expected some in each part",
    ),
    "unknown test": (
        {"split": ["train"] * 15 + ["test"] * 3, "item_id": [1, 2, 3] * 5 + [7, 8, 9]},
        {"split": PREDEFINED},
        "'test': 0.*Dropped: 3 test event of an item outside the catalogue",
    ),
    "short sessions": ({"session_id": [*range(9)] * 2}, {"split": splits.leave_one_out}, "'test': 0"),
    "one moment": ({"timestamp": [5] * 18}, {}, "of 15 events none is before the test window"),
    "many types": (
        {"event_type": [str(i) for i in range(300)], "item_id": [1, 2] * 150, "timestamp": range(300),
         "session_id": [i // 3 for i in range(300)]},
        {},
        "over 255 event types; is data.columns.event_type right",
    ),
    "misspelt role": ({}, {"columns": {"itm_id": "sku"}}, "did you mean 'item_id'"),
    "misspelt column": ({}, {"columns": {"item_id": "itemid"}}, "no column 'itemid'.*did you mean 'item_id'"),
    "a number as a name": ({}, {"columns": {"item_id": 3}}, "no column '3'"),
    "little memory": ({}, {"memory_gib": 0.1}, "memory_gib=0.1; expected 0.75 or more"),
    "zone": ({}, {"time_zone": "Europe/Berlni"}, "no such zone; did you mean 'Europe/Berlin'"),
    "bounce of what": ({}, {"bounce": {"event_type": "vew", "seconds": 3}}, "no event has the type 'vew'"),
    "bounce how": ({}, {"bounce": {"seconds": 3}}, "expected {event_type: NAME, seconds: NUMBER}"),
    "feature of what": (
        {"device": ["phone"] * 18},
        {"features": {"events": {"devce": {"kind": "categorical"}}}},
        "no column 'devce' in the events.*did you mean 'device'",
    ),
    "item feature of what kind": (
        {},
        {"features": {"items": {"brand": {"kind": "categorial"}}}},
        "items.brand.kind=categorial; expected .*did you mean 'categorical'",
    ),
    "item feature of a name that is taken": (
        {},
        {"features": {"items": {"train_count": {"kind": "price"}}}},
        "items.train_count: the name is taken",
    ),
    "list ids": ({"item_id": [[1]] * 18}, {}, "item_id holds List"),
    "no rows": ({"session_id": [], "item_id": [], "timestamp": []}, {}, "no rows in 1 file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_leave_nothing(prepare: Prepare, tmp_path: Path, case: str) -> None:
    columns, settings, message = REFUSALS[case]
    path = log(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=message):
        prepare(path, **settings)
    assert not list(tmp_path.glob("prepared/*")) and not list(tmp_path.glob("prepared/.*"))


def test_a_header_without_rows(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("session_id,item_id,timestamp\n")
    with pytest.raises(UserError, match=r"a\.csv: no rows in 1 file\(s\)"):
        prepare(tmp_path / "a.csv")


def test_prepared_root_is_a_file(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("")
    with pytest.raises(UserError, match="prepared can't hold folders"):
        prepare(log(tmp_path / "a.parquet"))
