"""Drift between two bundles: items that came and went, whose neighbours changed, and how many answers differ.

Two trainings give vectors that a rotation may tell apart, so no vector is compared, but lists of neighbours are, and
lists of answers. Shapes: V items, K kept ones, D embedding dim.
"""

import numpy as np

from twotower.core.arrays import Floats, Ints, evenly
from twotower.core.files import read_json
from twotower.evaluation.reindex import model_index
from twotower.lifecycle.drift import Row
from twotower.serving.bundle import Bundle
from twotower.serving.bundle_format import GOLDEN_FILE
from twotower.serving.exact_search import exact_top_k
from twotower.serving.golden_answers import item_of
from twotower.serving.retriever import Retriever

NEIGHBOURS, ITEMS = 20, 1000  # of an item; items whose neighbours are compared


def bundle_drift(before: Bundle, after: Bundle, most_unknown: float) -> list[Row]:
    """Compare two bundles.

    Args:
        before: opened.
        after: likewise.
        most_unknown: share of the first one's training events whose items may be gone.
    """
    place = model_index(after.item_ids, before.item_ids)[1:] - 1  # [V] row of the second; -1: gone
    kept = np.flatnonzero(place >= 0)
    count = np.asarray(before.train_count, dtype=np.float64)
    gone = float(count[place < 0].sum() / max(1.0, count.sum()))
    new = len(after.item_ids) - len(kept)
    rows = [
        Row("training events of items that are gone", gone, None, most_unknown, f"{len(place) - len(kept):,} items"),
        Row("items that are new", new / len(after.item_ids), note=f"{new:,} items"),
    ]
    if len(kept) > 1:
        overlap = neighbour_overlap(before.vectors[kept], after.vectors[place[kept]])
        rows.append(
            Row(f"the same among {NEIGHBOURS} neighbours of an item", overlap, note=f"{len(kept):,} kept items")
        )
    return [*rows, _answers(before, after)]


def neighbour_overlap(one: Floats, other: Floats) -> float:
    """Return the mean share of an item's nearest items that are the same by both vectors [K, D]; 1 after a rotation.

    >>> vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    >>> neighbour_overlap(vectors, vectors[:, ::-1])
    1.0
    """
    asked = evenly(len(one), ITEMS)
    k = min(NEIGHBOURS, len(one) - 1)
    lists = [_neighbours(np.ascontiguousarray(vectors), asked, k) for vectors in (one, other)]
    same = [len(np.intersect1d(a, b)) / k for a, b in zip(*lists, strict=True)]
    return float(np.mean(same))


def _neighbours(vectors: Floats, asked: Ints, k: int) -> list[Ints]:
    rows, _ = exact_top_k(vectors[asked], vectors, k + 1)
    return [row[row != item][:k] for row, item in zip(rows, asked.tolist(), strict=True)]


def _answers(before: Bundle, after: Bundle) -> Row:
    golden = read_json(after.file(GOLDEN_FILE), "a bundle")["histories"]
    histories = [[item_of(event) for event in history] for history in golden]
    lists = [Retriever(bundle).recommend(histories, NEIGHBOURS).ids for bundle in (before, after)]
    same = [len({*map(str, a)} & {*map(str, b)}) / max(1, len(b)) for a, b in zip(*lists, strict=True)]
    return Row(f"the same among {NEIGHBOURS} answers", float(np.mean(same)), note=f"{len(histories):,} histories")
