"""Segments: users, or sessions, with similar vectors, and a profile of each segment.

The folder is separate from the bundle: it holds user ids where the file of events does, a bundle never does.

    members.parquet    user_id or session_id (position: among the run's prepared sessions), segment, distance
    segments.parquet   a row for each segment: see profiles.Segment
    centroids.npy      [C, D] float32: a new user vector belongs to the nearest
    index.html         the profiles as a page, with a map

A distance is one minus the cosine where that is the bundle's similarity, else Euclidean. No segment has fewer members
than the privacy floor, and no value of an item feature is named that fewer members of the segment have met.

Shapes: S histories, N of them members (with a known item), C segments, D embedding dim.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from twotower.core.files import atomic_directory, write_bytes
from twotower.core.schema import ITEM_NAME, ITEMS_FILE
from twotower.segments.clusters import SAMPLE, centroids_of, large_clusters
from twotower.segments.page import MOST_ON_MAP, segments_page
from twotower.segments.profiles import NearItem, Segment, SegmentCounts, item_columns
from twotower.segments.user_histories import (
    Histories,
    HistorySource,
    known_events,
    known_vectors,
    omissions,
    parts,
    require_floor,
    require_positive_integer,
)
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.bundle_format import COSINE
from twotower.serving.exact_search import exact_top_k

MEMBERS_FILE, SEGMENTS_FILE = "members.parquet", "segments.parquet"
CENTROIDS_FILE, PAGE_FILE = "centroids.npy", "index.html"
NEAREST_ITEMS = 5
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def _records(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


@dataclass(frozen=True)
class SegmentsReport:
    """The segments that were written."""

    path: Path
    whose: str  # users or sessions
    requested: int  # segments
    min_size: int
    segments: list[Segment]
    unknown: int  # histories without an item of the bundle; they are in no segment
    unusable: int  # rows of the file of events that could not be used

    def __str__(self) -> str:
        """Return a summary for the terminal."""
        sizes = [segment.size for segment in self.segments]
        what = "segment" if len(sizes) == 1 else "segments"
        text = f"{len(sizes)} {what} of {sum(sizes):,} {self.whose}: {', '.join(f'{size:,}' for size in sizes)}"
        if len(sizes) < self.requested:
            text += (
                f"\nfewer than the {self.requested} asked for: the others had fewer than min_size={self.min_size} "
                f"{self.whose}, or identical vectors; their {self.whose} went to the nearest segment"
            )
        return text + omissions(self.whose, self.unknown, self.unusable)


def write_segments(
    bundle_path: Path, source: HistorySource, out: Path, number: int, min_size: int = 50, seed: int = 0
) -> SegmentsReport:
    """Divide users into segments by k-means over their vectors, as the bundle's user tower encodes them.

    Memory: what `source` keeps, and 30 bytes a history; vectors are in a temporary file.

    Args:
        bundle_path: the bundle; it is not changed.
        source: returns the histories: prepared_sessions.run_sessions or events_file.read_events.
        out: a new folder.
        number: of segments; there are fewer where some would be smaller than `min_size`.
        min_size: the privacy floor: the least number of members of a segment.
        seed: of k-means and of the sample on the map.

    Raises:
        UserError: `out` exists, no history has an item of the bundle, or all together are fewer than `min_size`; see
            `source`, too.
    """
    require_positive_integer("segments.number", number)
    require_positive_integer("segments.min_size", min_size)
    bundle = open_bundle(bundle_path)
    histories = source(bundle)
    cosine = bundle.manifest["similarity"] == COSINE
    random = np.random.default_rng(seed)
    with atomic_directory(out) as directory:
        scratch = directory / "vectors.npy"
        row, users = _encode_all(bundle, histories, scratch)
        require_floor("segments.min_size", min_size, histories, len(row))
        sample = np.sort(random.choice(len(row), min(SAMPLE, len(row)), replace=False))
        centroids = centroids_of(users[sample], number, cosine, seed)
        centroids, segment, distance = large_clusters(users, centroids, cosine, min_size)
        segments = _describe(bundle, histories, row, segment, centroids, min_size)
        columns = {histories.id_name: histories.ids.take(pa.array(row))}
        columns |= {"segment": pa.array(segment + 1, pa.int32()), "distance": pa.array(np.maximum(distance, 0))}
        pq.write_table(pa.table(columns), directory / MEMBERS_FILE)
        pq.write_table(_table(segments, bundle.item_ids.type), directory / SEGMENTS_FILE)
        np.save(directory / CENTROIDS_FILE, centroids, allow_pickle=False)
        mapped = np.sort(random.choice(len(row), min(MOST_ON_MAP, len(row)), replace=False))
        page = segments_page(bundle_path.name, histories.whose, segments, users[mapped], segment[mapped], min_size)
        write_bytes(directory / PAGE_FILE, page.encode())
        del users
        scratch.unlink()
    unknown = len(histories.ids) - len(row)
    return SegmentsReport(out, histories.whose, number, min_size, segments, unknown, histories.unusable)


def _encode_all(bundle: Bundle, histories: Histories, file: Path) -> tuple[Ints, Floats]:
    """Return [N] the histories that are members, and [N, D] their vectors, memory-mapped."""
    vectors = open_memmap(file, "w+", np.float32, (max(1, len(histories.ids)), bundle.vectors.shape[1]))
    rows, count = [np.zeros(0, dtype=np.int64)], 0
    for row, users in known_vectors(bundle, histories, "user vectors"):
        vectors[count : count + len(row)] = users.vectors
        rows.append(row)
        count += len(row)
    return np.concatenate(rows), vectors[:count]


def _describe(
    bundle: Bundle, histories: Histories, row: Ints, segment: Ints, centroids: Floats, min_size: int
) -> list[Segment]:
    """Return the segments with their profiles; histories [N] `row` are their members."""
    counts = SegmentCounts(len(centroids), len(histories.event_types), *item_columns(bundle))
    for start, stop in parts(histories, "segment profiles"):
        known, event_type = known_events(histories, start, stop)
        own = segment[slice(*np.searchsorted(row, [start, stop]))]
        counts.add(known._replace(length=known.length[known.length > 0]), event_type, own)
    items = _nearest_items(bundle, centroids)
    profiles = zip(counts.event_mix(histories.event_types), counts.profiles(min_size), counts.means(), strict=True)
    return [
        Segment(k, int(size), float(size / counts.members.sum()), *profile, near)
        for k, (size, profile, near) in enumerate(zip(counts.members, profiles, items, strict=True), start=1)
    ]


def _nearest_items(bundle: Bundle, centroids: Floats) -> list[list[NearItem]]:
    rows, scores = exact_top_k(centroids, bundle.vectors, min(NEAREST_ITEMS, len(bundle.vectors)))
    file, flat = bundle.file(ITEMS_FILE), pa.array(rows.ravel())
    names = [None] * rows.size
    if ITEM_NAME in pq.read_schema(file).names:
        names = pq.read_table(file, columns=[ITEM_NAME])[ITEM_NAME].take(flat).to_pylist()
    ids = bundle.item_ids.take(flat).to_pylist()
    items = [NearItem(*near) for near in zip(ids, names, scores.ravel().tolist(), strict=True)]
    return [items[begin : begin + rows.shape[1]] for begin in range(0, rows.size, rows.shape[1])]


def _table(segments: list[Segment], id_type: pa.DataType) -> pa.Table:
    number, text = pa.float64(), pa.string()
    types = {
        "segment": pa.int32(),
        "size": pa.int64(),
        "share": number,
        "event_mix": _records(event_type=text, share=number, share_of_all=number),
        "profile": _records(feature=text, value=text, share=number, share_of_all=number, lift=number),
        "means": _records(name=text, mean=number, mean_of_all=number),
        "items": _records(item_id=id_type, item_name=text, score=number),
    }
    columns = {name: [getattr(segment, name) for segment in segments] for name in types}
    for name in ("event_mix", "profile", "means", "items"):
        columns[name] = [[record._asdict() for record in records] for records in columns[name]]
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})
