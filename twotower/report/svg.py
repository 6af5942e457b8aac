"""Plots as inline SVG in the page's text colour."""

import io
import re
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from markupsafe import Markup

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


def svg(draw: Callable[..., None]) -> Callable[..., Markup]:
    """Decorate a function that draws on axes: it returns SVG, the same for the same data."""

    @wraps(draw)
    def plot(*data: Any) -> Markup:
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(SETTINGS):
            figure = Figure(figsize=(4.7, 2.6))
            draw(figure.add_axes(MARGINS), *data)
            return figure_to_svg(figure)

    return plot


def figure_to_svg(figure: Any) -> Markup:
    """Return a matplotlib figure as inline SVG; call it within rc_context(SETTINGS)."""
    text = io.StringIO()
    with warnings.catch_warnings():  # the browser has the fonts for all scripts: the SVG holds text, no glyphs
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg role="img" \1>', drawn)
    return Markup(re.sub(r"\n\s*", "\n", re.sub(r'<g id="[^"]*"', "<g", drawn)))


def date_axis(axes: Any, most: int) -> None:
    """Label the x-axis with `most` dates or fewer."""
    import matplotlib.dates

    dates: Any = matplotlib.dates
    locator = dates.AutoDateLocator(minticks=3, maxticks=most)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def units(axes: Any, name: str, log: bool = False) -> None:
    """Label ticks like 20k; give a logarithmic axis room around its data and ticks that fit its range."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axis = getattr(axes, f"{name}axis")
    if log:
        getattr(axes, f"set_{name}scale")("log")
        low, high = getattr(axes, f"get_{name}lim")()
        getattr(axes, f"set_{name}lim")(low / 1.3, high * 1.3)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=""))
