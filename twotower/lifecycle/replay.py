"""What a log of impressions knows about another bundle: its lists for the same requests, and what was shown instead."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError
from twotower.lifecycle.impression_log import (
    COUNT,
    IMPRESSION,
    PLACE,
    USER,
    VALUE,
    Outcomes,
    complete,
    read_impressions,
    shown_items,
)
from twotower.lifecycle.off_policy import LoggedLists
from twotower.serving.impressions import HISTORY
from twotower.serving.retriever import Retriever

Array = npt.NDArray[Any]
AT_ONCE = 256  # histories of one call of the retriever


def replay(
    retriever: Retriever, folder: Path, outcomes: Outcomes, hours: float, by_value: bool
) -> tuple[LoggedLists, Array]:
    """Return the logged lists with their outcomes, and the bundle's own lists, for off_policy.estimate.

    Interleaved lists, which have no propensities, and impressions whose hours are not over are left out.

    Args:
        retriever: of the new bundle.
        folder: an impression log.
        outcomes: from impression_log.read_outcome_events.
        hours: how long after an impression its outcomes count.
        by_value: an outcome is the value of the events; else 1 where there is one.
    """
    log = complete(read_impressions(folder).filter(pl.col("teams").is_null()), outcomes.end, hours)
    log = log.drop(IMPRESSION).with_row_index(IMPRESSION)
    shown = shown_items(log, outcomes.events, hours)
    code, lists = coded(shown["item_ids"].to_numpy(), lists_of(retriever, log))
    outcome = shown[VALUE] if by_value else (shown[COUNT] > 0).cast(pl.Float64)
    user = log[USER].rank("dense").to_numpy()
    request, place, rank = (shown[name].to_numpy().astype(np.int64) for name in (IMPRESSION, PLACE, "ranks"))
    return LoggedLists(user, request, place, rank, shown["propensities"].to_numpy(), code, outcome.to_numpy()), lists


def lists_of(retriever: Retriever, log: pl.DataFrame) -> list[list[str]]:
    """Return the bundle's list of ids, as texts, for each impression: of the same length, for the same request."""
    lists: list[list[str]] = [[] for _ in range(log.height)]
    asked: dict[tuple[str, int], list[tuple[int, Any]]] = {}
    for row, (text, size) in enumerate(log.select("request", pl.col("item_ids").list.len()).iter_rows()):
        request = json.loads(text)
        history = request.pop(HISTORY)
        if size:
            asked.setdefault((json.dumps(request, sort_keys=True), size), []).append((row, history))
    for (parameters, size), rows in asked.items():
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            try:
                result = retriever.recommend([history for _, history in part], size, **json.loads(parameters))
            except TypeError as error:
                raise UserError(f"logged parameters are {parameters}; expected those of recommend: {error}") from None
            for (row, _), found in zip(part, result.ids, strict=True):
                lists[row] = [str(item) for item in found]
    return lists


def coded(shown: Array, lists: list[list[str]]) -> tuple[Array, Array]:
    """Return codes [E] of shown ids and [N, K] of the lists' ids, -1 behind the last.

    >>> coded(np.array(["b", "a"]), [["a"], ["c", "b"]])[1].tolist()
    [[0, -1], [2, 1]]
    """
    flat = [item for items in lists for item in items]
    _, code = np.unique(np.concatenate([shown.astype(str), np.array(flat, dtype=str)]), return_inverse=True)
    length = np.array([len(items) for items in lists])
    table = np.full((len(lists), max(int(length.max(initial=0)), 1)), -1)
    table[np.arange(table.shape[1]) < length[:, None]] = code[len(shown) :]
    return code[: len(shown)], table
