"""data=marketplace: generate event files once, then prepare them as any shop's."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from twotower.data.prepare import prepare_events
from twotower.data.splits import Split
from twotower.data.synthetic import Marketplace, generate
from twotower.files import atomic_directory, write_json
from twotower.schema import CATALOGUE_FILE, CEILING_FILE, ITEM_ID, SESSION_ID, TIMESTAMP, open_prepared

log = logging.getLogger(__name__)


def prepare_marketplace(
    items: int,
    users: int,
    sessions: int,
    days: int,
    seed: int,
    split: Callable[..., Split],
    prepared_root: str,
) -> Path:
    """Generate a marketplace (or find it generated), prepare its events and state the ceiling.

    Returns:
        The prepared directory, with the oracle's metrics on the test's queries in CEILING_FILE.
    """
    market = Marketplace(items=items, users=users, sessions=sessions, days=days, seed=seed)
    settings = json.dumps(dataclasses.asdict(market), sort_keys=True)
    raw = Path(prepared_root) / f"marketplace-{hashlib.sha256(settings.encode()).hexdigest()[:12]}-raw"
    if not raw.exists():
        log.info("generating a marketplace of %s items and %s sessions: %s", f"{items:,}", f"{sessions:,}", raw)
        with atomic_directory(raw) as temporary:
            generate(temporary, market)
    directory = prepare_events(
        path=str(raw / "events"),
        columns={},
        timestamp_unit="ms",
        session_gap_minutes=None,
        split=split,
        prepared_root=prepared_root,
    )
    if not (directory / CEILING_FILE).exists():
        write_json(directory / CEILING_FILE, _ceiling(directory, raw))
    return directory


def _ceiling(directory: Path, raw: Path) -> dict[str, float]:
    """The oracle's recall@20 on the test's queries; ties count as the mean over the places they share.

    Empty for splits other than the temporal one: the oracle's ranks cover the latest sessions alone.
    """
    split = open_prepared(directory).manifest["split"]
    if split["kind"] != "temporal":
        return {}
    ends = pl.scan_parquet(raw / "events" / "*.parquet").group_by(SESSION_ID).agg(end=pl.col(TIMESTAMP).max())
    queries = (
        pl.scan_parquet(raw / "oracle.parquet")
        .join(ends.filter(pl.col("end") >= split["test_start"]), on=SESSION_ID)
        .join(pl.scan_parquet(directory / CATALOGUE_FILE), on=ITEM_ID)
        .select("better", "tied")
        .collect()
    )
    better, tied = (queries[name].to_numpy().astype(np.float64) for name in ("better", "tied"))
    hits = np.clip((20 - better) / tied, 0, 1)
    return {"recall_at_20": float(hits.mean())} if len(hits) else {}
