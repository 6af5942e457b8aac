"""HTML in one piece: no scripts, nothing that is loaded from elsewhere, readable on white and on black."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from twotower.report.svg import COLORS

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667082; --page: #f6f7f9; --card: #fff; --line: #e3e6eb;
  --error: #c62f2f; --warning: #b7791f; --good: #2f855a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa4b2; --page: #14171c; --card: #1d2129;
  --line: #2e343f; --error: #f07575; --warning: #e3b15a; --good: #68c594; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1060px; padding: 24px 16px 48px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.02rem; margin: 0 0 8px; }
p { margin: 4px 0; } .soft, figcaption { color: var(--soft); font-size: .87rem; }
.grid, .tiles { display: grid; gap: 14px; margin-top: 14px; }
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }
.tiles { grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); margin-bottom: 14px; }
.tile, .card, .finding { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card, .finding { padding: 14px 16px; }
.tile { padding: 10px 14px; } .tile b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.card { margin: 0; overflow-x: auto; }
.finding { border-left: 5px solid var(--level); margin-bottom: 8px; overflow-wrap: anywhere; }
.finding b { color: var(--level); }
.error { --level: var(--error); } .warning { --level: var(--warning); } .good { --level: var(--good); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: 4px 10px 4px 0; text-align: right; border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; border-top: 0; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 6.5em; }
td:not(:first-child) { white-space: nowrap; }
svg { width: 100%; height: auto; display: block; } svg * { stroke-linejoin: round; }
svg text { font-family: inherit !important; }
.bar { display: grid; grid-template-columns: 1fr auto; gap: 1px 12px; margin: 0 0 8px; overflow-wrap: anywhere; }
.bar i { grid-column: 1 / -1; height: 14px; min-width: 2px; border-radius: 3px; }
table.texts td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
table.texts th { text-align: left; } details.card { margin-top: 14px; }
summary { cursor: pointer; } a { color: inherit; } pre { font-size: .82rem; overflow-x: auto; }
.chip { white-space: nowrap; margin-right: 12px; } .chip i { display: inline-block; width: 10px; height: 10px;
  border-radius: 3px; margin-right: 5px; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(title: str, note: str, tiles: Mapping[str, str]) -> str:
    """The title, a line below it, and the numbers that matter most, by what they are."""
    return (
        f'<h1>{escape(title)}</h1>\n<p class="soft">{escape(note)}</p>\n<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{n}</b><span class="soft">{escape(name)}</span></div>' for name, n in tiles.items()
        )
        + "</div>"
    )


def finding(level: str, name: str, message: str = "") -> str:
    """What a reader must know: `level` is error, warning or good."""
    text = escape(message[:1].upper() + message[1:])
    return f'<div class="finding {level}"><b>{escape(name)}</b>{"<br>" if text else ""}{text}</div>'


def grid(cards: Iterable[str]) -> str:
    """Cards beside each other, as many as there is room for."""
    return "\n".join(['<div class="grid">', *cards, "</div>"])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return (
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table>"
    )


def card(title: str, body: str, note: str = "") -> str:
    """A titled box."""
    return f'<section class="card"><h2>{title}</h2>{body}<p class="soft">{escape(note)}</p></section>'


def figure(title: str, svg: str, caption: str = "", legend: Iterable[str] = ()) -> str:
    """A plot in a box; the legend's names have the colours in their order."""
    chips = "".join(
        f'<span class="chip"><i style="background: {color}"></i>{escape(name)}</span>'
        for name, color in zip(legend, COLORS, strict=False)
    )
    return f'<figure class="card"><h2>{title}</h2>{svg}<figcaption>{chips}{escape(caption)}</figcaption></figure>'


def bars(counts: Mapping[str, int]) -> str:
    """A horizontal bar for each name, with its number and its share of all."""
    total, most = sum(counts.values()), max(1, *counts.values())
    lines = [
        f'<p class="bar"><span>{escape(name)}</span><span class="soft">{count:,} · {share(count, total)}</span>'
        f'<i style="width: {100 * count / most:.2f}%; background: {color}"></i></p>'
        for (name, count), color in zip(counts.items(), COLORS, strict=False)
    ]
    return "".join(lines)


def share(part: Any, whole: Any) -> str:
    """A percentage that is 0 or 100 only if it is exactly that."""
    percent = 100 * part / max(1, whole)
    if 0 < percent < 0.01 or 99.99 < percent < 100:
        return "<0.01%" if percent < 1 else ">99.99%"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + "%"
