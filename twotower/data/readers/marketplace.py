"""data=marketplace: event files are generated once, then prepared like those of a shop."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import polars as pl

from twotower.core.files import create_directory_once, create_file_once, sha256, write_json
from twotower.core.schema import CATALOGUE_FILE, CEILING_FILE, ITEM_ID, SESSION_ID, TIMESTAMP, Prepared
from twotower.data import synthetic
from twotower.data.readers import events
from twotower.data.readers.source import Prepare
from twotower.data.synthetic import Marketplace, generate

log = logging.getLogger(__name__)


def prepare_marketplace(
    items: int,
    users: int,
    sessions: int,
    days: int,
    seed: int,
    oracle: bool,
    root: str,
    prepare: Prepare,
    mean_length: float = Marketplace.mean_length,
    repeat_share: float = Marketplace.repeat_share,
) -> Prepared:
    """Generate a marketplace below `root`, unless it exists, and prepare its events.

    Args:
        items: number of items in the catalogue.
        users: number of users.
        sessions: number of sessions.
        days: length of the log.
        seed: of all random numbers.
        oracle: write the metrics of the true next-item distribution to CEILING_FILE.
        root: the folder for the generated files.
        prepare: what the source is given to.
        mean_length: events of a session, about.
        repeat_share: of the views, how many repeat an item of the session.
    """
    market = Marketplace(items, users, sessions, days, seed, mean_length, repeat_share)
    # Another version of the generator gives other files, so its code is part of the folder's name.
    settings = json.dumps([dataclasses.asdict(market), oracle, sha256(Path(synthetic.__file__))], sort_keys=True)
    raw = Path(root) / f"marketplace-{hashlib.sha256(settings.encode()).hexdigest()[:12]}-raw"
    if not raw.exists():
        log.info("generating a marketplace of %d items and %d sessions: %s", items, sessions, raw)
        create_directory_once(raw, lambda folder: generate(folder, market, oracle=oracle))
    prepared = events.read(
        str(raw / "events"),
        columns={},
        timestamp_unit="ms",
        items=str(raw / "items.parquet"),
        users=None,
        prepare=prepare,
    )
    if oracle:
        create_file_once(prepared.path / CEILING_FILE, lambda path: write_json(path, _ceiling(prepared, raw)))
    return prepared


def _ceiling(prepared: Prepared, raw: Path) -> dict[str, float]:
    """Return the oracle's recall@20 on the test queries; a tie counts as the mean over the ranks that it shares.

    Empty where the oracle has not ranked all of them: for splits other than the temporal one, or a test part of more
    than about the last third of the days.
    """
    split = prepared.manifest["split"]
    if split["kind"] != "temporal":
        return {}
    time, start = pl.col(TIMESTAMP), split["test_start"]
    queries = (
        pl.scan_parquet(raw / "events" / "*.parquet")
        .filter(time.max().over(SESSION_ID) >= start)
        .join(pl.scan_parquet(prepared.path / CATALOGUE_FILE), on=ITEM_ID, how="semi")
        .filter(time > time.min().over(SESSION_ID), time >= start)  # each but a session's first event of those prepared
        .join(pl.scan_parquet(raw / "oracle.parquet"), on=[SESSION_ID, TIMESTAMP], how="left")
        .select("better", "tied")
        .collect()
    )
    if queries["tied"].has_nulls():
        log.info("no ceiling: the oracle's ranks do not cover the whole test part")
        return {}
    better, tied = (queries[name].to_numpy() for name in ("better", "tied"))
    return {"recall_at_20": float(np.clip((20 - better) / tied, 0, 1).mean())}
