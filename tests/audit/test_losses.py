"""Rows that preparation dropped: counted by reason and group as by a plain loop, and found where they are many."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from preparing import Prepare

from twotower.audit.audit import require_sound
from twotower.audit.losses import check_losses
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import AUDIT_FILE, CONSENT_VALUES, NO_CONSENT_VALUES, STATISTICS_FILE, open_prepared

START = 1_767_225_600_000


def shop(**columns: Any) -> list[dict[str, Any]]:
    """400 events of 50 users, eight each within an hour; without any fault."""
    rng = random.Random(3)
    return [
        {
            "user_id": f"u{user}",
            "item_id": rng.randrange(20),
            "timestamp": str(START + user * 7_200_000 + step * 300_000),
            "event_type": "buy" if step == 7 else "view",
            **{name: value(user, step) for name, value in columns.items()},
        }
        for user in range(50)
        for step in range(8)
    ]


@pytest.fixture
def found(prepare: Prepare, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """The audit's findings on rows, which are split into files by `file`; the prepared directory is `found`."""

    def run(rows: list[dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
        folder = tmp_path / "events"
        folder.mkdir()
        files = defaultdict(list)
        for row in rows:
            files[row.pop("file", "a")].append(row)
        for name, part in files.items():
            pl.DataFrame(part).write_parquet(folder / f"{name}.parquet")
        directory = prepare(folder, **settings).rename(tmp_path / "found")
        findings: list[dict[str, Any]] = read_json(directory / AUDIT_FILE, "")
        return [finding for finding in findings if finding["check"] in ("rows_dropped", "days_without_time")]

    return run


def spoil(rows: list[dict[str, Any]], column: str, value: Any, which: Callable[[int, dict[str, Any]], bool]) -> None:
    for number, row in enumerate(rows):
        if which(number, row):
            row[column] = value


@pytest.mark.parametrize(
    ("every", "column", "value", "level", "words"),
    [
        (3, "timestamp", "31.01.2026", "warning", ["134 of 400 rows (33.5%)", "(such as '31.01.2026')"]),
        (2, "timestamp", "soon", "error", ["200 of 400 rows (50.0%)", "'soon'", "data.timestamp_unit"]),
        (7, "event_type", None, "warning", ["58 of 400 rows", "no event_type", "data.columns.event_type=false"]),
        (2, "event_type", None, "error", ["200 of 400 rows", "no event_type"]),
        (9, "item_id", None, "warning", ["45 of 400 rows", "no item_id", "data.columns.item_id=NAME"]),
    ],
)  # fmt: skip
def test_many_dropped_rows_are_found(
    found: Callable[..., Any], every: int, column: str, value: Any, level: str, words: list[str]
) -> None:
    rows = shop()
    spoil(rows, column, value, lambda number, row: number % every == 0)
    first = found(rows)[0]
    assert (first["check"], first["level"]) == ("rows_dropped", level)
    assert all(word in first["message"] for word in words), first["message"]


def test_few_dropped_rows_are_not(found: Callable[..., Any]) -> None:
    rows = shop()
    spoil(rows, "event_type", None, lambda number, row: number % 25 == 0)  # 4 %
    assert found(rows) == []


@pytest.mark.parametrize(
    ("fault", "which", "group", "level"),
    [
        ({"timestamp": "?"}, lambda n, row: row["event_type"] == "buy" and n % 3 == 0, "event_type 'buy'", "warning"),
        ({"item_id": None}, lambda n, row: row["file"] == "late", "late.parquet'", "error"),
        ({"timestamp": "?"}, lambda n, row: row["device"] == "tv", "device 'tv'", "error"),
    ],
)  # fmt: skip
def test_a_group_that_loses_many_is_named(
    found: Callable[..., Any], fault: dict[str, Any], which: Callable[[int, Any], bool], group: str, level: str
) -> None:
    """Of all rows it is less than one in twenty."""
    rows = shop(
        file=lambda user, step: "late" if user > 47 else "early",
        device=lambda user, step: "tv" if user in (3, 9) else "phone",
    )
    for number, row in enumerate(rows):
        row.update(fault if which(number, row) else {})
    findings = found(rows, features={"events": {"device": {"kind": "categorical"}}})
    assert [finding["level"] for finding in findings] == [level]
    assert group in findings[0]["message"]


def test_consent_in_other_words(found: Callable[..., Any]) -> None:
    rows = shop(consent=lambda user, step: ("opt_in", "yes", "no", "NO ", None)[user % 5])
    (finding,) = found(rows)
    assert finding["message"].startswith(
        "80 of 400 rows (20.0%) were dropped: consent that is neither yes nor no (such as 'opt_in')"
    )
    assert "data.columns.consent=false" in finding["message"]
    assert not set(CONSENT_VALUES) & set(NO_CONSENT_VALUES)


def test_no_usable_row_names_the_values_and_the_remedy(prepare: Prepare, tmp_path: Path) -> None:
    pl.DataFrame(shop(consent=lambda user, step: "marketing-v2")).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"none of the 400 rows .*'marketing-v2'.*data\.columns\.consent=false"):
        prepare(tmp_path / "a.parquet")


def test_an_error_can_be_accepted(found: Callable[..., Any], tmp_path: Path) -> None:
    rows = shop()
    spoil(rows, "event_type", None, lambda number, row: number % 2 == 0)
    found(rows)
    prepared = open_prepared(tmp_path / "found")
    with pytest.raises(UserError, match=r"accept=\[rows_dropped\]"):
        require_sound(prepared)
    require_sound(prepared, ["rows_dropped"])


def test_days_without_time(found: Callable[..., Any]) -> None:
    rows = [
        {"user_id": user, "item_id": (user + day + n // 2) % 9, "timestamp": f"2026-01-{day + 1:02d}"}
        for user in range(30)
        for day in range(user % 3, 28, 3)
        for n in range(4)
    ]
    twice = sum(range(user % 3, 28, 3).__len__() * 2 for user in range(30))  # each item of a day comes twice
    dropped, days = found(rows)
    assert f"{twice:,} of {len(rows):,} rows (50.0%) were dropped: duplicate of another row" in dropped["message"]
    assert f"{twice:,} rows were left out as duplicates" in days["message"]


def test_counts_are_those_of_a_loop(found: Callable[..., Any], tmp_path: Path) -> None:
    rng = random.Random(5)
    rows = shop(file=lambda user, step: f"part{rng.randrange(3)}")
    for row in rows:
        for column, value in (("item_id", None), ("timestamp", "x"), ("event_type", None)):
            if rng.random() < 0.1:
                row[column] = value
    lost: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    size: Counter[tuple[str, str]] = Counter()
    for row in rows:
        groups = [("file", row["file"]), *([("event_type", row["event_type"])] if row["event_type"] else [])]
        checks = (("no item_id", row["item_id"]), ("no event_type", row["event_type"]))
        reasons = [reason for reason, value in checks if value is None]
        reasons += ["no readable timestamp"] * (row["timestamp"] == "x")
        for group in groups:
            size[group] += 1
            lost[group].update(reasons[:1])
    found(rows)
    groups = read_json(tmp_path / "found" / STATISTICS_FILE, "")["losses"]["groups"]
    counted = {
        (column, Path(value).stem): (group["rows"], group["lost"])
        for column, values in groups.items()
        for value, group in values.items()
    }
    assert counted == {group: (size[group], dict(lost[group])) for group in size}


@pytest.mark.parametrize(("count", "level"), [(50, []), (51, ["warning"]), (499, ["warning"]), (500, ["error"])])
def test_the_borders(count: int, level: list[str]) -> None:
    statistics = {"rows": {"read": 1000, "dropped": {"no item_id": count}}, "losses": {"samples": {}, "groups": {}}}
    assert [finding["level"] for finding in check_losses(statistics)] == level
