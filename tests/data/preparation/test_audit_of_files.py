"""The audit from end to end: faults in event files, one at a time; clean files and the real data sets pass."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from audited_log import DAY, HOUR, ITEMS, START, Log
from preparing import Prepare

from twotower.audit.audit import require_sound
from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import AUDIT_FILE, open_prepared
from twotower.data.preparation import splits
from twotower.data.synthetic import Marketplace, generate

Change = Callable[[pl.DataFrame], pl.DataFrame]
TEST_FROM = START + 21 * DAY  # about where the last quarter of the sessions begins
TIME, PLACE = pl.col("timestamp"), pl.int_range(pl.len())
PREDEFINED = partial(splits.predefined, validation_fraction=0.1)


def clean_events() -> pl.DataFrame:
    """12,000 events of 500 users in 28 days, in their order."""
    log = Log()
    users = log.session * 7 % 500
    columns = {"item_id": log.item, "event_type": pl.Series(["cart", "view"]).gather(log.type), "timestamp": log.time}
    return pl.DataFrame({"user_id": users, **columns}).sort("timestamp", maintain_order=True)


@pytest.fixture
def find(prepare: Prepare, tmp_path: Path) -> Callable[..., list[str]]:
    """The checks with findings, and their levels, when these events are prepared."""

    def run(events: pl.DataFrame, **settings: Any) -> list[str]:
        events.write_parquet(tmp_path / "events.parquet")
        directory = prepare(tmp_path / "events.parquet", **settings)
        return levels(directory)

    return run


def levels(directory: Path) -> list[str]:

    return [f"{f['check']}: {f['level']}" for f in read_json(directory / AUDIT_FILE, "")]


def test_clean_events_pass(find: Callable[..., Any]) -> None:
    assert find(clean_events()) == []


def mixed_units(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(pl.when(PLACE % 400 == 0).then(TIME // 1000).otherwise(TIME).alias("timestamp"))


def zeros(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(pl.when(PLACE % 40 == 0).then(pl.lit(1)).otherwise(TIME).alias("timestamp"))


def logged_twice_in_two_zones(events: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([events, events.filter(TIME.max().over("user_id") == TIME).with_columns(TIME + 2 * HOUR)])


def new_items(events: pl.DataFrame) -> pl.DataFrame:
    unknown = (pl.col("timestamp") > TEST_FROM) & (PLACE % 5 < 2)
    return events.with_columns(pl.when(unknown).then(pl.col("item_id") + 1000).otherwise("item_id").alias("item_id"))


def robot(events: pl.DataFrame) -> pl.DataFrame:
    """2,000 events, one a second, within the hour."""
    rows = pl.DataFrame({"item_id": [n % ITEMS + 1 for n in range(2000)]}).with_columns(
        user_id=pl.lit(9999, pl.Int64), event_type=pl.lit("view"), timestamp=START + 9 * HOUR + PLACE * 1000
    )
    return pl.concat([events, rows.select(events.columns)])


def shared_sessions(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(session_id=(TIME - START) // (2 * HOUR))


def new_type(events: pl.DataFrame) -> pl.DataFrame:
    kind = pl.when(TIME > TEST_FROM + 2 * DAY).then(pl.lit("wish")).otherwise(pl.lit("view"))
    return events.with_columns(event_type=kind)


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (lambda e: pl.concat([e, e[::50]]), {}, ["repeated_rows: warning"]),
        (mixed_units, {"timestamp_unit": "ms"}, ["timestamp_unit: error", "timestamp_range: warning"]),
        (zeros, {"timestamp_unit": "ms"}, ["timestamp_range: error"]),
        (lambda e: e.with_columns(TIME + 20_000 * DAY), {}, ["timestamp_range: error"]),
        (logged_twice_in_two_zones, {}, ["time_zone: warning"]),
        (lambda e: e, {"time_zone": "Asia/Tokyo"}, ["time_zone: warning"]),
        (new_items, {}, ["targets_outside_catalogue: error"]),
        (robot, {}, ["bots: warning"]),
        (
            lambda e: e.filter(PLACE % 3 > 0),
            {"session_gap_minutes": 1.5},
            ["sessions_cut: warning", "few_queries: warning"],
        ),
        (shared_sessions, {}, ["session_of_several_users: error"]),
        (new_type, {}, ["never_trained: warning"]),
        (lambda e: e.filter((TIME - START) // DAY != 9), {}, ["days_without_events: warning"]),
        (lambda e: e.filter((TIME - START) // DAY < 5), {}, ["never_trained: warning", "few_queries: warning"]),
        (lambda e: e, {"split": splits.leave_one_out}, ["training_after_split: warning"]),
    ],
)
def test_faults_of_files(
    find: Callable[..., Any], change: Change, settings: dict[str, Any], expected: list[str]
) -> None:
    assert find(change(clean_events()), **settings) == expected


def test_a_column_that_knows_the_next_item(find: Callable[..., Any]) -> None:
    events = clean_events().with_columns(clicked=pl.col("item_id").shift(-1).over("user_id"))
    declared = {"events": {"clicked": {"kind": "categorical"}}}
    assert "target_in_context: error" in find(events, features=declared)
    honest = events.with_columns(clicked=pl.col("item_id") % 10)
    assert find(honest, features=declared) == []


def test_a_random_split_is_refused(find: Callable[..., Any]) -> None:
    session = (pl.col("user_id") % 5 == 0).alias("split")
    events = clean_events().with_columns(
        pl.when(session).then(pl.lit("test")).otherwise(pl.lit("train")).alias("split")
    )
    assert "training_after_split: error" in find(events, split=PREDEFINED)
    by_time = clean_events().with_columns(session_id=pl.struct("user_id", (TIME - START) // DAY).hash() // 2)
    late = pl.when(TIME.max().over("session_id") > TEST_FROM).then(pl.lit("test")).otherwise(pl.lit("train"))
    assert find(by_time.with_columns(split=late), split=PREDEFINED) == []


def test_items_that_contradict_themselves(find: Callable[..., Any], tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": range(1, ITEMS + 1), "category": [f"c{n % 7}" for n in range(ITEMS)]})
    pl.concat([items, items[:2].with_columns(category=pl.lit("c9"))]).write_parquet(tmp_path / "items.parquet")
    declared = {"items": {"category": {"kind": "categorical"}}}
    found = find(clean_events(), items=str(tmp_path / "items.parquet"), features=declared)
    assert found == ["contradictory_items: warning"]


def test_errors_stand_in_the_way(prepare: Prepare, tmp_path: Path) -> None:
    new_items(clean_events()).write_parquet(tmp_path / "events.parquet")
    prepared = open_prepared(prepare(tmp_path / "events.parquet"))
    with pytest.raises(UserError, match=r"(?s)targets_outside_catalogue: .* 'accept=\[targets_outside_catalogue\]'"):
        require_sound(prepared)
    require_sound(prepared, ["targets_outside_catalogue"])


def test_the_marketplace_passes(prepare: Prepare, tmp_path: Path) -> None:
    generate(tmp_path / "raw", Marketplace(items=500, users=1500, sessions=8000, days=30, seed=0), oracle=False)
    assert levels(prepare(tmp_path / "raw" / "events")) == []


@pytest.mark.slow
def test_real_data_has_no_error(prepare: Prepare, real_data: Path) -> None:
    temporal = partial(splits.temporal, test_fraction=0.1, validation_fraction=0.1)
    ratings = real_data / "movielens100k" / "events.parquet"
    assert levels(prepare(real_data / "diginetica", PREDEFINED)) == []
    assert levels(prepare(real_data / "yoochoose100k", PREDEFINED)) == []
    assert levels(prepare(real_data / "yoochoose100k", temporal)) == []
    assert levels(prepare(ratings, temporal)) == ["time_zone: warning", "days_without_events: warning"]
    # The raters lived in America: by clocks there they slept at night.
    assert "time_zone: warning" not in levels(prepare(ratings, temporal, time_zone="America/Chicago"))
