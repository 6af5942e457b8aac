"""Preparation: events of a source become a prepared directory; the same input and settings are prepared once.

Three passes, none of which holds all events: rows are cleaned and partitioned into files by session; each file is
sorted into sessions; the sessions are written by time of their first event. No id of a user or a session is written
anywhere, nor anything that depends on one.

Memory: `memory_gib` bounds the rows held at one time. What grows with the data is about 60 bytes a session (100 with a
store), the distinct ids of items, the distinct values of features, and tables of features.
Shapes: E events, S sessions, K items.
"""

import hashlib
import json
import logging
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.audit.audit import audit
from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.event_codes import check_zone
from twotower.core.files import create_directory_once, sha256, write_json
from twotower.core.schema import (
    AUDIT_FILE,
    CATALOGUE_FILE,
    CONSENT,
    EVENT_TYPE,
    FEATURES_FILE,
    FORMAT_VERSION,
    ITEM_FEATURES_FILE,
    ITEM_ID,
    ORDINAL,
    SESSION_ID,
    SPLIT,
    STATISTICS_FILE,
    USER_ID,
    Prepared,
    open_prepared,
    write_prepared,
)
from twotower.core.values import NULLS, TextForm, check_steps
from twotower.data.preparation.blocks import arrange, blocks, blocks_by_start
from twotower.data.preparation.bounces import event_types
from twotower.data.preparation.catalogue import build_catalogue
from twotower.data.preparation.event_features import EventFeatures, Specs
from twotower.data.preparation.first_pass import PartitionedEvents, match_erased
from twotower.data.preparation.identifiers import normalise_item_ids, ranks
from twotower.data.preparation.increment import partitions_of, rows_of, sort_into
from twotower.data.preparation.item_features import ItemFeatures, check_specs, encode_items, listed_items
from twotower.data.preparation.partition import partition_events
from twotower.data.preparation.privacy import read_erased_users
from twotower.data.preparation.sessionize import MICROSECOND, session_rule
from twotower.data.preparation.spill import Partitions, prefetched
from twotower.data.preparation.splits import Sessions, Split, predefined
from twotower.data.preparation.statistics import EventStatistics, count_rows, count_unlisted
from twotower.data.preparation.store import Store, open_store
from twotower.data.preparation.write import EventInputs, write_events
from twotower.data.readers.source import PLACE, Source
from twotower.features import form

log = logging.getLogger(__name__)

BYTES_PER_ROW = 800  # held for each row of a partition while it is sorted
LATE = (
    "files read now {files:,}, with {rows:,} rows; {late:,} of them are older than the newest before; "
    "rows of erased users that left the store {erased:,}"
)
LEAST_MEMORY = 0.75  # GiB: the process itself, and room for a few partitions


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The settings of a preparation, which is called with a source.

    Attributes:
        session_gap_minutes: without a session column, a longer pause ends a session (None: never).
        time_zone: of hours and days.
        bounce: {event_type, seconds}: an event of that type left sooner becomes one of the type "bounce".
        features: "items" and "events", each name -> declaration (see features.spec).
        min_users_per_item: items with events of fewer distinct users before the test are left out.
        only_known_items: items that the table of items does not have are left out.
        until: a date, or an ISO 8601 time (UTC where it has no zone): events from then on are left out.
        erase: a list of user ids, or a table of them, whose events are left out.
        null_words: texts that are null in every column, beside the empty one.
        ids: what is healed in ids of items and users, of core.values.STEPS.
        store: a folder that keeps the cleaned rows, so that the next preparation reads new files of events alone (see
            store.Store); None: nothing is kept.
        memory_gib: peak memory of the process.
        split: one of data.preparation.splits, with its settings.
        prepared_root: the folder that holds prepared directories.
    """

    session_gap_minutes: float | None
    time_zone: str
    bounce: Mapping[str, Any] | None
    features: Mapping[str, Specs]
    min_users_per_item: int
    until: str | None
    erase: str | None
    memory_gib: float
    split: Callable[[Sessions], Split]
    prepared_root: str
    only_known_items: bool = False
    null_words: Sequence[str] = NULLS
    ids: Sequence[str] = ()
    store: str | None = None

    def __call__(self, source: Source) -> Prepared:
        """Prepare the events of `source`, or open the directory where they are prepared already.

        Returns:
            The opened prepared directory, whose manifest accounts for every row.

        Raises:
            UserError: the input can't be read, or nothing usable is left of it.
        """
        settings = self._settings(source)
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.-]+", "", source.name).strip(".-_") or "events"
        directory = Path(self.prepared_root) / f"{name}-{key}"
        exists = directory.exists()
        if exists:
            log.info("prepared already: %s", directory)
        else:
            check_zone(self.time_zone)
            check_steps(self.ids)
            check_specs(self.features.get("items", {}))
            if self.only_known_items and source.items is None:
                raise UserError("preparation.only_known_items=true needs a table of items: data.items=PATH")
            create_directory_once(directory, partial(self._fill, source, settings))
        prepared = open_prepared(directory, check=exists)
        log.info("%s", describe(prepared.manifest))
        return prepared

    def _settings(self, source: Source) -> dict[str, Any]:
        """Return all that decides on the content of the prepared directory, as plain JSON."""
        erase = self.erase
        if erase and Path(erase).is_file():
            erase = sha256(Path(erase))
        return {
            "format_version": FORMAT_VERSION,
            "files": [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in source.files],
            **source.settings,
            "timestamp_unit": source.unit,
            "session_gap_minutes": self.session_gap_minutes,
            "time_zone": self.time_zone,
            "bounce": self.bounce or None,
            "features": self.features,
            "min_users_per_item": self.min_users_per_item,
            "only_known_items": self.only_known_items,
            "until": None if self.until is None else str(self.until),
            "erased": erase,
            "values": self._form.as_json(),
            "split": {"name": self._split_name, **getattr(self.split, "keywords", {})},
        }

    @property
    def _form(self) -> TextForm:
        return TextForm(tuple(map(str, self.null_words)), tuple(self.ids))

    @property
    def _split_name(self) -> str:
        return str(getattr(self.split, "func", self.split).__name__)  # Hydra gives a functools.partial

    def _fill(self, source: Source, settings: dict[str, Any], directory: Path) -> None:
        """Write all files of the prepared directory."""
        (directory / "work").mkdir()
        with open_store(self.store, directory / "work", self._first_pass(source)) as store:
            self._fill_from(store, source, settings, directory)

    def _fill_from(self, store: Store, source: Source, settings: dict[str, Any], directory: Path) -> None:
        began = time.perf_counter()
        work = directory / "work"
        rows_at_once = _rows_at_once(self.memory_gib)
        features = EventFeatures(self.features.get("events", {}), source, self._form)
        if store.kept and features.table_keys:
            raise UserError(
                "preparation.store keeps features of events that are columns of the events; those of data.users and "
                "data.items are looked up when a row is read, and would not follow the tables. Leave one of the two out"
            )
        unread = store.new_files(source)
        partitions = Partitions(work, partitions_of(rows_of(source, unread), rows_at_once), store.seed)
        events = self._partition(store, source, unread, features, partitions)
        zone = None if events.unit == ORDINAL else self.time_zone
        ids, item_ranks = ranks(normalise_item_ids(events.items.values))
        types = event_types(events.types.values.to_list(), self.bounce)
        rule = session_rule(events.by_user, events.unit, self.session_gap_minutes, types.bounce)
        rank_of_code = {ITEM_ID: item_ranks, EVENT_TYPE: types.rank_of_code, **features.rank_values()}
        erased = match_erased(events, self._erased(source), partial(store.forget, by_user=events.by_user))
        sort_into(store, events, features, str(ids.dtype), rank_of_code, rule, rows_at_once)
        columns = [n for n in store.segments[0].columns if n not in (MICROSECOND, PLACE, SPLIT)]
        columns = [name for name in columns if name != USER_ID or self.min_users_per_item > 1]
        sessions = arrange(store.segments, store.live, columns, rank_of_code, rule, store.counts, self.split)
        store.release()

        read_blocks = partial(blocks, sessions, rows_at_once)
        listed = self._listed(source, ids)
        only = listed if self.only_known_items else None
        catalogue = build_catalogue(read_blocks, ids, zone is not None, self.min_users_per_item, only)
        event_encoders = features.fit(features.count_values(read_blocks(), catalogue.item_index))
        before = sessions.split.facts.get("test_start") if zone else None
        items = self._write_catalogue(directory, source, catalogue.table, before)
        encoders = {"events": event_encoders, "items": items.encoders}
        codes = {"time_zone": self.time_zone, "event_types": types.names, "input_types": types.input_codes}
        write_json(directory / FEATURES_FILE, {**codes, "values": self._form.as_json(), **encoders})

        inputs = EventInputs(types.input_codes, zone, features, event_encoders)
        tally = EventStatistics(types.names, inputs.sizes, zone)
        in_order = prefetched(blocks_by_start(sessions, rows_at_once))
        outside = write_events(directory, in_order, catalogue, inputs, tally)
        shutil.rmtree(work)

        matches = [*items.facts["matches"], *features.matches, erased]
        statistics = {
            **count_rows(events, sessions, catalogue.test_events, outside, tally.as_json(), self._split_name),
            "session_source": rule.description,
            "cuts": {"gap_minutes": self.session_gap_minutes if events.by_user else None, **sessions.counts.cuts},
            "encoders": encoders,
            **items.facts,
            "contradictory_users": features.contradictory,
            "unreadable_numbers": items.facts["unreadable_numbers"] | features.unreadable,
            "similar_ids": events.similar_ids,
            "unlisted_items": count_unlisted(catalogue.events, listed, ids) if listed is not None else None,
            "matches": [{"text": str(match), "warning": match.warning} for match in matches if match],
        }
        manifest = {
            "name": source.name,
            "num_items": catalogue.table.height,
            "event_types": types.names,
            "inputs": inputs.sizes,
            "item_features": {name: form(encoder) for name, encoder in items.encoders.items()},
            **{key: statistics[key] for key in ("rows", "timestamp_unit", "split")},
            "matches": [match["text"] for match in statistics["matches"]],
            "sessions": {"count": sum(statistics["session_lengths"].values()), "source": rule.description},
            "settings": settings,
            "seconds": round(time.perf_counter() - began, 2),
        }
        if unread is not None:
            rows = {"rows": events.rows - events.rows_before, "late": events.late, "erased": store.forgotten_rows}
            manifest["increment"] = {"files": len(unread), **rows}
        write_json(directory / STATISTICS_FILE, statistics)
        write_prepared(directory, manifest)
        write_json(directory / AUDIT_FILE, audit(open_prepared(directory, check=False), statistics))

    def _listed(self, source: Source, ids: pl.Series) -> Array | None:
        """Return [K + 1] which items the items' table has; None where nothing depends on it."""
        if source.items is None or not (self.only_known_items or self.features.get("items")):
            return None
        return listed_items(source.items(), ids, self._form)

    def _partition(
        self, store: Store, source: Source, unread: list[int] | None, features: EventFeatures, partitions: Partitions
    ) -> PartitionedEvents:
        use_split = SPLIT in source.columns and self._split_name == predefined.__name__
        if SPLIT in source.columns and not use_split:
            log.info("the split column is not used; split=predefined uses it")
        return partition_events(
            source,
            partitions,
            features,
            use_split=use_split,
            use_users=self.min_users_per_item > 1,
            erase=self._erased(source),
            until=self.until,
            form=self._form,
            only=unread,
            before=(store.state, store.dictionaries) if store.state else None,
        )

    def _erased(self, source: Source) -> frozenset[str]:
        return read_erased_users(self.erase, (source.settings.get("columns") or {}).get(USER_ID), self._form)

    def _first_pass(self, source: Source) -> dict[str, Any]:
        """Return all that decides on the rows of the first pass and on their sessions, under the names of settings."""
        features = {name: spec.get("column") or name for name, spec in self.features.get("events", {}).items()}
        kinds = (SESSION_ID, USER_ID, EVENT_TYPE, SPLIT, CONSENT)
        tables = ("items", "users", "item_columns", "unit")
        return {
            **{f"data.{name}": value for name, value in source.settings.items() if name not in tables},
            "data.timestamp_unit": source.unit,
            "data.columns of the files": [name for name in kinds if name in source.columns],
            "split=predefined": SPLIT in source.columns and self._split_name == predefined.__name__,
            "preparation.features.events": features,
            "preparation.min_users_per_item > 1": self.min_users_per_item > 1,
            "preparation.session_gap_minutes": None if SESSION_ID in source.columns else self.session_gap_minutes,
            "preparation.bounce": self.bounce or None,
            "preparation.until": None if self.until is None else str(self.until),
            "preparation.null_words": list(map(str, self.null_words)),
            "preparation.ids": list(self.ids),
        }

    def _write_catalogue(
        self, directory: Path, source: Source, catalogue: pl.DataFrame, before: int | None
    ) -> ItemFeatures:
        specs = self.features.get("items", {})  # without any the table, which may be large, is not read
        table = source.items() if source.items and specs else pl.LazyFrame(schema={ITEM_ID: pl.String})
        items = encode_items(table, specs, catalogue, before, self._form)
        catalogue.with_columns(items.raw.get_columns()).write_parquet(directory / CATALOGUE_FILE)
        np.savez(directory / ITEM_FEATURES_FILE, allow_pickle=False, **items.arrays)
        return items


def _rows_at_once(memory_gib: float) -> int:
    """Return how many rows may be held at one time, beside what the process holds already."""
    if not isinstance(memory_gib, int | float) or memory_gib < LEAST_MEMORY:
        raise UserError(f"preparation.memory_gib={memory_gib}; expected {LEAST_MEMORY} or more")
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(1, int(max(memory_gib * 2**30 - held, 2**28) / 2 / BYTES_PER_ROW))


def describe(manifest: Mapping[str, Any]) -> str:
    """Summarise what was read, kept and dropped."""
    rows, split, sessions = manifest["rows"], manifest["split"], manifest["sessions"]
    parts = ", ".join(f"{name} {count:,}" for name, count in split["events"].items())
    lines = [
        f"rows read {rows['read']:,}, kept {rows['kept']:,}, dropped {rows['read'] - rows['kept']:,}",
        *(f"  dropped {count:,}: {reason}" for reason, count in rows["dropped"].items()),
        *([LATE.format(**manifest["increment"])] if "increment" in manifest else []),
        *manifest["matches"],
        f"sessions {sessions['count']:,} from {sessions['source']}; items {manifest['num_items']:,}; "
        f"event types: {', '.join(manifest['event_types'])}; timestamps: {manifest['timestamp_unit']}",
        f"event inputs: {', '.join(manifest['inputs'])}; "
        f"item features: {', '.join(manifest['item_features']) or 'none'}",
        f"split {split['kind']}, events: {parts}; "
        f"{split['test_events_outside_catalogue']:.2%} of the test's events are outside the catalogue",
    ]
    return "\n".join(lines)
