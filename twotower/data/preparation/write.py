"""Last pass: the sessions become the arrays of the prepared directory.

Shapes: K distinct items; of one block: e events, s sessions.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from twotower.core.arrays import Array
from twotower.core.event_codes import GAP, HOUR, SIZES, WEEKDAY, gap_codes, hour_codes, weekday_codes
from twotower.core.schema import ARRAYS, EVENT_TYPE, ITEM_ID, RETURNING, TIMESTAMP, input_file
from twotower.data.preparation.blocks import Block
from twotower.data.preparation.catalogue import Catalogue
from twotower.data.preparation.event_features import FEATURE, EventFeatures
from twotower.data.preparation.spill import ArrayFile
from twotower.data.preparation.splits import TEST, TRAIN
from twotower.data.preparation.statistics import OUTSIDE, EventStatistics
from twotower.features import Encoder, form

LEFT_ALONE = "only event left in its session"


class EventInputs:
    """The event inputs of a block: the built-in ones and the declared features.

    Args:
        type_codes: [T] the code that a model gets for each event type.
        zone: time zone of hours and weekdays; None where timestamps are ordinals.
        features: declared features, fitted.
        encoders: of these features, by name.

    >>> block = Block({"event_type": np.array([1, 0]), "timestamp": None}, first=None, part=None)
    >>> EventInputs([1, 2], zone=None, features=None, encoders={}).codes(block)
    {'event_type': array([2, 1], dtype=uint8)}
    """

    def __init__(
        self, type_codes: Sequence[int], zone: str | None, features: EventFeatures, encoders: Mapping[str, Encoder]
    ) -> None:
        self._types, self._zone, self._features = np.array(type_codes, dtype=np.uint8), zone, features
        self.sizes = {EVENT_TYPE: len(type_codes) + 1, **(SIZES if zone is not None else {})}
        self.sizes |= {name: int(form(encoder)["size"]) for name, encoder in encoders.items()}

    def codes(self, block: Block) -> dict[str, Array]:
        """Return [e] codes by name."""
        time = block.columns[TIMESTAMP]
        codes = {EVENT_TYPE: self._types[block.columns[EVENT_TYPE]]}
        if self._zone is not None:
            codes[GAP] = gap_codes(time, block.first)
            codes[HOUR] = hour_codes(time, self._zone)
            codes[WEEKDAY] = weekday_codes(time, self._zone)
        return codes | {n: self._features.codes(n, block.columns[FEATURE + n]) for n in self.sizes if n not in codes}


def write_events(
    directory: Path,
    blocks: Iterable[Block],
    catalogue: Catalogue,
    inputs: EventInputs,
    statistics: EventStatistics,
) -> Counter[str]:
    """Write schema.ARRAYS and the event inputs, and add the events to `statistics`.

    Events of items outside the catalogue are dropped, as is an event that is then alone in its session if it tests:
    what a model learns from must not depend on what the test holds.

    Args:
        blocks: sessions in their final order.

    Returns:
        Dropped rows by reason.
    """
    writers = {name: ArrayFile(directory / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
    for name, size in inputs.sizes.items():
        file = input_file(name)
        writers[file] = ArrayFile(directory / file, np.min_scalar_type(size - 1).str)
    dropped = Counter({OUTSIDE: 0, **dict.fromkeys(catalogue.excluded, 0), LEFT_ALONE: 0})
    begin = 0
    writers["offsets"].append(np.zeros(1, dtype=np.int64))
    for block in blocks:
        item = block.columns[ITEM_ID]
        item_index = catalogue.item_index[item]
        codes = inputs.codes(block)  # before events are dropped, as serving sees those, too
        known = item_index > 0
        lost = {reason: int(mask[item[~known]].sum()) for reason, mask in catalogue.excluded.items()}
        dropped.update({**lost, OUTSIDE: int((~known).sum()) - sum(lost.values())})
        keep = known & ~_left_alone(block, known)
        dropped[LEFT_ALONE] += int(known.sum() - keep.sum())
        arrays, length = _session_arrays(block, keep, begin)
        begin += int(length.sum())
        kept = slice(None) if keep.all() else keep  # then nothing need be copied
        codes = {name: values[kept] for name, values in codes.items()}
        arrays |= {"item_index": item_index[kept]}
        arrays |= {name: block.columns[name][kept] for name in (EVENT_TYPE, TIMESTAMP)}
        for name, array in (arrays | {input_file(name): values for name, values in codes.items()}).items():
            writers[name].append(array)
        statistics.add(length, arrays[EVENT_TYPE], arrays[TIMESTAMP], block.part[kept], codes)
    for writer in writers.values():
        writer.close()
    return dropped


def _left_alone(block: Block, known: Array) -> Array:
    """Return [e] True for test events that are the only one of their session whose item is `known` [e]."""
    starts = np.flatnonzero(block.first)
    alone: Array = np.add.reduceat(known, starts, dtype=np.int64) == 1
    flags: Array = known & (block.part == TEST) & np.repeat(alone, np.diff(starts, append=len(known)))
    return flags


def _session_arrays(block: Block, keep: Array, begin: int) -> tuple[dict[str, Array], Array]:
    """Return the arrays [s] of the sessions that keep an event, from event number `begin` on, and their lengths [s]."""
    starts = np.flatnonzero(block.first)
    flags = (keep, keep & (block.part == TRAIN), keep & (block.part == TEST))
    length, train, tested = (np.add.reduceat(flag, starts, dtype=np.int64) for flag in flags)
    some = length > 0
    length, train, tested = length[some], train[some], tested[some]
    end = begin + np.cumsum(length)
    returning = block.columns[RETURNING][starts][some]
    ends = {"offsets": end, "train_end": end - length + train, "validation_end": end - tested}
    return {**ends, RETURNING: returning}, length
