"""Plots of the data card. Shapes: V items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.report.svg import COLORS, INK, date_axis, svg, units

Array = npt.NDArray[Any]
PARTS = ("train", "validation", "test")
POINTS = 150  # of a line, at most: the eye sees no more


@svg
def events_over_time(axes: Any, days: Mapping[str, Mapping[str, int]], types: Sequence[str], split: Any) -> None:
    """Draw events a day of each type, a line each; where there are many days, means over several of them."""
    names = np.array(sorted(days), dtype="datetime64[D]")
    place = (names - names[0]).astype(np.int64)
    width = -(-(int(place[-1]) + 1) // POINTS)
    size = np.bincount(np.arange(place[-1] + 1) // width)
    start = names[0] + np.arange(len(size)) * width
    for color, kind in zip(COLORS, types, strict=False):
        events = [days[str(day)].get(kind, 0) for day in names]
        rate = np.bincount(place // width, weights=events, minlength=len(size)) / size
        axes.plot(start, np.where(rate > 0, rate, np.nan) if len(types) > 1 else rate, color=color, linewidth=1.4)
    units(axes, "y", log=len(types) > 1)
    if len(types) == 1:
        axes.set_ylim(bottom=0)
    for part in PARTS[1:]:
        if f"{part}_start" in split:
            at = np.datetime64(split[f"{part}_start"], "ms")
            axes.axvline(at, color=INK, linewidth=0.9, linestyle="--")
            axes.annotate(f" {part} ", (at, 1), xycoords=("data", "axes fraction"), va="bottom",
                          ha="left" if part == "test" else "right", fontsize=9)  # fmt: skip
    date_axis(axes, 7)
    axes.set_title("events a day", loc="left", fontsize=9)


@svg
def session_lengths(axes: Any, lengths: Array, sessions: Array) -> None:
    """Draw the share of sessions with so many events or more; both arrays by ascending length."""
    from matplotlib.ticker import FuncFormatter

    share = 100 * np.cumsum(sessions[::-1])[::-1] / sessions.sum()
    rows = _logarithmic(len(lengths))
    axes.plot(
        np.append(1, lengths[rows]), np.append(100, share[rows]), color=COLORS[0], linewidth=1.6, drawstyle="steps-pre"
    )
    units(axes, "x", log=True)
    units(axes, "y", log=True)
    axes.set_ylim(min(share.min() / 1.3, 50), 130)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set_xlabel("events, or more")
    axes.set_title("share of the sessions", loc="left", fontsize=9)


@svg
def popularity(axes: Any, counts: Array) -> None:
    """Draw training events of each item [V], in descending order."""
    ordered = np.sort(counts[counts > 0])[::-1]
    rows = _logarithmic(len(ordered))
    axes.plot(rows + 1, ordered[rows], color=COLORS[0], linewidth=1.6)
    units(axes, "x", log=True)
    units(axes, "y", log=True)
    axes.set_xlabel("items by rank")
    axes.set_title("training events", loc="left", fontsize=9)


@svg
def hours_of_day(axes: Any, hours: Sequence[int]) -> None:
    """Draw events by local hour [24]."""
    axes.bar(np.arange(24) + 0.5, hours, width=0.86, color=COLORS[0])
    axes.set_xticks(range(0, 25, 3))
    axes.grid(axis="x", visible=False)
    units(axes, "y")
    axes.set_xlabel("hour of the day")
    axes.set_title("events", loc="left", fontsize=9)


def _logarithmic(size: int) -> Array:
    """Return up to POINTS positions below `size`, evenly spaced on a logarithmic scale."""
    return np.unique(np.geomspace(1, max(size, 1), POINTS).astype(np.int64)) - 1
