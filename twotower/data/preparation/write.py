"""Last pass: the sessions become schema's arrays, and are counted for the audit and the data card.

Shapes: E events, S sessions, K items that were seen; of one block: e events, s sessions.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.core.inputs import GAP, HOUR, SIZES, WEEKDAY, gap_codes, hour_codes, local_hours, weekday_codes
from twotower.core.schema import ARRAYS, EVENT_TYPE, ITEM_ID, RETURNING, TIMESTAMP, input_file
from twotower.data.preparation.event_features import FEATURE, EventFeatures
from twotower.data.preparation.sort import Block
from twotower.data.preparation.spill import ArrayWriter
from twotower.data.preparation.splits import PARTS, TEST, TRAIN
from twotower.features import Encoder, form

Array = npt.NDArray[Any]
UNKNOWN, ALONE = "test event of an item that no earlier event has", "left alone in its session"


class EventCodes:
    """The event inputs of a block: the built-in ones and the declared features.

    Args:
        input_types: [T] the code that a model is given for each event type.
        zone: of the clocks; None where timestamps are no times.
        features: declared features, fitted.
        encoders: theirs, by name.
    """

    def __init__(
        self, input_types: Sequence[int], zone: str | None, features: EventFeatures, encoders: Mapping[str, Encoder]
    ) -> None:
        self._types, self._zone, self._features = np.array(input_types, dtype=np.uint8), zone, features
        self.sizes = {EVENT_TYPE: len(input_types) + 1, **(SIZES if zone is not None else {})}
        self.sizes |= {name: int(form(encoder)["size"]) for name, encoder in encoders.items()}

    def __call__(self, block: Block) -> dict[str, Array]:
        """[e] codes by name."""
        time = block.columns[TIMESTAMP]
        codes = {EVENT_TYPE: self._types[block.columns[EVENT_TYPE]]}
        if self._zone is not None:
            codes[GAP] = gap_codes(time, block.first)
            codes[HOUR] = hour_codes(time, self._zone)
            codes[WEEKDAY] = weekday_codes(time, self._zone)
        return codes | {n: self._features.final(n, block.columns[FEATURE + n]) for n in self.sizes if n not in codes}


class Tally:
    """What the prepared events are like, added up block by block."""

    def __init__(self, event_types: Sequence[str], sizes: Mapping[str, int], zone: str | None) -> None:
        self.event_types, self.zone = event_types, zone
        self.types = np.zeros((len(event_types), len(PARTS)), dtype=np.int64)
        self.days: Counter[tuple[int, int]] = Counter()
        self.hours = np.zeros(24, dtype=np.int64)
        self.lengths = np.zeros(1, dtype=np.int64)
        self.inputs = {name: np.zeros((2, size), dtype=np.int64) for name, size in sizes.items()}

    def add(self, length: Array, event_type: Array, timestamp: Array, part: Array, codes: Mapping[str, Array]) -> None:
        """Add events [e] of sessions of these lengths [s]."""
        width = len(PARTS)
        self.types += np.bincount(event_type * np.int64(width) + part, minlength=self.types.size).reshape(-1, width)
        found = np.bincount(length, minlength=len(self.lengths))
        found[: len(self.lengths)] += self.lengths
        self.lengths = found
        for name, counts in self.inputs.items():
            keys = (part != TRAIN) * np.int64(counts.shape[1]) + codes[name]
            counts += np.bincount(keys, minlength=counts.size).reshape(counts.shape)
        if self.zone is not None:
            hours = local_hours(timestamp, self.zone)
            self.hours += np.bincount(hours % 24, minlength=24)
            days, events = np.unique(hours // 24 * len(self.event_types) + event_type, return_counts=True)
            for key, count in zip(days.tolist(), events.tolist(), strict=True):
                self.days[divmod(key, len(self.event_types))] += count

    def statistics(self) -> dict[str, Any]:
        """As plain JSON."""
        days: dict[str, dict[str, int]] = {}
        for (day, kind), count in sorted(self.days.items()):
            days.setdefault(str(date(1970, 1, 1) + timedelta(days=day)), {})[self.event_types[kind]] = count
        lengths = {str(n): int(count) for n, count in enumerate(self.lengths) if count}
        return {
            "days": days,
            "hours": self.hours.tolist() if self.zone is not None else [],
            "session_lengths": lengths,
            "longest_session": len(self.lengths) - 1,
            "types": {
                kind: dict(zip(PARTS, counts, strict=True))
                for kind, counts in zip(self.event_types, self.types.tolist(), strict=True)
            },
            "input_counts": {
                name: {
                    place: {str(code): int(count) for code, count in enumerate(row) if count}
                    for place, row in zip(("train", "other"), counts, strict=True)
                }
                for name, counts in self.inputs.items()
            },
        }


def write_events(
    directory: Path,
    blocks: Iterable[Block],
    index: Array,
    few_users: Array,
    few_reason: str,
    inputs: EventCodes,
    tally: Tally,
) -> dict[str, int]:
    """Write schema's arrays and the event inputs.

    Test events of unknown items go, as do those of items that too few users touched, and what is then alone in a
    test session: only test events, for what a model may learn from must not depend on what the test holds.

    Args:
        blocks: sessions in the order in which they are to lie, which is that of their beginning before events went.
        index: [K + 1] item_index by rank, 0 where the item is not in the catalogue.
        few_users: [K + 1] whether that is because too few users touched it.
        few_reason: how that is called.

    Returns:
        Rows dropped, by reason.
    """
    writers = {name: ArrayWriter(directory / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
    coders = {
        n: ArrayWriter(directory / input_file(n), np.min_scalar_type(size - 1).str) for n, size in inputs.sizes.items()
    }
    dropped = {UNKNOWN: 0, few_reason: 0, ALONE: 0}
    begin = 0
    writers["offsets"].append(np.zeros(1, dtype=np.int64))
    for block in blocks:
        item = block.columns[ITEM_ID]
        item_index = index[item]
        codes = inputs(block)  # before events go: serving sees them, too
        known = item_index > 0
        few = int(few_users[item[~known]].sum())
        dropped[few_reason] += few
        dropped[UNKNOWN] += int((~known).sum()) - few
        starts = np.flatnonzero(block.first)
        count = functools.partial(np.add.reduceat, indices=starts, dtype=np.int64)  # [e] flags -> [s] how many
        one_left = np.repeat(count(known) == 1, np.diff(starts, append=len(item)))
        alone = known & one_left & (block.part == TEST)
        dropped[ALONE] += int(alone.sum())
        keep = known & ~alone
        length, train, tested = (count(keep & flags) for flags in (known, block.part == TRAIN, block.part == TEST))
        some = length > 0
        length, train, tested = length[some], train[some], tested[some]
        keep = slice(None) if keep.all() else keep  # then nothing need be copied
        end = begin + np.cumsum(length)
        arrays = {
            "item_index": item_index[keep],
            "event_type": block.columns[EVENT_TYPE][keep],
            "timestamp": block.columns[TIMESTAMP][keep],
            "offsets": end,
            "train_end": end - length + train,
            "validation_end": end - tested,
            RETURNING: block.columns[RETURNING][starts][some],
        }
        codes = {name: values[keep] for name, values in codes.items()}
        for name, writer in writers.items():
            writer.append(arrays[name])
        for name, writer in coders.items():
            writer.append(codes[name])
        tally.add(length, arrays["event_type"], arrays["timestamp"], block.part[keep], codes)
        begin = int(end[-1]) if len(end) else begin
    for writer in [*writers.values(), *coders.values()]:
        writer.close()
    return dropped
