"""Which items an evaluation ranks: `evaluation.exclude_seen` and `evaluation.filters`, as requests have them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import CATALOGUE_FILE, FEATURES_FILE, ITEM_ID, Prepared
from twotower.core.values import TextForm
from twotower.metrics.candidates import Candidates


def ranked_settings(evaluation: DictConfig) -> dict[str, Any]:
    """Return the arguments of `ranked_items` of a configuration's group `evaluation`; older runs' groups have none."""
    settings: Any = OmegaConf.to_container(evaluation, resolve=True)
    return {"exclude_seen": bool(settings.get("exclude_seen")), "filters": settings.get("filters")}


def rules_in_words(exclude_seen: bool, filters: Mapping[str, Any] | None) -> str:
    """Return the settings as a request has them; empty where all items are ranked for all queries.

    >>> rules_in_words(True, {"brand": "a"})
    "exclude_seen, filters {'brand': 'a'}"
    """
    return ", ".join([*(["exclude_seen"] if exclude_seen else []), *([f"filters {dict(filters)}"] if filters else [])])


def ranked_items(
    prepared: Prepared, exclude_seen: bool = False, filters: Mapping[str, Any] | None = None
) -> Candidates:
    """Return what is ranked for the queries of `prepared`.

    Args:
        prepared: the events; its catalogue has the columns that filters name.
        exclude_seen: leave out all items of a query's history.
        filters: a predicate that ranked items satisfy: see serving.predicates.

    Raises:
        UserError: a malformed predicate, or one that no item satisfies.
    """
    allowed = None
    if filters:  # few runs have them, so that others need not wait for the imports
        import pyarrow.parquet as pq

        from twotower.serving.catalogue import Catalogue
        from twotower.serving.filters import ItemFilter
        from twotower.serving.unknown import Unknown

        file = prepared.path / CATALOGUE_FILE
        ids = pq.read_table(file, columns=[ITEM_ID])[ITEM_ID].combine_chunks()
        form = TextForm.of(read_json(prepared.path / FEATURES_FILE, "a prepared directory"))
        allowed = ItemFilter(file, Catalogue(ids, form), Unknown(strict=True), form).allowed(dict(filters))
        if allowed is not None and not np.any(allowed):
            raise UserError(
                f"evaluation.filters={filters} allows none of the {len(ids):,} items; nothing can be ranked"
            )
    return Candidates(prepared.item_index, prepared.offsets, exclude_seen, allowed)
