"""HTML pages in one file: no scripts, nothing loaded from elsewhere, readable on white, on black and on a phone.

The markup is in templates/ (Jinja2, autoescape on). Each function fills one macro and returns Markup, which templates
insert as it is; any other string is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from twotower.report.svg import COLORS


@cache
def environment() -> Environment:
    """Return the templates' environment; an undefined variable is an error."""
    loader = PackageLoader("twotower.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _fill(macro: str, *values: Any) -> Markup:
    filled: Markup = getattr(environment().get_template("components.html.j2").module, macro)(*values)
    return filled


def document(title: str, parts: Iterable[Markup]) -> str:
    """Return a whole page as text."""
    return environment().get_template("page.html.j2").render(title=title, parts=parts)


def heading(title: str, note: str, tiles: Mapping[str, str]) -> Markup:
    """Return the page title, a line below it, and the most important numbers by name."""
    return _fill("heading", title, note, tiles)


def finding(level: str, title: str, message: str = "") -> Markup:
    """Return a box for a message that must not be overlooked; `level` is error, warning or good."""
    return _fill("finding", level, title, message[:1].upper() + message[1:])


def grid(cards: Iterable[Markup]) -> Markup:
    """Return cards side by side, as many as there is room for."""
    return _fill("grid", cards)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: bool = False) -> Markup:
    """Return a table whose first column is text and whose other columns are numbers; all are text with `texts`."""
    return _fill("table", head, rows, texts)


def card(title: str, body: Markup, note: str = "") -> Markup:
    """Return a titled box."""
    return _fill("card", title, body, note)


def figure(title: str, plot: Markup, caption: str = "", legend: Iterable[str] = ()) -> Markup:
    """Return a plot in a titled box; the legend's names get COLORS in order."""
    return _fill("figure", title, plot, caption, list(zip(legend, COLORS, strict=False)))


def details(summary: str, body: Markup, boxed: bool = False) -> Markup:
    """Return a part that is folded until the reader opens it."""
    return _fill("details", summary, body, boxed)


def bars(counts: Mapping[str, int]) -> Markup:
    """Return a horizontal bar for each name with its count and its share of the total."""
    total, most = sum(counts.values()), max(1, *counts.values())
    rows = [
        (name, f"{count:,} · {share(count, total)}", f"{100 * count / most:.2f}", color)
        for (name, count), color in zip(counts.items(), COLORS, strict=False)
    ]
    return _fill("bars", rows)


def share(part: Any, whole: Any) -> str:
    """Return a percentage; it reads 0% or 100% only where it is exactly that."""
    percent = 100 * part / max(1, whole)
    if 0 < percent < 0.01 or 99.99 < percent < 100:
        return "<0.01%" if percent < 1 else ">99.99%"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + "%"
