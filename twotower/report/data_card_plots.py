"""The data card's plots. Shapes: S sessions, V items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.report.svg import COLORS, INK, svg, units

Array = npt.NDArray[Any]
PARTS = ("train", "validation", "test")
POINTS = 150  # of a line: more cannot be told apart


@svg
def events_over_time(axes: Any, days: Mapping[str, Mapping[str, int]], types: Sequence[str], split: Any) -> None:
    """Events a day of each of `types`, a line each; days are gathered where there are many."""
    import matplotlib.dates

    dates: Any = matplotlib.dates
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
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    axes.set_title("events a day", loc="left", fontsize=9)


@svg
def events_by_position(axes: Any, offsets: Array, train_end: Array, validation_end: Array) -> None:
    """Where time has no unit: events of each part, by the sessions' place in the log; offsets [S + 1], ends [S]."""
    sessions = len(train_end)
    edges = np.linspace(0, sessions, min(60, sessions) + 1).astype(np.int64)
    bounds = [offsets[:-1], train_end, validation_end, offsets[1:]]
    below = np.zeros(len(edges) - 1)
    for color, low, high in zip(COLORS, bounds, bounds[1:], strict=False):
        events = np.add.reduceat(high - low, edges[:-1])
        axes.bar(edges[:-1], events, np.diff(edges), below, align="edge", color=color)
        below += events
    units(axes, "x")
    units(axes, "y")
    axes.set_xlabel("sessions, in the order in which they begin")
    axes.set_title("events", loc="left", fontsize=9)


@svg
def session_lengths(axes: Any, lengths: Array, sessions: Array) -> None:
    """Share of the sessions that have so many events or more; both arrays by rising length."""
    from matplotlib.ticker import FuncFormatter

    share = 100 * np.cumsum(sessions[::-1])[::-1] / sessions.sum()
    some = _spread(len(lengths))
    from_one = np.append(1, lengths[some]), np.append(100, share[some])
    axes.plot(*from_one, color=COLORS[0], linewidth=1.6, drawstyle="steps-pre")
    units(axes, "x", log=True)
    units(axes, "y", log=True)
    axes.set_ylim(min(share.min() / 1.3, 50), 130)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    axes.set_xlabel("events, or more")
    axes.set_title("share of the sessions", loc="left", fontsize=9)


@svg
def popularity(axes: Any, counts: Array) -> None:
    """Training events of each item [V], by falling number."""
    ordered = np.sort(counts[counts > 0])[::-1]
    some = _spread(len(ordered))
    axes.plot(some + 1, ordered[some], color=COLORS[0], linewidth=1.6)
    units(axes, "x", log=True)
    units(axes, "y", log=True)
    axes.set_xlabel("items by rank")
    axes.set_title("training events", loc="left", fontsize=9)


@svg
def hours_of_day(axes: Any, hours: Sequence[int]) -> None:
    """Events by local hour [24]."""
    axes.bar(np.arange(24) + 0.5, hours, width=0.86, color=COLORS[0])
    axes.set_xticks(range(0, 25, 3))
    axes.grid(axis="x", visible=False)
    units(axes, "y")
    axes.set_xlabel("hour of the day")
    axes.set_title("events", loc="left", fontsize=9)


def _spread(size: int) -> Array:
    """Up to POINTS positions below `size`, evenly on a logarithmic scale."""
    return np.unique(np.geomspace(1, max(size, 1), POINTS).astype(np.int64)) - 1
