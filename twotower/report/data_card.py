"""The data card: one page that shows what was prepared, for people. It holds no id of a user, a session or an item."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from twotower.audit.findings import CHECKS, Finding
from twotower.core.files import read_json, write_bytes
from twotower.core.schema import (
    AUDIT_FILE,
    CARD_FILE,
    CATALOGUE_FILE,
    FEATURES_FILE,
    STATISTICS_FILE,
    Prepared,
    read_item_features,
)
from twotower.report import data_card_plots as plots
from twotower.report.data_card_plots import PARTS
from twotower.report.html import bars, card, document, figure, finding, grid, heading, share, table
from twotower.report.svg import COLORS

Statistics = Mapping[str, Any]


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
    return document(title, [_header(title, prepared, statistics), *_findings(findings), grid(cards)])


def write_data_card(prepared: Prepared) -> None:
    """Draw the card of a prepared directory into it, unless it is there already or nobody may write there."""
    path = prepared.path / CARD_FILE
    if path.exists() or not (prepared.path / STATISTICS_FILE).exists():
        return
    statistics, findings = (
        read_json(prepared.path / name, "a prepared directory") for name in (STATISTICS_FILE, AUDIT_FILE)
    )
    with suppress(OSError):
        write_bytes(path, data_card(prepared, statistics, findings).encode())


def _header(title: str, prepared: Prepared, statistics: Statistics) -> str:
    days, rows = sorted(statistics["days"]), statistics["rows"]
    sessions = sum(statistics["session_lengths"].values())
    span = (
        f"Events from {days[0]} to {days[-1]}" if days else "The timestamps are ordinals: they tell an order, no time"
    )
    tiles = {"rows read": rows["read"], "events kept": rows["kept"], "sessions": sessions, "items": prepared.num_items}
    tiles["event types"] = len(prepared.event_types)
    note = f"{span}. Sessions from {statistics['session_source']}."
    return heading(title, note, {name: f"{n:,}" for name, n in tiles.items()})


def _findings(findings: Sequence[Finding]) -> Iterable[str]:
    if not findings:
        yield finding("good", f"The audit found nothing in {len(CHECKS)} checks")
    for found in sorted(findings, key=lambda f: f["level"]):  # errors first
        level, name = found["level"], CHECKS.get(found["check"], found["check"])
        yield finding(level, f"{level.capitalize()}: {name}", found["message"])


def _rows(statistics: Statistics) -> str:
    rows = statistics["rows"]
    listed = [("read", rows["read"]), *sorted(rows["dropped"].items(), key=lambda item: -item[1])]
    listed.append(("kept", rows["kept"]))
    lines = [
        (name if name in ("read", "kept") else f"left out: {name}", f"{n:,}", share(n, rows["read"]))
        for name, n in listed
    ]
    return card("Rows", table(("", "rows", "share"), lines))


def _split(statistics: Statistics) -> str:
    parts = {part: sum(n[part] for n in statistics["types"].values()) for part in PARTS}
    targets, kind = statistics["targets_outside_catalogue"], statistics["split"]["kind"].replace("_", "-")
    left_out = share(targets["outside"], targets["test_events"])
    note = f"{kind}, in events; {left_out} of the test's had an item outside the catalogue and were left out"
    return card("Split", bars(parts), note)


def _types(statistics: Statistics) -> str:
    types = {name: statistics["types"][name] for name in _by_count(statistics)}
    lines = [(name, *(f"{n[part]:,}" for part in PARTS)) for name, n in types.items()]
    drawn = bars({name: sum(n.values()) for name, n in types.items()})
    return card("Funnel: events by type", drawn + table(("", *PARTS), lines)) if len(types) > 1 else ""


def _by_count(statistics: Statistics) -> list[str]:
    """Event types, the most frequent first."""
    return sorted(statistics["types"], key=lambda name: -sum(statistics["types"][name].values()))


def _plots(prepared: Prepared, statistics: Statistics) -> Iterable[str]:
    if len(statistics["days"]) > 1:
        types = _by_count(statistics)[: len(COLORS)]
        svg = plots.events_over_time(statistics["days"], types, statistics["split"])
        yield figure("Events over time", svg, legend=types if len(types) > 1 else ())
    elif not statistics["days"]:
        svg = plots.events_by_position(prepared.offsets, prepared.train_end, prepared.validation_end)
        yield figure("Events by position in the log", svg, legend=PARTS)
    lengths, count = np.array(sorted((int(n), c) for n, c in statistics["session_lengths"].items())).T
    middle, most = (lengths[np.searchsorted(np.cumsum(count), q * count.sum())] for q in (0.5, 0.99))
    caption = f"half have up to {middle:,} events, 99% up to {most:,}; the longest {lengths[-1]:,}"
    yield figure("Session length", plots.session_lengths(lengths, count), caption)
    trained = pq.read_table(prepared.path / CATALOGUE_FILE, columns=["train_count"])["train_count"].to_numpy()
    top = np.sort(trained)[::-1][: max(1, len(trained) // 100)].sum()
    caption = f"the most popular 1% of the items have {share(top, trained.sum())} of the training events; "
    caption += f"{share(np.count_nonzero(trained < 5), len(trained))} of the items have under 5"
    yield figure("Popularity", plots.popularity(trained), caption)
    if any(statistics["hours"]):
        zone = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["time_zone"]
        yield figure("Hour of the day", plots.hours_of_day(statistics["hours"]), f"by the clocks of {zone}")


def _inputs(prepared: Prepared, statistics: Statistics) -> str:
    """Codes of each event input, and how often it is unknown."""
    lines = []
    for name, size in prepared.manifest["inputs"].items():
        counts = statistics["input_counts"][name]
        events = sum(sum(part.values()) for part in counts.values())
        unknown = sum(part.get("0", 0) for part in counts.values())
        seen = len(counts["train"].keys() - {"0"})
        lines.append((name, f"{size - 1:,}", f"{seen:,}", share(unknown, events)))
    return card("Event inputs", table(("", "values", "in training", "unknown"), lines))


def _item_features(prepared: Prepared, statistics: Statistics) -> str:
    """Form and size of each item feature, and how many items lack it."""
    features = prepared.manifest["item_features"]
    if not features:
        return ""
    arrays, lines = read_item_features(prepared.path), []
    for name, facts in features.items():
        encoder = statistics["encoders"]["items"].get(name, {})
        if facts["form"] == "bags":
            codes, offsets = arrays[f"{name}.codes"], arrays[f"{name}.offsets"]
            known = np.concatenate([[0], np.cumsum(codes != 0)])
            missing = np.count_nonzero(known[offsets[1:]] == known[offsets[:-1]])
        else:
            missing = np.count_nonzero(arrays[f"{name}.values"][:, -1])  # the last column tells a null
        lines.append((name, str(encoder.get("kind", "")), f"{facts['size']:,}", share(missing, prepared.num_items)))
    note = f"{statistics['items_without_features']:,} items are not in the items' table"
    return card("Item features", table(("", "kind", "codes or width", "items without"), lines), note)
