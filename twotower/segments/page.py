"""The page of segments (index.html): a map, and the profile of each segment.

Shapes: C segments, n members on the map, D embedding dim.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.plots import item_map
from twotower.report.projection import principal_components
from twotower.report.svg import COLORS
from twotower.segments.profiles import Segment

MOST_ON_MAP = 2000  # members
Array = npt.NDArray[Any]


def segments_page(
    bundle: str, whose: str, segments: Sequence[Segment], users: Array, segment: Array, min_size: int
) -> str:
    """Return the page as HTML; it holds no ids of users.

    Args:
        bundle: its name.
        whose: users or sessions.
        segments: [C].
        users, segment: [n, D] vectors of members, and [n] the index of their segment.
        min_size: the privacy floor.
    """
    members = sum(each.size for each in segments)
    tiles = {whose: f"{members:,}", "segments": f"{len(segments)}", "privacy floor": f"{min_size:,}"}
    note = "K-means over user vectors, as the bundle encodes them. In shares and means each of them counts the same."
    rows = [
        [str(each.segment), f"{each.size:,}", f"{each.share:.1%}", *(_number(mean.mean) for mean in each.means)]
        for each in segments
    ]
    numbers = table(["segment", whose, "share", *(mean.name for mean in segments[0].means)], rows)
    parts = [
        heading(f"Segments of {whose} by {bundle}", note, tiles),
        card("All segments", numbers, f"means over {whose}: events of a history, and numbers of their items"),
        grid([_map(whose, segments, users, segment), *(_card(whose, each) for each in segments)]),
    ]
    return document(f"Segments by {bundle}", parts)


def _map(whose: str, segments: Sequence[Segment], users: Array, segment: Array) -> Markup:
    place, variance = principal_components(users)
    names = [str(each.segment) for each in segments]
    if len(names) > len(COLORS):
        names = [*names[: len(COLORS) - 1], "others"]
    caption = f"{len(users):,} {whose}, a random sample; the two directions have {variance:.0%} of the variance"
    plot = item_map(place, np.minimum(segment, len(names) - 1), names)
    return figure("Map: principal components of the vectors", plot, caption, names)


def _card(whose: str, each: Segment) -> Markup:
    tables = Markup("")
    if each.profile:
        rows = [
            [f"{p.feature}: {p.value}", f"{p.share:.1%}", f"{p.share_of_all:.1%}", f"{p.lift:.2f}"]
            for p in each.profile
        ]
        tables += table([f"{whose} with an item of", "share", "of all", "lift"], rows)
    if each.event_mix:
        rows = [[mix.event_type, f"{mix.share:.1%}", f"{mix.share_of_all:.1%}"] for mix in each.event_mix]
        tables += table(["event type", "share", "of all"], rows)
    rows = [[mean.name, _number(mean.mean), _number(mean.mean_of_all)] for mean in each.means]
    tables += table(["mean", "segment", "all"], rows)
    names = (str(n.item_id) if n.item_name is None else f"{n.item_name} [{n.item_id}]" for n in each.items)
    rows = [[name, f"{near.score:.3f}"] for name, near in zip(names, each.items, strict=True)]
    tables += table(["nearest items", "score"], rows)
    return card(f"Segment {each.segment}: {each.size:,} {whose}, {each.share:.1%}", tables)


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:,.2f}"
