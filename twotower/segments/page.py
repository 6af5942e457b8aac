"""Segments for people: one HTML page with a map and what marks each of them.

Shapes: C segments, n members on the map, D embedding dim.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.plots import item_map
from twotower.report.projection import principal_components
from twotower.report.svg import COLORS
from twotower.segments.profiles import Segment

MAPPED = 2000  # members on the map
Array = npt.NDArray[Any]


def segments_page(
    bundle: str, whose: str, segments: Sequence[Segment], users: Array, segment: Array, min_size: int
) -> str:
    """The page; nobody is named on it.

    Args:
        bundle: its name.
        whose: users or sessions.
        segments: [C].
        users, segment: [n, D] vectors of members, and [n] which of the C they belong to.
        min_size: the privacy floor.
    """
    members = sum(one.size for one in segments)
    tiles = {whose: f"{members:,}", "segments": f"{len(segments)}", "privacy floor": f"{min_size:,}"}
    note = "K-means over user vectors, as the bundle gives them. In shares and means everybody counts the same."
    parts = [
        heading(f"Segments of {whose} by {bundle}", note, tiles),
        card(
            "All segments",
            table(["segment", whose, "share", *(mean.name for mean in segments[0].means)], _rows(segments)),
            f"the means over {whose}: events of a history, and numbers of their items",
        ),
        grid([_map(whose, segments, users, segment), *(_card(whose, one) for one in segments)]),
    ]
    return document(f"Segments by {bundle}", parts)


def _rows(segments: Sequence[Segment]) -> Iterable[list[str]]:
    for one in segments:
        yield [str(one.segment), f"{one.size:,}", f"{one.share:.1%}", *(_number(mean.mean) for mean in one.means)]


def _map(whose: str, segments: Sequence[Segment], users: Array, segment: Array) -> str:
    place, variance = principal_components(users)
    names = [str(one.segment) for one in segments]
    if len(names) > len(COLORS):
        names = [*names[: len(COLORS) - 1], "others"]
    caption = f"{len(users):,} {whose}, drawn by chance; the two directions have {variance:.0%} of the variance"
    drawn = item_map(place, np.minimum(segment, len(names) - 1), names)
    return figure("Map: principal components of the vectors", drawn, caption, names)


def _card(whose: str, one: Segment) -> str:
    tables = []
    if one.marks:
        rows = [
            [f"{mark.feature}: {mark.value}", f"{mark.share:.1%}", f"{mark.share_of_all:.1%}", f"{mark.lift:.2f}"]
            for mark in one.marks
        ]
        tables.append(table([f"{whose} with an item of", "share", "of all", "lift"], rows))
    if one.event_mix:
        rows = [[mix.name, f"{mix.mean:.1%}", f"{mix.mean_of_all:.1%}"] for mix in one.event_mix]
        tables.append(table(["event type", "share", "of all"], rows))
    rows = [[mean.name, _number(mean.mean), _number(mean.mean_of_all)] for mean in one.means]
    tables.append(table(["mean", "here", "of all"], rows))
    rows = [[_name(near.item_name, near.item_id), f"{near.score:.3f}"] for near in one.items]
    tables.append(table(["nearest items", "score"], rows))
    return card(f"Segment {one.segment}: {one.size:,} {whose}, {one.share:.1%}", "".join(tables))


def _name(name: str | None, item_id: int | str) -> str:
    return str(item_id) if name is None else f"{name} [{item_id}]"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:,.2f}"
