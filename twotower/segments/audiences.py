"""Audiences: the users, or sessions, with the highest score for an item.

A Parquet file with a row for each place: item_id, rank (1 is the nearest), user_id or session_id (position: among the
run's prepared sessions), score (the bundle's similarity). It is separate from the bundle, which never holds user ids.

Shapes: I items, S histories, k places, D embedding dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import create_file_once, read_json
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, ITEM_ID
from twotower.core.values import TextForm
from twotower.segments.user_histories import (
    Histories,
    HistorySource,
    known_vectors,
    omissions,
    require_floor,
    require_positive_integer,
)
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.catalogue import rows_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
ItemId = int | str


@dataclass(frozen=True)
class AudienceReport:
    """The audiences that were written."""

    path: Path
    whose: str  # users or sessions
    items: list[ItemId]  # that have an audience
    size: int  # of each
    missing: list[ItemId]  # items that the bundle does not have
    unknown: int  # histories without an item of the bundle; they are in no audience
    unusable: int  # rows of the file of events that could not be used

    def __str__(self) -> str:
        """Return a summary for the terminal."""
        text = f"audiences of {', '.join(map(str, self.items))}: {self.size:,} {self.whose} each"
        if self.missing:
            text += f"\nno audience for {', '.join(map(str, self.missing))}: the bundle does not have them"
        return text + omissions(self.whose, self.unknown, self.unusable)


def write_audience(
    bundle_path: Path, items: Sequence[ItemId], source: HistorySource, out: Path, k: int = 1000, min_size: int = 50
) -> AudienceReport:
    """Write the k nearest users of each item, as Retriever.audience ranks them; of equal ones the first.

    Memory: what `source` keeps, and 12 bytes for each item and place.

    Args:
        bundle_path: the bundle; it is not changed.
        items: ids; "12" is taken as a number where the catalogue's ids are numbers, and the other way round.
        source: returns the histories: prepared_sessions.run_sessions or events_file.read_events.
        out: a new Parquet file.
        k: places of an audience; fewer where there are not so many users.
        min_size: the privacy floor: a smaller audience is not written.

    Raises:
        UserError: `out` exists, the bundle has none of the items, or audiences would be smaller than `min_size`; see
            `source`, too.
    """
    check_sizes(k, min_size)
    if out.exists():
        raise UserError(f"{out} exists already; delete it, or name another file")
    bundle = open_bundle(bundle_path)
    present, missing, rows = _divided(items, bundle.item_ids, bundle.encoder.form)
    histories = source(bundle)
    nearest, scores, known = _nearest(bundle, histories, rows, k)
    require_floor("audience.min_size", min_size, histories, known)
    size = nearest.shape[1]
    columns = {
        ITEM_ID: present.take(pa.array(np.repeat(np.arange(len(present)), size))),
        "rank": pa.array(np.tile(np.arange(1, size + 1), len(present)), pa.int32()),
        histories.id_name: histories.ids.take(pa.array(nearest.ravel())),
        "score": pa.array(scores.ravel()),
    }
    create_file_once(out, lambda file: pq.write_table(pa.table(columns), file))
    unknown = len(histories.ids) - known
    return AudienceReport(out, histories.whose, present.to_pylist(), size, missing, unknown, histories.unusable)


def check_sizes(k: int, min_size: int) -> None:
    """Raise UserError where no audience of `k` places may be written."""
    require_positive_integer("audience.k", k)
    require_positive_integer("audience.min_size", min_size)
    if k < min_size:
        raise UserError(
            f"audience.k={k} is below audience.min_size={min_size}, the smallest audience that may be written; "
            "raise k, or lower the floor if your rules on privacy allow it"
        )


def check_items(items: Sequence[ItemId], run_path: Path) -> None:
    """Raise UserError where none of the items is in a run's catalogue, of which the bundle is to be made."""
    form = TextForm.of(read_json(run_path / FEATURES_FILE, "a run directory"))
    _divided(items, pq.read_table(run_path / CATALOGUE_FILE, columns=[ITEM_ID])[ITEM_ID].combine_chunks(), form)


def _divided(items: Sequence[ItemId], item_ids: pa.Array, form: TextForm) -> tuple[pa.Array, list[ItemId], Ints]:
    """Divide items, without repeats, into those of the catalogue and others; and return the first ones' rows.

    Ids are taken in the catalogue's type, as a command line does not distinguish the text 12 from the number.
    """
    try:
        ids = pa.array(list(dict.fromkeys(map(form.id, items))), pa.string()).cast(item_ids.type).drop_null()
    except pa.ArrowException:
        raise UserError(
            f"audience.items={list(items)}: the bundle has numbers for ids, like {item_ids[0].as_py()}"
        ) from None
    row = rows_of(ids, item_ids)
    present, missing = ids.filter(pa.array(row >= 0)), ids.filter(pa.array(row < 0)).to_pylist()
    if len(present) == 0:
        raise UserError(
            f"the bundle has none of the items {', '.join(map(str, missing)) or '(none are given)'}; it has ids like "
            f"{item_ids[0].as_py()!r}"
        )
    return present, missing, row[row >= 0]


def _nearest(bundle: Bundle, histories: Histories, items: Ints, k: int) -> tuple[Ints, Floats, int]:
    """Return [I, k] histories with the highest scores for items' rows [I], these scores, and how many are known."""
    rows, scores = np.empty((len(items), 0), dtype=np.int64), np.empty((len(items), 0), dtype=np.float32)
    count = 0
    for new, users in known_vectors(bundle, histories, "audience"):
        count += len(new)
        rows = np.concatenate([rows, np.broadcast_to(new, (len(items), len(new)))], axis=1)
        scores = np.concatenate([scores, users.scores_of(items, bundle.vectors)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores, count
