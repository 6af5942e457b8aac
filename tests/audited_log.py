"""A clean log in the form of a prepared directory, for planting faults in it; its statistics are counted naively."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.files import write_json
from twotower.core.schema import (
    ARRAYS,
    CATALOGUE_FILE,
    FEATURES_FILE,
    ITEM_FEATURES_FILE,
    Prepared,
    input_file,
    open_prepared,
    write_prepared,
)

START = int(datetime(2025, 3, 3, tzinfo=UTC).timestamp()) * 1000  # a Monday
HOUR, DAY = 3_600_000, 86_400_000
ITEMS, DAYS, TYPES = 50, 28, ["cart", "view"]
BY_HOUR = np.array([1, 1, 1, 1, 1, 1, 2, 4, 6, 8, 9, 9, 9, 9, 9, 9, 9, 9, 10, 10, 9, 7, 4, 2])


class Log:
    """28 days of 2,000 sessions of 6 events, the last 3 days for testing; change what should be wrong, then write."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        count, length = 2000, 6
        hour = rng.choice(24, count, p=BY_HOUR / BY_HOUR.sum())
        begin = np.sort(START + rng.integers(0, DAYS, count) * DAY + hour * HOUR + rng.integers(0, HOUR, count))
        begin = np.minimum(begin, START + DAYS * DAY - HOUR)
        self.time = (begin[:, None] + np.arange(length) * 61_000).ravel()
        self.item = np.minimum(rng.geometric(0.06, count * length), ITEMS)
        self.type = (rng.random(count * length) < 0.9).astype(np.int64)
        self.device = rng.integers(1, 5, count).repeat(length)  # 1: a hash bucket, 2 .. 4: three words
        self.session = np.arange(count).repeat(length)
        self.validation_start, self.test_start = START + 22 * DAY, START + 25 * DAY
        self.part = (self.time >= self.validation_start) * 1 + (self.time >= self.test_start)
        self.category = rng.integers(1, 4, ITEMS)  # of each item
        self.category[:3] = 1, 2, 3
        self.kind = "temporal"
        self.unit = "ms"
        self.counted = self.part == 0  # what the catalogue's train_count counts
        self.vocabularies = {"device": ["phone", "tablet", "desktop"], "category": ["a", "b", "c"]}

    def write(self, directory: Path) -> tuple[Prepared, dict[str, Any]]:
        """The prepared directory and what its preparation counted; more can be planted in the latter."""
        directory.mkdir()
        starts = np.flatnonzero(np.diff(self.session, prepend=-1))
        offsets = np.append(starts, len(self.session))
        arrays = {
            "item_index": self.item,
            "event_type": self.type,
            "timestamp": self.time,
            "offsets": offsets,
            "train_end": starts + np.add.reduceat(self.part == 0, starts),
            "validation_end": starts + np.add.reduceat(self.part < 2, starts),
            "returning": np.zeros(len(offsets) - 1),
        }
        for name, dtype in ARRAYS.items():
            np.save(directory / f"{name}.npy", arrays[name].astype(dtype))
        inputs = {"event_type": self.type + 1, "device": self.device}
        if self.unit != "ordinal":
            inputs["weekday"] = 1 + (self.time // DAY + 3) % 7
        sizes = {"event_type": 3, "weekday": 8, "device": 2 + len(self.vocabularies["device"])}
        for name, codes in inputs.items():
            np.save(directory / input_file(name), codes.astype(np.uint32))
        np.savez(directory / ITEM_FEATURES_FILE, **{
            "category.codes": self.category.astype(np.int32), "category.offsets": np.arange(ITEMS + 1)
        })  # fmt: skip
        counts = [int(((self.item == i + 1) & self.counted).sum()) for i in range(ITEMS)]
        pq.write_table(pa.table({"item_id": list(range(ITEMS)), "train_count": counts}), directory / CATALOGUE_FILE)
        encoders = {name: {"kind": "categorical", "vocabulary": words} for name, words in self.vocabularies.items()}
        features = {"events": {"device": encoders["device"]}, "items": {"category": encoders["category"]}}
        write_json(
            directory / FEATURES_FILE, {"time_zone": "UTC", "event_types": TYPES, "input_types": [1, 2], **features}
        )
        split: dict[str, Any] = {"kind": self.kind}
        if self.kind == "temporal":
            split |= {"validation_start": self.validation_start, "test_start": self.test_start}
        manifest = {
            "num_items": ITEMS,
            "event_types": TYPES,
            "inputs": {name: sizes[name] for name in inputs},
            "item_features": {"category": {"form": "bags", "size": 1 + len(self.vocabularies["category"])}},
        }
        write_prepared(directory, manifest)
        return open_prepared(directory), self._statistics(split, inputs, features)

    def _statistics(self, split: dict[str, Any], inputs: dict[str, Any], features: dict[str, Any]) -> dict[str, Any]:
        events = len(self.item)
        days: dict[str, Counter[str]] = {}
        hours = [0] * 24
        types = {name: {"train": 0, "validation": 0, "test": 0} for name in TYPES}
        for time, kind, part in zip(self.time.tolist(), self.type.tolist(), self.part.tolist(), strict=True):
            types[TYPES[kind]][("train", "validation", "test")[part]] += 1
            if self.unit != "ordinal":
                moment = datetime.fromtimestamp(time / 1000, UTC)
                days.setdefault(str(moment.date()), Counter())[TYPES[kind]] += 1
                hours[moment.hour] += 1
        lengths = Counter(Counter(self.session.tolist()).values())
        return {
            "rows": {"read": events, "kept": events, "dropped": {}},
            "losses": {"samples": {}, "groups": {}},
            "unlisted_items": None,
            "timestamp_unit": self.unit,
            "timestamp_units": {self.unit: events},
            "days": {day: dict(count) for day, count in sorted(days.items())},
            "hours": hours if days else [],
            "session_lengths": {str(n): count for n, count in lengths.items()},
            "longest_session": max(lengths),
            "session_source": "users' events, cut by gaps of over 30 minutes",
            "cuts": {"gap_minutes": 30, "pauses": events - 900, "cut": 1100, "within_twice": 60},
            "whole_hour_pauses": {"whole": 4, "near": 70},
            "sessions_of_several_users": 1,
            "targets_outside_catalogue": {"test_events": int((self.part == 2).sum()), "outside": 0},
            "contradictory_items": {"category": 0},
            "contradictory_users": {"country": 0},
            "unreadable_numbers": {},
            "similar_ids": {"item_id": {}},
            "matches": [{"text": "data.items: 5 of 9 items matched", "warning": None}],
            "items_without_features": 0,
            "types": types,
            "split": split,
            "input_counts": {
                name: {
                    place: {str(code): n for code, n in sorted(Counter(codes[where].tolist()).items())}
                    for place, where in (("train", self.part == 0), ("other", self.part > 0))
                }
                for name, codes in inputs.items()
            },
            "encoders": features,
        }
