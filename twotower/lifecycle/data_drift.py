"""Drift between the data that a model has learnt from and what came since.

Shapes: E events, S sessions, V items.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twotower.core.arrays import Array, Mask
from twotower.core.event_codes import EVENT_TYPE, HOUR, MS_PER_DAY, WEEKDAY
from twotower.core.files import read_json
from twotower.core.schema import FEATURES_FILE, ORDINAL, Prepared, read_item_features
from twotower.evaluation.reindex import item_ids, model_index
from twotower.evaluation.slices import WEEKDAYS, feature_groupings, group_names
from twotower.lifecycle.drift import Row, compare
from twotower.runs.layout import DATA_FILE

LENGTHS = (2, 3, 5, 10, 20, 50)  # the shortest session of each group
UNKNOWN = "unknown"


class Window(NamedTuple):
    """Events of a prepared directory."""

    prepared: Prepared
    mask: Mask  # [E]
    sessions: Mask  # [S] whole sessions: all of their events are in the mask
    encoders: dict[str, Any]  # FEATURES_FILE


class Distribution(NamedTuple):
    """How often each value occurs before and after."""

    name: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    of_events: bool = True  # not of sessions
    limited: bool = True  # whether a large distance is drift


def windows(before: Prepared, after: Prepared) -> tuple[Window, Window]:
    """Return what a model learns from in one directory, and what came since in another, or in the same.

    That is all from the time on at which the first one's test begins; without times, the second one's test.
    """
    learnt = before.training_mask(include_validation=True)
    start = before.manifest["split"].get("test_start")
    timed = ORDINAL not in (before.manifest["timestamp_unit"], after.manifest["timestamp_unit"])
    since = after.timestamp >= start if timed and start is not None else ~after.training_mask(include_validation=True)
    return _window(before, learnt), _window(after, np.asarray(since))


def data_drift(before: Window, after: Window, limit: float, most_unknown: float) -> list[Row]:
    """Compare two windows: event types, times, sessions, items, features, and what the model does not know.

    Args:
        before: what the model has learnt from.
        after: what came since.
        limit: of each distance.
        most_unknown: share of events whose item, type or value the model does not know.
    """
    length = np.concatenate([np.diff(window.prepared.offsets) for window in (before, after)]).astype(np.float64)
    cluster = float(np.square(length).sum() / length.sum())
    rows = [
        compare(each.name, each.before, each.after, cluster if each.of_events else 1.0, limit if each.limited else None)
        for each in _distributions(before, after)
    ]
    return [*rows, *_items(before, after, most_unknown), *_unknown_values(before, after, most_unknown)]


def _window(prepared: Prepared, mask: Mask) -> Window:
    whole = np.add.reduceat(mask, prepared.offsets[:-1]) == np.diff(prepared.offsets)
    encoders = read_json(prepared.path / FEATURES_FILE, "a prepared directory")
    return Window(prepared, mask, np.asarray(whole), encoders)


def _distributions(before: Window, after: Window) -> Iterator[Distribution]:
    """Yield all distributions that both windows have."""

    def both(name: str, counts: Callable[[Window], dict[str, float]], **facts: bool) -> Distribution:
        return Distribution(name, counts(before), counts(after), **facts)

    yield both("event type", lambda w: _named(w.prepared.event_types, w.prepared.event_type[w.mask]))
    inputs = before.prepared.inputs.keys() & after.prepared.inputs.keys()
    if HOUR in inputs:
        hours = [UNKNOWN, *(f"{h}:00" for h in range(24))]
        yield both(HOUR, lambda w: _named(hours, w.prepared.inputs[HOUR][w.mask]))
        time = after.prepared.timestamp[after.mask]
        week = len(time) > 0 and bool(time.max() - time.min() >= 27 * MS_PER_DAY)  # else some days are in it more often
        yield both(WEEKDAY, lambda w: _named([UNKNOWN, *WEEKDAYS], w.prepared.inputs[WEEKDAY][w.mask]), limited=week)
    ends = [f"{n}" if n + 1 == more else f"{n} to {more - 1}" for n, more in pairwise(LENGTHS)]
    lengths = ["1 event", *(f"{end} events" for end in ends), f"{LENGTHS[-1]} events or more"]
    yield both(
        "session length", lambda w: _named(lengths, np.searchsorted(LENGTHS, _length(w), "right")), of_events=False
    )
    # The longer a log is, the more of its users have been seen before: no drift, so without a limit.
    visits = ["unknown user", "first visit", "later visit"]
    yield both("visit", lambda w: _named(visits, w.prepared.returning[w.sessions]), of_events=False, limited=False)
    for name in _shared(before, after):
        yield both(name, partial(_values, name=name))
    features = [_item_features(window) for window in (before, after)]
    for name in (name for name in features[0] if name in features[1]):
        yield Distribution(f"{name} of items", features[0][name], features[1][name])


def _length(window: Window) -> Array:
    return np.diff(window.prepared.offsets)[window.sessions]


def _values(window: Window, name: str) -> dict[str, float]:
    names = group_names(window.encoders["events"][name]) or []
    return _named(names, window.prepared.inputs[name][window.mask])


def _named(names: list[str], codes: Array) -> dict[str, float]:
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    found: dict[str, float] = {}
    for name, count in zip(names, counts.tolist(), strict=True):
        found[name] = found.get(name, 0) + count
    return found


def _shared(before: Window, after: Window) -> list[str]:
    """Names of event features that both declare alike; numbers in other buckets can't be compared."""
    one, other = (window.encoders["events"] for window in (before, after))
    return [
        name
        for name in one
        if name in other
        and group_names(one[name])
        and all(one[name].get(key) == other[name].get(key) for key in ("kind", "edges"))
    ]


def _item_features(window: Window) -> dict[str, dict[str, float]]:
    """How often each value of an item feature occurs among the events."""
    prepared, encoders = window.prepared, window.encoders["items"]
    groupings = feature_groupings(encoders, read_item_features(prepared.path)) if encoders else []
    items = prepared.item_index[window.mask]
    return {grouping.name: _named(grouping.groups, grouping.code[items]) for grouping in groupings}


def _items(before: Window, after: Window, most_unknown: float) -> Iterator[Row]:
    """Compare the items: how events spread over them, and how many came and went."""
    names = [item_ids(window.prepared.path) for window in (before, after)]
    known = model_index(names[0], names[1])  # [V + 1] of the later data's items
    one = np.bincount(before.prepared.item_index[before.mask], minlength=len(names[0]) + 1)
    items = known[after.prepared.item_index[after.mask]]
    other = np.bincount(items, minlength=len(one))
    counts = [{str(i): n for i, n in enumerate(each.tolist()) if n} for each in (one, other)]
    spread = compare("items", counts[0], counts[1], 1.0, None)
    yield spread._replace(note="how the events spread over them; in a shop they always come and go")
    seen = np.unique(after.prepared.item_index[after.mask])
    new = int((known[seen] == 0).sum())
    # What only the newest test has is in no catalogue, so the preparation has left it out, and its manifest tells.
    split = after.prepared.manifest["split"]
    share = split["test_events_outside_catalogue"]
    outside = split["events"]["test"] * share / (1 - share)
    unknown = (float((items == 0).sum()) + outside) / max(1.0, len(items) + outside)
    note = f"{new:,} of {len(seen):,} items, and about {outside:,.0f} events of items that only the newest test has"
    yield Row("events of unknown items", unknown, None, most_unknown, note)
    gone = float(one[(other == 0)].sum() / max(1, one.sum()))
    yield Row("events of items that came no more", gone, note=f"{int(((one > 0) & (other == 0)).sum()):,} items")


def _unknown_values(before: Window, after: Window, most_unknown: float) -> Iterator[Row]:
    """Tell which share of the later events has a type or a value that the model does not know."""
    known = set(before.prepared.event_types)
    pairs = [(EVENT_TYPE, after.prepared.event_types, after.prepared.event_type)]
    for name in _shared(before, after):
        names = group_names(after.encoders["events"][name])
        if names and "vocabulary" in after.encoders["events"][name]:
            pairs.append((name, names, after.prepared.inputs[name]))
    for name, names, codes in pairs:
        values = known if name == EVENT_TYPE else {*(group_names(before.encoders["events"][name]) or [])}
        new = np.array([value not in values for value in names])
        share = float(new[codes[after.mask]].mean()) if after.mask.any() else 0.0
        told = ", ".join(value for value, is_new in zip(names, new.tolist(), strict=True) if is_new)
        yield Row(f"events of an unknown {name}", share, None, most_unknown, told[:200])


def quality_rows(by_day: Mapping[int, Any]) -> list[Row]:
    """Return the model's recall@20 of each day since its training; see evaluation.backtest."""
    return [
        Row(f"recall@20 on day {day}", mean, note=f"95 % interval {low:.4f} to {high:.4f}")
        for day, (mean, low, high) in sorted(by_day.items())
        if low is not None
    ]


def prepared_of(folder: Path) -> Path:
    """Return the prepared directory that a run was trained on; `folder` itself where it is one."""
    data = folder / DATA_FILE
    return Path(read_json(data, "a run directory")["path"]) if data.is_file() else folder
