"""Plots of the pages on runs, backtests and segments. Shapes: V items, G groups, E epochs, N points of a map."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.report.svg import COLORS, date_axis, svg, units

Array = npt.NDArray[Any]
BINS = 40


@svg
def groups(axes: Any, names: Sequence[str], *series: Sequence[Sequence[float | None]]) -> None:
    """Draw [mean, low, high] of groups [G], one below the other, in a colour for each series; None for no number."""
    axes.figure.set_size_inches(4.7, max(2.6, 0.22 * len(names)))
    axes.set_position((0.26, 0.12, 0.7, 0.78))  # names are wider than numbers
    place = np.arange(len(names))[::-1]
    for k, (color, values) in enumerate(zip(COLORS, series, strict=False)):
        mean, low, high = np.array(values, dtype=float).T
        away = np.nan_to_num(np.abs(np.stack([low, high]) - mean))
        axes.errorbar(mean, place - 0.2 * k, xerr=away, fmt="o", color=color, markersize=4, elinewidth=1.4)
    axes.set_yticks(place, names, fontsize=8)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_title("recall@20, with its 95 % interval", loc="left", fontsize=9)


@svg
def over_time(
    axes: Any,
    places: Sequence[Any],
    curves: Mapping[str, Sequence[Sequence[float | None]]],
    label: str,
    title: str = "recall@20",
) -> None:
    """Draw a line for each name through [mean, low, high] or Nones [E] at `places` [E], integers or times."""
    from matplotlib.ticker import MaxNLocator

    for color, values in zip(cycle(COLORS), curves.values(), strict=False):
        mean, low, high = np.array(values, dtype=float).T
        axes.plot(places, mean, color=color, linewidth=1.6, marker="o", markersize=3)
        axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    if isinstance(places[0], int):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        date_axis(axes, 6)
    axes.set_xlabel(label)
    axes.set_title(title, loc="left", fontsize=9)


@svg
def exposure_and_popularity(axes: Any, counts: Array, exposed: Array) -> None:
    """Draw cumulative shares of training events and of places in lists [V], items in descending popularity."""
    order = np.argsort(-counts, kind="stable")
    edges = np.unique(np.geomspace(1, len(counts), BINS).astype(np.int64))
    begin = np.append(0, edges[:-1])
    for color, values in zip(COLORS, (counts, exposed), strict=False):
        share = 100 * np.add.reduceat(values[order].astype(float), begin) / max(1, values.sum())
        axes.plot(edges, np.cumsum(share), color=color, linewidth=1.6)
    units(axes, "x", log=True)
    axes.set_ylim(0, 103)
    axes.set_xlabel("the most popular items")
    axes.set_title("their share, %", loc="left", fontsize=9)


@svg
def item_map(axes: Any, place: Array, code: Array, names: Sequence[str]) -> None:
    """Draw points [N, 2] in the colours of their groups [N]; groups beyond the colours are grey."""
    for k in range(len(names)):
        axes.scatter(*place[code == k].T, s=5, color=COLORS[min(k, len(COLORS) - 1)], linewidths=0, alpha=0.8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
