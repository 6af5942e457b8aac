"""What a gate compares of two bundles beside their tests: time, size, examples of lists, and the data behind them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from twotower.core.files import read_json
from twotower.core.schema import ITEM_ID, ITEM_NAME, ITEMS_FILE
from twotower.exporting.readme import measured
from twotower.serving.bundle import Bundle
from twotower.serving.bundle_format import GOLDEN_FILE
from twotower.serving.golden_answers import item_of
from twotower.serving.retriever import Retriever

EXAMPLES, HISTORY, ITEMS = 6, 5, 10  # lists side by side; items of a history, and of a list

Example = tuple[list[str], list[str], list[str]]


def figures(path: Path) -> dict[str, float]:
    """Return size_mb of a bundle, and p50_ms, p99_ms and more of serving.measure, measured in a process of its own."""
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return {"size_mb": size / 1e6, **measured(path)}


def lists_side_by_side(candidate: Bundle, champion: Bundle) -> list[Example]:
    """Return histories and both bundles' lists after them, as names of items where they have any, else ids."""
    golden = read_json(candidate.file(GOLDEN_FILE), "a bundle")["histories"]
    histories = [[item_of(event) for event in history][-HISTORY:] for history in golden[:EXAMPLES]]
    names = _names(champion) | _names(candidate)
    told = [
        [[names.get(str(each), str(each)) for each in ids] for ids in Retriever(bundle).recommend(histories, ITEMS).ids]
        for bundle in (candidate, champion)
    ]
    length = min(len(ids) for lists in told for ids in lists)
    return [
        ([names.get(str(each), str(each)) for each in history], new[:length], old[:length])
        for history, new, old in zip(histories, *told, strict=True)
    ]


def _names(bundle: Bundle) -> dict[str, str]:
    file = bundle.file(ITEMS_FILE)
    if ITEM_NAME not in pq.read_schema(file).names:
        return {}
    table = pq.read_table(file, columns=[ITEM_ID, ITEM_NAME]).to_pydict()
    return {str(id_): name for id_, name in zip(table[ITEM_ID], table[ITEM_NAME], strict=True) if name}


def data_facts(manifest: Mapping[str, Any], bundle: Bundle, others: Sequence[Any] = ()) -> dict[str, str]:
    """Return what a reader asks first about the data of a bundle.

    Args:
        manifest: of its prepared directory; empty where it is not known.
        bundle: opened.
        others: item ids of the bundle that it is compared with.
    """
    ids = set(bundle.item_ids.to_pylist())
    facts = {"items": f"{len(ids):,}", "of these not in the other": f"{len(ids - set(others)):,}"}
    if not manifest:
        return facts
    split = manifest["split"]
    facts["events"] = f"{manifest['rows']['kept']:,}"
    facts["sessions"] = f"{manifest['sessions']['count']:,}"
    for name in ("test_start", "validation_start"):
        if name in split and manifest["timestamp_unit"] != "ordinal":
            facts[name.replace("_start", " from")] = f"{datetime.fromtimestamp(split[name] / 1000, UTC):%Y-%m-%d %H:%M}"
    return facts | {"event types": ", ".join(manifest["event_types"]), "fingerprint": manifest["fingerprint"]}
