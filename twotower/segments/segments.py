"""Segments: users, or sessions, whose vectors lie together, and what marks each of them.

The folder lies beside the bundle, for it names people where the file of events does, and the bundle never does:

    members.parquet    user_id or session_id (position: among the run's prepared sessions), segment, distance
    segments.parquet   a row for each segment: see marks.Segment
    centroids.npy      [C, D] float32: what puts a new user vector into the nearest segment
    index.html         the same for people, with a map

A distance is one minus the cosine where that is the bundle's similarity, else Euclidean. No segment has fewer members
than the privacy floor, and no value of an item feature is named that fewer members of the segment have met.

Shapes: S histories, N of them members (something of theirs is known), C segments, D embedding dim.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from twotower.core.errors import UserError
from twotower.core.files import atomic_directory, write_bytes
from twotower.core.schema import ITEM_NAME, ITEMS_FILE
from twotower.segments.clusters import SAMPLE, centroids_of, large_clusters
from twotower.segments.page import MAPPED, segments_page
from twotower.segments.profiles import Near, Segment, Tally, item_columns
from twotower.segments.user_histories import Histories, Source, encode, known_part, parts, require_count
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.golden import best
from twotower.serving.manifest import COSINE

MEMBERS_FILE, SEGMENTS_FILE = "members.parquet", "segments.parquet"
CENTROIDS_FILE, PAGE_FILE = "centroids.npy", "index.html"
NEAREST = 5  # items that are named
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SegmentsReport:
    """What was found."""

    path: Path
    whose: str  # users or sessions
    asked: int  # segments
    min_size: int
    segments: list[Segment]
    unknown: int  # histories of which the bundle knows no item; they are in no segment
    left_out: int  # rows of the file of events that could not be used

    def __str__(self) -> str:
        """In plain words."""
        sizes = [segment.size for segment in self.segments]
        what = "segment" if len(sizes) == 1 else "segments"
        text = f"{len(sizes)} {what} of {sum(sizes):,} {self.whose}: {', '.join(f'{size:,}' for size in sizes)}"
        if len(sizes) < self.asked:
            text += (
                f"\nthat is fewer than the {self.asked} asked for: others had fewer than min_size={self.min_size} "
                f"{self.whose}, or nothing told them apart; their {self.whose} went to the nearest segment that is left"
            )
        if self.unknown:
            text += f"\n{self.unknown:,} {self.whose} are in none: the bundle has no item of theirs"
        if self.left_out:
            text += f"\n{self.left_out:,} events were left out: no id, item, time or consent"
        return text


def write_segments(
    bundle_path: Path, source: Source, out: Path, number: int, min_size: int = 50, seed: int = 0
) -> SegmentsReport:
    """Divide users into segments by k-means over their vectors, as the bundle's user tower gives them.

    Memory does not grow with the histories but for what `source` keeps and 30 bytes each; their vectors are in a
    file while it goes on.

    Args:
        bundle_path: the bundle; it stays as it is.
        source: gives the histories: user_histories.run_sessions or events_file.read_events.
        out: a new folder.
        number: of segments; there are fewer where some would be smaller than `min_size`.
        min_size: the privacy floor: members that a segment has at least.
        seed: of k-means and of the sample that is on the map.

    Raises:
        UserError: `out` exists, nobody has a history with an item of the bundle, or all together are fewer than
            `min_size`; see `source`, too.
    """
    require_count("segments.number", number)
    require_count("segments.min_size", min_size)
    bundle = open_bundle(bundle_path)
    histories = source(bundle)
    cosine = bundle.manifest["similarity"] == COSINE
    random = np.random.default_rng(seed)
    with atomic_directory(out) as directory:
        scratch = directory / "vectors.npy"
        row, users = _encode_all(bundle, histories, scratch)
        _require(len(row) >= min_size, histories, len(row), min_size)
        sample = np.sort(random.choice(len(row), min(SAMPLE, len(row)), replace=False))
        centroids = centroids_of(users[sample], number, cosine, seed)
        centroids, segment, distance = large_clusters(users, centroids, cosine, min_size)
        tally = _tally(bundle, histories, row, segment, len(centroids))
        found = _segments(bundle, tally, histories, centroids, min_size)

        columns = {histories.id_name: histories.ids.take(pa.array(row))}
        columns |= {"segment": pa.array(segment + 1, pa.int32()), "distance": pa.array(np.maximum(distance, 0))}
        pq.write_table(pa.table(columns), directory / MEMBERS_FILE)
        pq.write_table(_table(found, bundle.item_ids.type), directory / SEGMENTS_FILE)
        np.save(directory / CENTROIDS_FILE, centroids, allow_pickle=False)
        mapped = np.sort(random.choice(len(row), min(MAPPED, len(row)), replace=False))
        page = segments_page(bundle_path.name, histories.whose, found, users[mapped], segment[mapped], min_size)
        write_bytes(directory / PAGE_FILE, page.encode())
        del users
        scratch.unlink()
    return SegmentsReport(
        out, histories.whose, number, min_size, found, len(histories.ids) - len(row), histories.left_out
    )


def _encode_all(bundle: Bundle, histories: Histories, file: Path) -> tuple[Ints, Floats]:
    """[N] which histories are members, and [N, D] their vectors, memory-mapped."""
    users = open_memmap(file, "w+", np.float32, (max(1, len(histories.ids)), bundle.vectors.shape[1]))
    rows, count = [], 0
    for start, stop in parts(histories, "user vectors"):
        vectors = encode(bundle, histories, start, stop)
        known = np.flatnonzero(~np.isnan(vectors[:, 0]))
        users[count : count + len(known)] = vectors[known]
        rows.append(start + known)
        count += len(known)
    row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    return row, users[:count]


def _require(enough: bool, histories: Histories, known: int, min_size: int) -> None:
    if known == 0:
        raise UserError(
            f"none of {len(histories.ids):,} {histories.whose} has an item of the bundle, so there is nobody to "
            "divide; are the item ids those of the catalogue?"
        )
    if not enough:
        raise UserError(
            f"{known:,} {histories.whose} are known, and a segment needs segments.min_size={min_size} of them; give "
            "more events, or set a lower floor if your rules on privacy allow it"
        )


def _tally(bundle: Bundle, histories: Histories, row: Ints, segment: Ints, number: int) -> Tally:
    tally = Tally(number, len(histories.event_types), *item_columns(bundle))
    for start, stop in parts(histories, "what marks segments"):
        known, event_type = known_part(histories, start, stop)
        mine = segment[slice(*np.searchsorted(row, [start, stop]))]
        some = known.length > 0
        tally.add(known._replace(length=known.length[some]), event_type, mine)
    return tally


def _segments(bundle: Bundle, tally: Tally, histories: Histories, centroids: Floats, min_size: int) -> list[Segment]:
    rows, scores = best(centroids, bundle.vectors, min(NEAREST, len(bundle.vectors)))
    file = bundle.file(ITEMS_FILE)
    names = [None] * rows.size
    if ITEM_NAME in pq.read_schema(file).names:
        names = pq.read_table(file, columns=[ITEM_NAME])[ITEM_NAME].take(pa.array(rows.ravel())).to_pylist()
    ids = bundle.item_ids.take(pa.array(rows.ravel())).to_pylist()
    items = [Near(*near) for near in zip(ids, names, scores.ravel().tolist(), strict=True)]
    k = rows.shape[1]
    described = zip(tally.event_mix(histories.event_types), tally.marks(min_size), tally.means(), strict=True)
    return [
        Segment(i + 1, int(size), float(size / tally.members.sum()), *rest, items[k * i : k * (i + 1)])
        for i, (size, rest) in enumerate(zip(tally.members, described, strict=True))
    ]


def _table(segments: list[Segment], id_type: pa.DataType) -> pa.Table:
    def records(**fields: pa.DataType) -> pa.DataType:
        return pa.list_(pa.struct(list(fields.items())))

    number, text = pa.float64(), pa.string()
    schema = pa.schema(
        [
            ("segment", pa.int32()),
            ("size", pa.int64()),
            ("share", number),
            ("event_mix", records(event_type=text, share=number, share_of_all=number)),
            ("marks", records(feature=text, value=text, share=number, share_of_all=number, lift=number)),
            ("means", records(name=text, mean=number, mean_of_all=number)),
            ("items", records(item_id=id_type, item_name=text, score=number)),
        ]
    )
    rows: list[dict[str, Any]] = [
        {
            **segment._asdict(),
            "event_mix": [
                dict(zip(("event_type", "share", "share_of_all"), m, strict=True)) for m in segment.event_mix
            ],
            "marks": [mark._asdict() for mark in segment.marks],
            "means": [mean._asdict() for mean in segment.means],
            "items": [item._asdict() for item in segment.items],
        }
        for segment in segments
    ]
    return pa.Table.from_pylist(rows, schema)
