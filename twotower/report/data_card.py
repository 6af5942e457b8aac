"""The data card (card.html): one page about the prepared data. It holds no id of a user, a session or an item."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from twotower.audit.findings import CHECKS, Finding
from twotower.core.files import create_file_once, read_json
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
    """Return the page as HTML.

    Args:
        prepared: the catalogue's counts and the item features are read from it.
        statistics: counted by preparation.
        findings: of the audit.
    """
    title = " · ".join(["Data card", *filter(None, [prepared.manifest.get("name")])])
    cards = [
        _rows(statistics),
        _split(statistics),
        *_types(statistics),
        *_plots(prepared, statistics),
        _inputs(prepared, statistics),
        *_item_features(prepared, statistics),
    ]
    return document(title, [_header(title, prepared, statistics), *_findings(findings), grid(cards)])


def write_data_card(prepared: Prepared) -> None:
    """Write the data card into a prepared directory, unless it has one already or is not writable."""
    files = (prepared.path / STATISTICS_FILE, prepared.path / AUDIT_FILE)
    if not files[0].exists():
        return

    def write(path: Path) -> None:
        statistics, findings = (read_json(file, "a prepared directory") for file in files)
        path.write_text(data_card(prepared, statistics, findings), encoding="utf-8")

    with suppress(OSError):
        create_file_once(prepared.path / CARD_FILE, write)


def _header(title: str, prepared: Prepared, statistics: Statistics) -> Markup:
    days, rows = sorted(statistics["days"]), statistics["rows"]
    span = f"Events from {days[0]} to {days[-1]}" if days else "The timestamps are ordinals: an order without times"
    tiles = {
        "rows read": rows["read"],
        "events kept": rows["kept"],
        "sessions": sum(statistics["session_lengths"].values()),
        "items": prepared.num_items,
        "event types": len(prepared.event_types),
    }
    note = f"{span}. Sessions from {statistics['session_source']}."
    return heading(title, note, {name: f"{n:,}" for name, n in tiles.items()})


def _findings(findings: Sequence[Finding]) -> Iterator[Markup]:
    if not findings:
        yield finding("good", f"The audit found nothing in {len(CHECKS)} checks")
    for each in sorted(findings, key=lambda f: f["level"]):  # errors first
        level, name = each["level"], CHECKS.get(each["check"], each["check"])
        yield finding(level, f"{level.capitalize()}: {name}", each["message"])


def _rows(statistics: Statistics) -> Markup:
    read, kept, dropped = (statistics["rows"][key] for key in ("read", "kept", "dropped"))
    counts = {"read": read}
    counts |= {f"left out: {reason}": n for reason, n in sorted(dropped.items(), key=lambda item: -item[1])}
    rows = [(name, f"{n:,}", share(n, read)) for name, n in (counts | {"kept": kept}).items()]
    return card("Rows", table(("", "rows", "share"), rows))


def _split(statistics: Statistics) -> Markup:
    parts = {part: sum(n[part] for n in statistics["types"].values()) for part in PARTS}
    targets, kind = statistics["targets_outside_catalogue"], statistics["split"]["kind"].replace("_", "-")
    outside = share(targets["outside"], targets["test_events"])
    note = f"{kind}, in events; {outside} of the test events are of items outside the catalogue and were left out"
    return card("Split", bars(parts), note)


def _types(statistics: Statistics) -> Iterator[Markup]:
    types = {name: statistics["types"][name] for name in _types_by_count(statistics)}
    if len(types) > 1:
        rows = [(name, *(f"{n[part]:,}" for part in PARTS)) for name, n in types.items()]
        body = bars({name: sum(n.values()) for name, n in types.items()}) + table(("", *PARTS), rows)
        yield card("Funnel: events by type", body)


def _types_by_count(statistics: Statistics) -> list[str]:
    """Return event types, the most frequent first."""
    return sorted(statistics["types"], key=lambda name: -sum(statistics["types"][name].values()))


def _plots(prepared: Prepared, statistics: Statistics) -> Iterator[Markup]:
    if len(statistics["days"]) > 1:
        types = _types_by_count(statistics)[: len(COLORS)]
        plot = plots.events_over_time(statistics["days"], types, statistics["split"])
        yield figure("Events over time", plot, legend=types if len(types) > 1 else ())
    lengths, count = np.array(sorted((int(n), c) for n, c in statistics["session_lengths"].items())).T
    median, most = (lengths[np.searchsorted(np.cumsum(count), q * count.sum())] for q in (0.5, 0.99))
    caption = f"half have up to {median:,} events, 99% up to {most:,}; the longest {lengths[-1]:,}"
    yield figure("Session length", plots.session_lengths(lengths, count), caption)
    counts = pq.read_table(prepared.path / CATALOGUE_FILE, columns=["train_count"])["train_count"].to_numpy()
    top = np.sort(counts)[::-1][: max(1, len(counts) // 100)].sum()
    caption = f"the most popular 1% of the items have {share(top, counts.sum())} of the training events; "
    caption += f"{share(np.count_nonzero(counts < 5), len(counts))} of the items have under 5"
    yield figure("Popularity", plots.popularity(counts), caption)
    if any(statistics["hours"]):
        zone = read_json(prepared.path / FEATURES_FILE, "a prepared directory")["time_zone"]
        yield figure("Hour of the day", plots.hours_of_day(statistics["hours"]), f"by the clocks of {zone}")


def _inputs(prepared: Prepared, statistics: Statistics) -> Markup:
    """Return a table of the number of values of each event input, and of how often it is unknown."""
    rows = []
    for name, size in prepared.manifest["inputs"].items():
        counts = statistics["input_counts"][name]
        events = sum(sum(part.values()) for part in counts.values())
        unknown = sum(part.get("0", 0) for part in counts.values())
        in_training = len(counts["train"].keys() - {"0"})
        rows.append((name, f"{size - 1:,}", f"{in_training:,}", share(unknown, events)))
    return card("Event inputs", table(("", "values", "in training", "unknown"), rows))


def _item_features(prepared: Prepared, statistics: Statistics) -> Iterator[Markup]:
    """Yield a table of the kind and size of each item feature, and of how many items lack it."""
    features = prepared.manifest["item_features"]
    if not features:
        return
    arrays, rows = read_item_features(prepared.path), []
    for name, facts in features.items():
        encoder = statistics["encoders"]["items"].get(name, {})
        if facts["form"] == "bags":
            codes, offsets = arrays[f"{name}.codes"], arrays[f"{name}.offsets"]
            known = np.concatenate([[0], np.cumsum(codes != 0)])
            missing = np.count_nonzero(known[offsets[1:]] == known[offsets[:-1]])
        else:
            missing = np.count_nonzero(arrays[f"{name}.values"][:, -1])  # the last column is 1 for a null
        rows.append((name, str(encoder.get("kind", "")), f"{facts['size']:,}", share(missing, prepared.num_items)))
    note = f"{statistics['items_without_features']:,} items are not in the item table"
    yield card("Item features", table(("", "kind", "codes or width", "items without"), rows), note)
