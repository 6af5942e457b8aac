"""A source of events to a prepared directory; the same input and settings are prepared once.

Three passes, none of which holds all events: rows are cleaned and spread over files by session; each file is sorted
into sessions; the sessions are written in the order in which they begin. No id of a user or a session is written
anywhere, nor is anything that depends on one.

Memory: `memory_gib` bounds the rows held at one time. What grows with the data is about 50 bytes a session, the
distinct ids of items, the distinct values of features, and tables of features. Shapes: E events, S sessions, K items.
"""

import functools
import hashlib
import json
import logging
import re
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.audit.audit import audit
from twotower.core.errors import UserError, nearest
from twotower.core.files import fill_once, write_json
from twotower.core.inputs import check_zone
from twotower.core.schema import (
    AUDIT_FILE,
    CATALOGUE_FILE,
    EVENT_TYPE,
    FEATURES_FILE,
    FORMAT_VERSION,
    ITEM_FEATURES_FILE,
    ITEM_ID,
    SPLIT,
    STATISTICS_FILE,
    Prepared,
    open_prepared,
    write_prepared,
)
from twotower.data.preparation.catalogue import (
    build_catalogue,
    count_items,
    count_users,
    count_values,
    identifiers,
    users_of_items,
)
from twotower.data.preparation.clean import ORDINAL
from twotower.data.preparation.event_features import EventFeatures, Specs
from twotower.data.preparation.item_features import check_specs, encode_items
from twotower.data.preparation.partition import spread
from twotower.data.preparation.sessionize import BOUNCE, SECOND, Counts, describe_rule, session_rule
from twotower.data.preparation.sort import Sorted, blocks, by_start, sort_partitions
from twotower.data.preparation.spill import Partitions, ahead, ranks
from twotower.data.preparation.splits import PARTS, TEST, Sessions, Split
from twotower.data.preparation.write import UNKNOWN, EventCodes, Tally, write_events
from twotower.data.readers.source import Source
from twotower.features import form

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]

BYTES_PER_ROW = 800  # held at one time for each row of a part that is being sorted
LEAST_MEMORY = 0.75  # GiB: the programs themselves, and room for a few parts


def prepare_events(
    source: Source,
    *,
    session_gap_minutes: float | None,
    time_zone: str,
    bounce: Mapping[str, Any] | None,
    features: Mapping[str, Specs],
    min_users_per_item: int,
    until: str | None,
    erase: str | None,
    memory_gib: float,
    split: Callable[[Sessions], Split],
    prepared_root: str,
) -> Prepared:
    """Prepare the events of `source`, or find them prepared already.

    Args:
        source: what a reader hands over.
        session_gap_minutes: where there is no session column, a pause that ends a session (None: never).
        time_zone: of the clocks by which hours and days are counted.
        bounce: event_type and seconds: an event of that type left sooner becomes one of the type "bounce".
        features: "items" and "events", each name -> specification (see twotower.features).
        min_users_per_item: an item that fewer different users touched before the test stays out.
        until: a date, or an ISO 8601 time (UTC where it has no zone): events from then on are left out.
        erase: a text file of user ids whose events are left out.
        memory_gib: peak memory of the process.
        split: one of data.splits, with its settings.
        prepared_root: the folder that holds prepared directories.

    Returns:
        The opened prepared directory, whose manifest accounts for every row.

    Raises:
        UserError: the input can't be read, or nothing usable is left of it.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in source.files],
        **source.settings,
        "timestamp_unit": source.unit,
        "session_gap_minutes": session_gap_minutes,
        "time_zone": time_zone,
        "bounce": dict(bounce) if bounce else None,
        "features": {kind: {name: dict(spec) for name, spec in specs.items()} for kind, specs in features.items()},
        "min_users_per_item": min_users_per_item,
        "until": None if until is None else str(until),
        "erased": hashlib.sha256(Path(erase).read_bytes()).hexdigest() if erase and Path(erase).is_file() else erase,
        "split": _settings_of(split),
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "", source.name).strip(".-_") or "events"
    directory = Path(prepared_root) / f"{name}-{key}"
    already = directory.exists()
    if already:
        log.info("prepared already: %s", directory)
    else:
        check_zone(time_zone)
        check_specs(features.get("items", {}))
        preparation = functools.partial(
            _prepare,
            source,
            session_gap_minutes=session_gap_minutes,
            time_zone=time_zone,
            bounce=bounce,
            features=features,
            min_users_per_item=min_users_per_item,
            until=until,
            erase=_read_erased(erase),
            rows_at_once=_rows_at_once(memory_gib),
            split=split,
            settings=settings,
        )
        fill_once(directory, preparation)
    prepared = open_prepared(directory, check=already)
    log.info("%s", describe(prepared.manifest))
    return prepared


def _prepare(
    source: Source,
    directory: Path,
    *,
    session_gap_minutes: float | None,
    time_zone: str,
    bounce: Mapping[str, Any] | None,
    features: Mapping[str, Specs],
    min_users_per_item: int,
    until: str | None,
    erase: frozenset[str],
    rows_at_once: int,
    split: Callable[[Sessions], Split],
    settings: dict[str, Any],
) -> None:
    began = time.perf_counter()
    use_split = SPLIT in source.columns and settings["split"]["name"] == "predefined"
    if SPLIT in source.columns and not use_split:
        log.info("the split column is not used; split=predefined uses it")
    work = directory / "work"
    work.mkdir()
    event_features = EventFeatures(features.get("events", {}), source)
    partitions = Partitions(work, 1 << max(0, -(-source.rows // rows_at_once) - 1).bit_length())
    use_users = min_users_per_item > 1
    found = spread(
        source, partitions, event_features, use_split=use_split, use_users=use_users, erase=erase, until=until
    )
    timed = found.unit != ORDINAL
    if not timed and settings["split"].get("test_days") is not None:
        raise UserError("split.test_days: the timestamps have no unit, so days can't be told; take split.test_fraction")
    ids, item_lut = ranks(identifiers(found.items.values))
    event_types, type_lut, bounced = _event_types(found.types.values.to_list(), bounce)
    luts = {ITEM_ID: item_lut, EVENT_TYPE: type_lut, **event_features.settle()}
    rule = session_rule(found.by_user, found.unit, session_gap_minutes, bounced)
    counts = Counts()
    events, sessions = sort_partitions(partitions, found.read, work, luts, rule, counts)
    _require_sessions(events, counts, describe_rule(found.by_user, rule))
    cut = split(sessions)
    del sessions  # memory

    items, age_days = count_items(blocks(events, cut, rows_at_once), len(ids))
    few_users = np.zeros(len(ids) + 1, dtype=bool)
    if use_users:
        users = count_users(users_of_items(blocks(events, cut, rows_at_once)), min_users_per_item, len(ids))
        few_users = (users < min_users_per_item) & (items[:TEST].sum(0) > 0)
    catalogue, index = build_catalogue(ids, items, age_days if timed else None, few_users)
    seen = count_values(blocks(events, cut, rows_at_once), index, event_features.sizes)
    encoders: dict[str, Any] = {"events": event_features.fit(seen)}
    specs = features.get("items", {})  # without any the table, which may be large, is not read
    table = source.items() if source.items and specs else pl.LazyFrame(schema={ITEM_ID: pl.String})
    before = cut.facts.get("test_start") if timed else None
    encoders["items"], item_arrays, raw, item_facts = encode_items(table, specs, catalogue, before)
    catalogue = catalogue.with_columns(raw.get_columns())
    del raw

    input_types = list(range(1, len(event_types) + 1))
    if bounced:  # a model is told of a bounce by the next event's gap, when it can be known
        input_types[bounced[2]] = input_types[bounced[0]]
    zone = time_zone if timed else None
    inputs = EventCodes(input_types, zone, event_features, encoders["events"])
    tally = Tally(event_types, inputs.sizes, zone)
    few_reason = f"item that fewer than {min_users_per_item} users touched"
    ordered = ahead(by_start(events, cut, rows_at_once))
    dropped = found.dropped + Counter(counts.dropped)
    dropped += Counter(write_events(directory, ordered, index, few_users, few_reason, inputs, tally))
    shutil.rmtree(work)

    statistics = tally.statistics()
    kept = {part: sum(kind[part] for kind in statistics["types"].values()) for part in PARTS}
    if 0 in kept.values():
        raise UserError(
            f"split={settings['split']['name']} leaves events of {kept}; expected some in each part. "
            f"Dropped: {', '.join(f'{count:,} {reason}' for reason, count in dropped.items()) or 'none'}"
        )
    catalogue.write_parquet(directory / CATALOGUE_FILE)
    np.savez(directory / ITEM_FEATURES_FILE, allow_pickle=False, **item_arrays)
    facts = {"time_zone": time_zone, "event_types": event_types, "input_types": input_types, **encoders}
    write_json(directory / FEATURES_FILE, facts)
    tested = int(items[TEST].sum())
    manifest: dict[str, Any] = {
        "name": source.name,
        "num_items": catalogue.height,
        "event_types": event_types,
        "inputs": inputs.sizes,
        "item_features": {name: form(encoder) for name, encoder in encoders["items"].items()},
        "rows": {"read": found.read, "kept": sum(kept.values()), "dropped": dict(dropped)},
        "sessions": {
            "count": sum(statistics["session_lengths"].values()),
            "source": describe_rule(found.by_user, rule),
        },
        "timestamp_unit": found.unit,
        "split": {**cut.facts, "events": kept, "test_events_outside_catalogue": dropped[UNKNOWN] / max(1, tested)},
        "settings": settings,
        "seconds": round(time.perf_counter() - began, 2),
    }
    statistics |= {
        **{key: manifest[key] for key in ("rows", "timestamp_unit", "split")},
        "session_source": manifest["sessions"]["source"],
        "timestamp_units": dict(found.looks),
        "cuts": {"gap_minutes": session_gap_minutes if found.by_user else None, **counts.cuts},
        "whole_hour_pauses": {"whole": counts.whole, "near": counts.near},
        "sessions_of_several_users": counts.of_several_users,
        "targets_outside_catalogue": {"test_events": tested, "outside": dropped[UNKNOWN]},
        "encoders": encoders,
        **item_facts,
    }
    write_json(directory / STATISTICS_FILE, statistics)
    write_prepared(directory, manifest)
    prepared = open_prepared(directory, check=False)
    findings = audit(prepared, statistics)
    write_json(directory / AUDIT_FILE, findings)


def _require_sessions(events: Sorted, counts: Counts, source: str) -> None:
    if len(events.start) == 0:
        raise UserError(
            f"each session has one event, so there is no next item to learn (sessions: {source}); "
            "is it the right session column, or is preparation.session_gap_minutes too small?"
        )
    if counts.backwards:
        raise UserError(
            f"in {counts.backwards:,} places a session goes back in the split column, as from test to train; "
            "expected train, then validation, then test. Are the session and time columns right?"
        )


def _event_types(
    values: list[str], bounce: Mapping[str, Any] | None
) -> tuple[list[str], Array, tuple[int, int, int] | None]:
    """Names in their order, [codes + 1] each provisional code's place among them, and the rule for bounces."""
    values = values or ["event"]
    names, rule = sorted(values), None
    if bounce:
        if set(bounce) != {"event_type", "seconds"} or not isinstance(bounce["seconds"], int | float):
            raise UserError(f"preparation.bounce={dict(bounce)}; expected {{event_type: NAME, seconds: NUMBER}}")
        base = str(bounce["event_type"])
        if base not in values:
            raise UserError(f"preparation.bounce: no event has the type '{base}'{nearest(base, values)}")
        if BOUNCE in values:
            raise UserError(f"preparation.bounce: the events have the type '{BOUNCE}' already; leave the setting out")
        names = sorted([*values, BOUNCE])
        rule = (names.index(base), round(bounce["seconds"] * SECOND), names.index(BOUNCE))
    return names, np.array([0, *(names.index(value) for value in values)], np.uint8), rule


def _rows_at_once(memory_gib: float) -> int:
    """How many rows may be held at one time, beside what the process holds already."""
    if not isinstance(memory_gib, int | float) or memory_gib < LEAST_MEMORY:
        raise UserError(f"preparation.memory_gib={memory_gib}; expected {LEAST_MEMORY} or more")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(1, int(max(memory_gib * 2**30 - held, 2**28) / 2 / BYTES_PER_ROW))


def _read_erased(path: str | None) -> frozenset[str]:
    """The user ids in a text file, one a line."""
    if path is None:
        return frozenset()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"preparation.erase={path} can't be read ({error}); expected text, one user id a line"
        ) from None
    return frozenset(line.strip() for line in lines if line.strip())


def describe(manifest: Mapping[str, Any]) -> str:
    """What was read, kept and dropped, in plain words."""
    rows, split, sessions = manifest["rows"], manifest["split"], manifest["sessions"]
    parts = ", ".join(f"{name} {count:,}" for name, count in split["events"].items())
    lines = [
        f"rows read {rows['read']:,}, kept {rows['kept']:,}, dropped {rows['read'] - rows['kept']:,}",
        *(f"  dropped {count:,}: {reason}" for reason, count in rows["dropped"].items()),
        f"sessions {sessions['count']:,} from {sessions['source']}; items {manifest['num_items']:,}; "
        f"event types: {', '.join(manifest['event_types'])}; timestamps: {manifest['timestamp_unit']}",
        f"event inputs: {', '.join(manifest['inputs'])}; "
        f"item features: {', '.join(manifest['item_features']) or 'none'}",
        f"split {split['kind']}, events: {parts}; "
        f"{split['test_events_outside_catalogue']:.2%} of the test's events are outside the catalogue",
    ]
    return "\n".join(lines)


def _settings_of(split: Callable[..., Split]) -> dict[str, Any]:
    """A split's name and settings: Hydra hands it over as a functools.partial."""
    function = getattr(split, "func", split)
    return {"name": function.__name__, **getattr(split, "keywords", {})}
