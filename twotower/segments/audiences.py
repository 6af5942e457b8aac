"""Audiences: the users, or sessions, that are nearest to an item.

A Parquet file with a row for each place: item_id, rank (1 is the nearest), user_id or session_id (position: among the
run's prepared sessions), score (the bundle's similarity). It lies beside the bundle, which never names people.

Shapes: I items, S histories, s of a part, k places, D embedding dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import make_once
from twotower.core.schema import ITEM_ID
from twotower.segments.user_histories import Histories, Source, encode, parts, require_count
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.item_rows import rows_of

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
ItemId = int | str


@dataclass(frozen=True)
class AudienceReport:
    """What was written."""

    path: Path
    whose: str  # users or sessions
    items: list[ItemId]  # that have an audience
    size: int  # of each
    missing: list[ItemId]  # items that the bundle does not have
    unknown: int  # histories of which the bundle knows no item; they are in no audience
    left_out: int  # rows of the file of events that could not be used

    def __str__(self) -> str:
        """In plain words."""
        text = f"audiences of {', '.join(map(str, self.items))}: {self.size:,} {self.whose} each"
        if self.missing:
            text += f"\nno audience for {', '.join(map(str, self.missing))}: the bundle does not have them"
        if self.unknown:
            text += f"\n{self.unknown:,} {self.whose} are in none: the bundle has no item of theirs"
        if self.left_out:
            text += f"\n{self.left_out:,} events were left out: no id, item, time or consent"
        return text


def write_audience(
    bundle_path: Path, items: Sequence[ItemId], source: Source, out: Path, k: int = 1000, min_size: int = 50
) -> AudienceReport:
    """Write the k nearest users of each item, as Retriever.audience has them; of equal ones the first.

    Memory: what `source` keeps, and 12 bytes for each item and place.

    Args:
        bundle_path: the bundle; it stays as it is.
        items: ids; a text that is a number is one where the catalogue's ids are numbers, and the other way round.
        source: gives the histories: user_histories.run_sessions or events_file.read_events.
        out: a new Parquet file.
        k: places of an audience; there are fewer where not so many users are known.
        min_size: the privacy floor: an audience that would be smaller is not written.

    Raises:
        UserError: `out` exists, the bundle has none of the items, or audiences would be smaller than `min_size`; see
            `source`, too.
    """
    require_count("audience.k", k)
    require_count("audience.min_size", min_size)
    if k < min_size:
        raise UserError(
            f"audience.k={k} is below audience.min_size={min_size}, the smallest audience that may be written; "
            "raise k, or lower the floor if your rules on privacy allow it"
        )
    if out.exists():
        raise UserError(f"{out} exists already; delete it, or name another file")
    bundle = open_bundle(bundle_path)
    ids = _in_type(bundle, items)
    row = rows_of(ids, bundle.item_ids)
    found, missing = ids.filter(pa.array(row >= 0)), ids.filter(pa.array(row < 0)).to_pylist()
    if len(found) == 0:
        raise UserError(
            f"the bundle has none of the items {', '.join(map(str, missing)) or '(none are given)'}; it has ids like "
            f"{bundle.item_ids[0].as_py()!r}"
        )
    histories = source(bundle)
    nearest, scores, known = _nearest(bundle, histories, np.array(bundle.vectors[row[row >= 0]]), k)
    if known < min_size:
        raise UserError(
            f"{known:,} of {len(histories.ids):,} {histories.whose} have an item of the bundle, fewer than "
            f"audience.min_size={min_size}: no audience was written; give more events, or set a lower floor if your "
            "rules on privacy allow it"
        )
    size = nearest.shape[1]
    columns = {
        ITEM_ID: found.take(pa.array(np.repeat(np.arange(len(found)), size))),
        "rank": pa.array(np.tile(np.arange(1, size + 1), len(found)), pa.int32()),
        histories.id_name: histories.ids.take(pa.array(nearest.ravel())),
        "score": pa.array(scores.ravel()),
    }
    make_once(out, lambda file: pq.write_table(pa.table(columns), file))
    unknown = len(histories.ids) - known
    return AudienceReport(out, histories.whose, found.to_pylist(), size, missing, unknown, histories.left_out)


def _in_type(bundle: Bundle, items: Sequence[ItemId]) -> pa.Array:
    """Different ids in the catalogue's type: a command line does not tell the text 12 from the number."""
    try:
        return pa.array(list(dict.fromkeys(map(str, items))), pa.string()).cast(bundle.item_ids.type)
    except pa.ArrowException:
        raise UserError(
            f"audience.items={list(items)}: the bundle has numbers for ids, like {bundle.item_ids[0].as_py()}"
        ) from None


def _nearest(bundle: Bundle, histories: Histories, vectors: Floats, k: int) -> tuple[Ints, Floats, int]:
    """[I, k] histories nearest to item vectors [I, D] and their scores, and how many histories are known at all."""
    rows, scores = np.empty((len(vectors), 0), dtype=np.int64), np.empty((len(vectors), 0), dtype=np.float32)
    known = 0
    for start, stop in parts(histories, "audience"):
        users = encode(bundle, histories, start, stop)
        some = np.flatnonzero(~np.isnan(users[:, 0]))
        known += len(some)
        new = np.broadcast_to(start + some, (len(vectors), len(some)))
        rows = np.concatenate([rows, new], axis=1)
        scores = np.concatenate([scores, vectors @ users[some].T], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores, known
