"""Plots of a sweep's page. Shapes: T trials, P settings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from twotower.report.svg import COLORS, svg


@svg
def history(
    axes: Any,
    numbers: Sequence[int],
    values: Sequence[float],
    pruned: Sequence[int],
    last: Sequence[float],
    maximize: bool,
    label: str,
) -> None:
    """Draw the values [T] of complete trials, and the last ones of pruned trials, by trial number."""
    order = np.argsort(numbers)
    ordered = np.array(values)[order]
    best = (np.maximum if maximize else np.minimum).accumulate(ordered)
    axes.step(np.array(numbers)[order], best, where="post", color=COLORS[0], linewidth=1.4)
    axes.scatter(np.array(numbers)[order], ordered, color=COLORS[0], s=14)
    axes.scatter(pruned, last, color=COLORS[1], s=14, marker="x")
    axes.set_xlabel("trial")
    axes.set_title(label, loc="left", fontsize=9)


@svg
def importances(axes: Any, names: Sequence[str], weights: Sequence[float]) -> None:
    """Draw a bar for each setting [P]."""
    place = np.arange(len(names))[::-1]
    axes.set_position((0.38, 0.12, 0.58, 0.8))
    axes.barh(place, weights, color=COLORS[0], height=0.6)
    axes.set_yticks(place, names, fontsize=8)
    axes.grid(axis="y", visible=False)


@svg
def settings(axes: Any, values: Sequence[Any], objective: Sequence[float], log: bool, label: str) -> None:
    """Draw the objective [T] of each trial by its value of one setting."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    if all(isinstance(value, int | float) for value in values):
        axes.scatter(values, objective, color=COLORS[0], s=14)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(isinstance(value, int) for value in values)))
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        names = sorted({str(value) for value in values}, key=lambda text: (len(text), text))
        axes.scatter([names.index(str(value)) for value in values], objective, color=COLORS[0], s=14)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_title(label, loc="left", fontsize=9)


@svg
def trade_off(
    axes: Any, x: Sequence[float], y: Sequence[float], front: Sequence[bool], x_label: str, y_label: str
) -> None:
    """Draw two objectives [T] against each other; `front` [T] marks the Pareto-optimal trials."""
    axes.scatter(x, y, color=COLORS[0], s=[40 if best else 12 for best in front])
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", fontsize=9)
