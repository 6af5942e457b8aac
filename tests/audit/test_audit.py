"""The audit finds each fault, planted one at a time, and nothing else; clean data has no finding."""

import logging
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_log import BY_HOUR, DAY, HOUR, START, Log

from twotower.audit import measure
from twotower.audit.audit import audit, require_sound
from twotower.audit.findings import CHECKS, Finding
from twotower.core.errors import UserError
from twotower.core.files import write_json
from twotower.core.schema import AUDIT_FILE, CARD_FILE

TODAY = date(2025, 4, 1)
Plant = Callable[[Log], None]
Count = Callable[[dict[str, Any]], Any]


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., list[Finding]]:
    """The findings on a clean log with faults planted in its arrays or in its statistics."""

    def run(plant: Plant | None = None, count: Count | None = None, today: date = TODAY) -> list[Finding]:
        log = Log()
        if plant:
            plant(log)
        prepared, statistics = log.write(tmp_path / "prepared")
        if count:
            count(statistics)
        return audit(prepared, statistics, today)

    return run


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f["check"], f["level"]) for f in findings]


def test_clean_data_passes(find: Callable[..., list[Finding]]) -> None:
    assert find() == []


def test_blocks_change_nothing(find: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BLOCK", 101)
    assert find() == []


def training_after_test(log: Log) -> None:
    log.time[-1] += DAY  # keeps the session the latest; the fault is that it trains
    log.part[-6:] = 0
    log.counted = log.part == 0


def training_after_validation(log: Log) -> None:
    late = np.flatnonzero(log.part == 1)[-6:]
    log.part[late] = 0
    log.counted = log.part == 0


def targets_of_the_past(log: Log) -> None:
    """A session that tests as a whole, though all but its last event are older than the test."""
    log.time[np.flatnonzero(log.part == 2)[:5]] -= DAY


def last_event_tests(log: Log) -> None:
    before = np.flatnonzero(log.part == 2)[:5]  # of the first session that tests
    log.part[before] = 1
    log.time[before] -= DAY  # so that none of them is later than the test's beginning


def counts_of_everything(log: Log) -> None:
    log.counted[:] = True


def word_of_the_test(log: Log) -> None:
    log.vocabularies["device"] = ["phone", "tablet", "desktop", "watch"]
    log.device[np.flatnonzero(log.part == 2)[:9]] = 5


def word_of_no_item(log: Log) -> None:
    log.vocabularies["category"] = ["a", "b", "c", "d"]


def next_item_as_input(log: Log) -> None:
    log.vocabularies["device"] = [f"word {n}" for n in range(50)]
    log.device = 1 + np.append(log.item[1:], 1)


def next_group_as_input(log: Log) -> None:
    """What is left of the next item is a tenth of its identity, shifted by one event."""
    log.item = np.random.default_rng(1).integers(1, 51, len(log.item))
    log.vocabularies["device"] = [f"word {n}" for n in range(10)]
    log.device = 2 + np.append(log.item[1:], 1) // 5 % 10
    log.counted = log.part == 0


def type_only_in_test(log: Log) -> None:
    log.type[:] = 1
    log.type[log.part == 2] = 0


def weekday_only_in_test(log: Log) -> None:
    keep = (log.part == 2) | ((log.time // DAY + 3) % 7 != 4)  # no Fridays before the test, which begins on one
    for name in ("time", "item", "type", "device", "session", "part", "counted"):
        setattr(log, name, getattr(log, name)[keep])


def few_tests(log: Log) -> None:
    keep = (log.part < 2) | (log.session >= 1995)
    for name in ("time", "item", "type", "device", "session", "part", "counted"):
        setattr(log, name, getattr(log, name)[keep])


def early_events(share: float) -> Plant:
    def plant(log: Log) -> None:
        log.time[: int(share * len(log.time))] = 12_345

    return plant


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (training_after_test, [("training_after_split", "error")]),
        (training_after_validation, [("training_after_split", "error")]),
        (targets_of_the_past, [("training_after_split", "error")]),
        (last_event_tests, []),  # by their times, they belong there
        (counts_of_everything, [("statistics_saw_test", "error")]),
        (word_of_the_test, [("statistics_saw_test", "error")]),
        (word_of_no_item, [("statistics_saw_test", "error")]),
        (next_item_as_input, [("target_in_context", "error")]),
        (next_group_as_input, [("target_in_context", "error")]),
        (type_only_in_test, [("never_trained", "warning")]),
        (weekday_only_in_test, [("never_trained", "warning")]),
        (few_tests, [("few_queries", "warning")]),
        (early_events(0.02), [("timestamp_range", "error")]),
        (early_events(0.005), [("timestamp_range", "warning")]),
    ],
)
def test_faults_of_the_arrays(find: Callable[..., list[Finding]], plant: Plant, expected: list[Any]) -> None:
    findings = find(plant, lambda s: s["days"].pop("1970-01-01", None))
    assert names(findings) == expected


@pytest.mark.parametrize(("shift", "expected"), [(0, []), (1, [("target_in_context", "warning")])])
def test_an_input_may_tell_its_own_item(find: Callable[..., list[Finding]], shift: int, expected: list[Any]) -> None:
    """Half of the events lead from any of five items to one: no secret, unless the column is shifted."""

    def plant(log: Log) -> None:
        rng = np.random.default_rng(0)
        log.item = rng.integers(1, 51, len(log.item))
        for position in range(1, 6):  # of the session's six events
            before = log.item[position - 1 :: 6]
            follow = rng.random(len(before)) < 0.5
            log.item[position::6] = np.where(follow, ((before - 1) // 5 + 1) % 10 * 5 + 1, log.item[position::6])
        log.vocabularies["device"] = [f"word {n}" for n in range(10)]
        log.device = 2 + (np.roll(log.item, -shift) - 1) // 5

    assert names(find(plant)) == expected


def test_repeated_items_hide_nothing(find: Callable[..., list[Finding]]) -> None:
    """Where most events repeat the item before, the code of the next item tells this one's, too."""

    def plant(log: Log) -> None:
        first = np.arange(len(log.item)) // 3 * 3
        log.item = log.item[first]
        next_item_as_input(log)

    assert names(find(plant)) == [("target_in_context", "error")]


def test_a_word_that_occurs_nowhere_is_no_leak(find: Callable[..., list[Finding]]) -> None:
    assert find(lambda log: log.vocabularies["device"].append("watch")) == []


@pytest.mark.parametrize(("share", "unit", "expected"), [
    (0.02, "ms", [("training_after_split", "error")]),
    (0.005, "ms", []),
    (0.02, "ordinal", [("training_after_split", "warning")]),
])  # fmt: skip
def test_predefined_split(find: Callable[..., list[Finding]], share: float, unit: str, expected: list[Any]) -> None:
    def plant(log: Log) -> None:
        log.kind, log.unit = "predefined", unit
        learnt = np.flatnonzero(log.part < 2)
        log.time[learnt[-int(share * len(learnt)) :]] += 4 * DAY

    assert names(find(plant)) == expected


def test_predefined_sessions_may_go_on_into_the_test(find: Callable[..., list[Finding]]) -> None:
    def plant(log: Log) -> None:
        last_event_tests(log)
        log.kind = "predefined"

    assert names(find(plant)) == [("session_in_two_parts", "warning")]


def test_leave_one_out_says_what_it_is(find: Callable[..., list[Finding]]) -> None:
    def plant(log: Log) -> None:
        log.kind, position = "leave_one_out", np.arange(len(log.item)) % 6
        log.part = (position == 4) * 1 + (position == 5) * 2
        log.counted = log.part == 0

    (finding,) = find(plant)
    assert (finding["check"], finding["level"]) == ("training_after_split", "warning")
    late = 10_000 - 5  # all but those before the first session's last event, and none is as late
    assert abs(finding["figures"]["events"] - late) <= 10


def set_to(key: str, **values: Any) -> Count:
    return lambda s: s[key].update(values)


def several(n: int) -> Count:
    return lambda s: s.update(sessions_of_several_users=n)


def night_at_noon(statistics: dict[str, Any]) -> None:
    statistics["hours"] = statistics["hours"][12:] + statistics["hours"][:12]


def without_days(statistics: dict[str, Any]) -> None:
    for day in ("2025-03-11", "2025-03-12"):
        del statistics["days"][day]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (set_to("targets_outside_catalogue", test_events=1000, outside=60), ("targets_outside_catalogue", "warning")),
        (set_to("targets_outside_catalogue", test_events=1000, outside=310), ("targets_outside_catalogue", "error")),
        (set_to("targets_outside_catalogue", test_events=1000, outside=50), None),
        (set_to("rows", dropped={"duplicate of another row": 130}), ("repeated_rows", "warning")),
        (set_to("rows", dropped={"duplicate of another row": 110, "no item_id": 500}), None),
        (set_to("rows", dropped={"no item_id": 900}), ("rows_dropped", "warning")),
        (set_to("session_lengths", **{"1001": 1}), ("bots", "warning")),
        (set_to("session_lengths", **{"1000": 1}), None),
        (set_to("timestamp_units", s=13), ("timestamp_unit", "error")),
        (set_to("timestamp_units", s=11, ordinal=500), None),
        (set_to("whole_hour_pauses", whole=60, near=100), ("time_zone", "warning")),
        (set_to("whole_hour_pauses", whole=60, near=1000), None),
        (night_at_noon, ("time_zone", "warning")),
        (set_to("cuts", cut=900, within_twice=301), ("sessions_cut", "warning")),
        (set_to("cuts", cut=900, within_twice=300), None),
        (several(3), ("session_of_several_users", "warning")),
        (several(2), None),
        (several(999), ("session_of_several_users", "warning")),
        (several(1000), ("session_of_several_users", "error")),
        (set_to("contradictory_items", category=2), ("contradictory_items", "warning")),
        (set_to("contradictory_users", country=1), ("contradictory_users", "warning")),
        (set_to("unreadable_numbers", price={"values": 1, "of": 9, "first": "?"}), ("unreadable_numbers", "warning")),
        (set_to("similar_ids", user_id={"case": (2, "A", "a")}), ("similar_ids", "warning")),
        (lambda s: s["matches"].append({"text": "", "warning": "1 of 9"}), ("few_matches", "warning")),
        (without_days, ("days_without_events", "warning")),
        (lambda s: s["days"].pop("2025-03-03"), None),  # a log may begin when it likes
    ],
)  # fmt: skip
def test_faults_of_the_counts(
    find: Callable[..., list[Finding]], count: Count, expected: tuple[str, str] | None
) -> None:
    assert names(find(count=count)) == ([expected] if expected else [])


def test_the_future_begins_the_day_after_tomorrow(find: Callable[..., list[Finding]], tmp_path: Path) -> None:
    last = date.fromtimestamp((START + 28 * DAY - HOUR) / 1000)
    assert find(today=last.replace(day=last.day - 1)) == []


def test_events_in_the_future(find: Callable[..., list[Finding]]) -> None:
    assert names(find(today=date(2025, 3, 20))) == [("timestamp_range", "error")]


def test_whole_minutes_are_no_time_zones(find: Callable[..., list[Finding]]) -> None:
    def plant(log: Log) -> None:
        log.time = log.time // 60_000 * 60_000

    assert find(plant, set_to("whole_hour_pauses", whole=600, near=0)) == []


def test_a_weekday_that_is_always_closed_is_no_gap(find: Callable[..., list[Finding]]) -> None:
    def count(statistics: dict[str, Any]) -> None:
        statistics["days"] = {d: n for d, n in statistics["days"].items() if date.fromisoformat(d).weekday() != 6}

    assert find(count=count) == []


def test_a_log_of_a_few_days_has_no_usual_weekdays(find: Callable[..., list[Finding]]) -> None:
    def count(statistics: dict[str, Any]) -> None:
        statistics["days"] = {day: statistics["days"][day] for day in sorted(statistics["days"])[:5]}
        del statistics["days"]["2025-03-05"]

    assert names(find(count=count)) == [("days_without_events", "warning")]


@pytest.mark.parametrize(("shift", "expected"), [(5, []), (6, ["time_zone"]), (18, ["time_zone"]), (19, [])])
def test_the_middle_of_the_night_is_before_nine(
    find: Callable[..., list[Finding]], shift: int, expected: list[str]
) -> None:
    """The six quietest hours are 0 to 6, and later by `shift`."""
    hours = np.roll(BY_HOUR * 100, shift).tolist()
    assert [f["check"] for f in find(count=lambda s: s.update(hours=hours))] == expected


def test_findings_are_plain_json_in_the_order_of_the_checks(find: Callable[..., list[Finding]], tmp_path: Path) -> None:
    def count(statistics: dict[str, Any]) -> None:
        set_to("contradictory_items", category=2)(statistics)
        set_to("session_lengths", **{"5000": 3})(statistics)
        night_at_noon(statistics)

    findings = find(counts_of_everything, count)
    order = list(CHECKS)
    places = [order.index(f["check"]) for f in findings]
    assert len(places) == 4 and places == sorted(places)
    write_json(tmp_path / "audit.json", findings)


@pytest.fixture
def gate(tmp_path: Path) -> Callable[..., None]:
    """`require_sound` on a directory with an error, another one, and a warning."""
    prepared, _ = Log().write(tmp_path / "gate")
    findings = [
        {"check": "statistics_saw_test", "level": "error", "message": "found 3, expected 0; do this", "figures": {}},
        {"check": "timestamp_unit", "level": "error", "message": "seconds and milliseconds", "figures": {}},
        {"check": "bots", "level": "warning", "message": "a robot", "figures": {}},
    ]
    write_json(prepared.path / AUDIT_FILE, findings)
    return lambda *accept: require_sound(prepared, *accept)


def test_errors_block(gate: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as refusal:
        gate()
    text = str(refusal.value)
    assert "statistics_saw_test: found 3, expected 0; do this" in text and "timestamp_unit: seconds" in text
    assert str(tmp_path / "gate" / CARD_FILE) in text
    assert "'accept=[statistics_saw_test,timestamp_unit]'" in text
    assert caplog.messages == ["bots: a robot"]


def test_accepted_errors_are_warnings(gate: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"'accept=\[timestamp_unit\]'"):
        gate(["statistics_saw_test"])
    caplog.clear()
    gate(["timestamp_unit", "statistics_saw_test", "time_zone"])
    assert [m.split(":")[0] for m in caplog.messages] == ["statistics_saw_test", "timestamp_unit", "bots"]


def test_accept_names_checks(gate: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"no check 'timestamp_units'.*did you mean 'timestamp_unit'"):
        gate(["timestamp_units"])
    with pytest.raises(UserError, match=r"'accept=\[statistics_saw_test\]'"):
        gate("timestamp_unit")  # one name may come without brackets


def test_a_directory_without_an_audit_is_refused(tmp_path: Path) -> None:
    prepared, _ = Log().write(tmp_path / "bare")
    with pytest.raises(UserError, match=r"audit\.json is missing"):
        require_sound(prepared)
