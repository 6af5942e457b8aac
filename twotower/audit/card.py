"""The data card: one page that shows what was prepared, for people. It holds no id of a user, a session or an item."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from twotower.audit import plots
from twotower.audit.findings import CHECKS, Finding
from twotower.audit.plots import COLORS, PARTS
from twotower.files import read_json
from twotower.schema import CATALOGUE_FILE, FEATURES_FILE, Prepared, read_item_features

Statistics = Mapping[str, Any]
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
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
td:not(:first-child) { white-space: nowrap; }
svg { width: 100%; height: auto; display: block; } svg * { stroke-linejoin: round; }
svg text { font-family: inherit !important; }
.bar { display: grid; grid-template-columns: 1fr auto; gap: 1px 12px; margin: 0 0 8px; overflow-wrap: anywhere; }
.bar i { grid-column: 1 / -1; height: 14px; min-width: 2px; border-radius: 3px; }
.chip { white-space: nowrap; margin-right: 12px; } .chip i { display: inline-block; width: 10px; height: 10px;
  border-radius: 3px; margin-right: 5px; }
"""


def data_card(prepared: Prepared, statistics: Statistics, findings: Sequence[Finding]) -> str:
    """The page as HTML in one piece: without scripts, and without anything that is loaded from elsewhere.

    Args:
        prepared: the sessions' bounds, the catalogue's counts and the item features are read from it.
        statistics: what preparation counted.
        findings: the audit's.
    """
    title = " · ".join(["Data card", *filter(None, [prepared.manifest.get("name")])])
    cards = [
        _rows(statistics),
        _split(statistics),
        _types(statistics),
        *_plots(prepared, statistics),
        _inputs(prepared, statistics),
        _item_features(prepared, statistics),
    ]
    body = [_header(title, prepared, statistics), *_findings(findings), '<div class="grid">', *cards, "</div>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _header(title: str, prepared: Prepared, statistics: Statistics) -> str:
    days, rows = sorted(statistics["days"]), statistics["rows"]
    sessions = sum(statistics["session_lengths"].values())
    span = (
        f"Events from {days[0]} to {days[-1]}" if days else "The timestamps are ordinals: they tell an order, no time"
    )
    tiles = {"rows read": rows["read"], "events kept": rows["kept"], "sessions": sessions, "items": prepared.num_items}
    tiles["event types"] = len(prepared.event_types)
    return (
        f'<h1>{escape(title)}</h1>\n<p class="soft">{span}. Sessions from '
        f'{escape(statistics["session_source"])}.</p>\n<div class="tiles">'
        + "".join(f'<div class="tile"><b>{n:,}</b><span class="soft">{name}</span></div>' for name, n in tiles.items())
        + "</div>"
    )


def _findings(findings: Sequence[Finding]) -> Iterable[str]:
    if not findings:
        yield f'<div class="finding good"><b>The audit found nothing</b> in {len(CHECKS)} checks.</div>'
    for finding in sorted(findings, key=lambda f: f["level"]):  # errors first
        level, name = finding["level"], escape(CHECKS.get(finding["check"], finding["check"]))
        message = escape(finding["message"][:1].upper() + finding["message"][1:])
        yield f'<div class="finding {level}"><b>{level.capitalize()}: {name}</b><br>{message}</div>'


def _rows(statistics: Statistics) -> str:
    rows = statistics["rows"]
    listed = [("read", rows["read"]), *sorted(rows["dropped"].items(), key=lambda item: -item[1])]
    listed.append(("kept", rows["kept"]))
    table = [
        (name if name in ("read", "kept") else f"left out: {name}", f"{n:,}", _share(n, rows["read"]))
        for name, n in listed
    ]
    return _card("Rows", _table(("", "rows", "share"), table))


def _split(statistics: Statistics) -> str:
    parts = {part: sum(n[part] for n in statistics["types"].values()) for part in PARTS}
    targets, kind = statistics["targets_outside_catalogue"], statistics["split"]["kind"].replace("_", "-")
    left_out = _share(targets["outside"], targets["test_events"])
    note = f"{kind}, in events; {left_out} of the test's had an item outside the catalogue and were left out"
    return _card("Split", _bars(parts), note)


def _types(statistics: Statistics) -> str:
    types = {name: statistics["types"][name] for name in _by_count(statistics)}
    table = [(name, *(f"{n[part]:,}" for part in PARTS)) for name, n in types.items()]
    bars = _bars({name: sum(n.values()) for name, n in types.items()})
    return _card("Funnel: events by type", bars + _table(("", *PARTS), table)) if len(types) > 1 else ""


def _by_count(statistics: Statistics) -> list[str]:
    """Event types, the most frequent first."""
    return sorted(statistics["types"], key=lambda name: -sum(statistics["types"][name].values()))


def _plots(prepared: Prepared, statistics: Statistics) -> Iterable[str]:
    if len(statistics["days"]) > 1:
        types = _by_count(statistics)[: len(COLORS)]
        svg = plots.events_over_time(statistics["days"], types, statistics["split"])
        yield _figure("Events over time", svg, legend=types if len(types) > 1 else ())
    elif not statistics["days"]:
        svg = plots.events_by_position(prepared.offsets, prepared.train_end, prepared.validation_end)
        yield _figure("Events by position in the log", svg, legend=PARTS)
    lengths, count = np.array(sorted((int(n), c) for n, c in statistics["session_lengths"].items())).T
    middle, most = (lengths[np.searchsorted(np.cumsum(count), q * count.sum())] for q in (0.5, 0.99))
    caption = f"half have up to {middle:,} events, 99% up to {most:,}; the longest {lengths[-1]:,}"
    yield _figure("Session length", plots.session_lengths(lengths, count), caption)
    trained = pq.read_table(prepared.path / CATALOGUE_FILE, columns=["train_count"])["train_count"].to_numpy()
    top = np.sort(trained)[::-1][: max(1, len(trained) // 100)].sum()
    caption = f"the most popular 1% of the items have {_share(top, trained.sum())} of the training events; "
    caption += f"{_share(np.count_nonzero(trained < 5), len(trained))} of the items have under 5"
    yield _figure("Popularity", plots.popularity(trained), caption)
    if any(statistics["hours"]):
        zone = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["time_zone"]
        yield _figure("Hour of the day", plots.hours_of_day(statistics["hours"]), f"by the clocks of {zone}")


def _inputs(prepared: Prepared, statistics: Statistics) -> str:
    """Codes of each event input, and how often it is unknown."""
    table = []
    for name, size in prepared.manifest["inputs"].items():
        counts = statistics["input_counts"][name]
        events = sum(sum(part.values()) for part in counts.values())
        unknown = sum(part.get("0", 0) for part in counts.values())
        seen = len(counts["train"].keys() - {"0"})
        table.append((name, f"{size - 1:,}", f"{seen:,}", _share(unknown, events)))
    return _card("Event inputs", _table(("", "values", "in training", "unknown"), table))


def _item_features(prepared: Prepared, statistics: Statistics) -> str:
    """Form and size of each item feature, and how many items lack it."""
    features = prepared.manifest["item_features"]
    if not features:
        return ""
    arrays, table = read_item_features(prepared.path), []
    for name, facts in features.items():
        encoder = statistics["encoders"]["items"].get(name, {})
        if facts["form"] == "bags":
            codes, offsets = arrays[f"{name}.codes"], arrays[f"{name}.offsets"]
            known = np.concatenate([[0], np.cumsum(codes != 0)])
            missing = np.count_nonzero(known[offsets[1:]] == known[offsets[:-1]])
        else:
            missing = np.count_nonzero(arrays[f"{name}.values"][:, -1])  # the last column tells a null
        table.append((name, str(encoder.get("kind", "")), f"{facts['size']:,}", _share(missing, prepared.num_items)))
    note = f"{statistics['items_without_features']:,} items are not in the items' table"
    return _card("Item features", _table(("", "kind", "codes or width", "items without"), table), note)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return (
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table>"
    )


def _card(title: str, body: str, note: str = "") -> str:
    return f'<section class="card"><h2>{title}</h2>{body}<p class="soft">{escape(note)}</p></section>'


def _figure(title: str, svg: str, caption: str = "", legend: Iterable[str] = ()) -> str:
    chips = "".join(
        f'<span class="chip"><i style="background: {color}"></i>{escape(name)}</span>'
        for name, color in zip(legend, COLORS, strict=False)
    )
    return f'<figure class="card"><h2>{title}</h2>{svg}<figcaption>{chips}{escape(caption)}</figcaption></figure>'


def _bars(counts: Mapping[str, int]) -> str:
    """A horizontal bar for each name, with its number and its share of all."""
    total, most = sum(counts.values()), max(1, *counts.values())
    lines = [
        f'<p class="bar"><span>{escape(name)}</span><span class="soft">{count:,} · {_share(count, total)}</span>'
        f'<i style="width: {100 * count / most:.2f}%; background: {color}"></i></p>'
        for (name, count), color in zip(counts.items(), COLORS, strict=False)
    ]
    return "".join(lines)


def _share(part: Any, whole: Any) -> str:
    percent = 100 * part / max(1, whole)
    if 0 < percent < 0.01 or 99.99 < percent < 100:
        return "<0.01%" if percent < 1 else ">99.99%"
    return f"{percent:.2f}".rstrip("0").rstrip(".") + "%"
