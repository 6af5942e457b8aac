"""Plots as inline SVG that takes its text colour from the page."""

import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

COLORS = ("#3d85c6", "#e08a2b", "#4ba36b", "#b565b0", "#c9b03a", "#5bb5b8", "#8a8f98")  # on white and on black
INK = "#010203"  # becomes the page's text colour
MARGINS = (0.14, 0.18, 0.82, 0.72)  # left, bottom, width, height
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "twotower",
    "text.parse_math": False,  # names may hold anything
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
}


def svg(draw: Callable[..., None]) -> Callable[..., str]:
    """Turn a function that draws on axes into one that gives SVG, the same for the same data."""

    @wraps(draw)
    def plot(*data: Any) -> str:
        import matplotlib
        from matplotlib.figure import Figure

        text = io.StringIO()
        with matplotlib.rc_context(SETTINGS):
            figure = Figure(figsize=(4.7, 2.6))
            draw(figure.add_axes(MARGINS), *data)
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        drawn = text.getvalue()
        drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
        drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg role="img" \1>', drawn)
        return re.sub(r"\n\s*", "\n", re.sub(r'<g id="[^"]*"', "<g", drawn))

    return plot


def units(axes: Any, name: str, log: bool = False) -> None:
    """Tick labels such as 20k; a logarithmic axis has room around its data, and labels that fit its range."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axis = getattr(axes, f"{name}axis")
    if log:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        getattr(axes, f"set_{name}lim")(low / 1.3, high * 1.3)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=""))
