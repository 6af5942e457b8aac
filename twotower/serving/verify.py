"""Verify that a bundle answers as the trained model did; needs neither the run nor torch.

    twotower verify BUNDLE

Shapes: Q golden histories, k results each.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower.core.arrays import Ints, Mask
from twotower.core.errors import UserError, printing_user_errors
from twotower.core.files import read_json
from twotower.core.schema import EMBEDDING, FEATURES_FILE, ITEMS_FILE
from twotower.serving.answers import Recommendations
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.bundle_format import EMBEDDINGS_FILE, GOLDEN_FILE, MANIFEST_FILE, REMEDY
from twotower.serving.golden_answers import encoded_golden, origin
from twotower.serving.retriever import Retriever

TOLERANCE = 1e-5  # of a score; for scores beyond one, of the largest
SLACK = 0.02  # of the recall of an index that is not exact: other processors round otherwise


def verify(path: str | Path, manifest_file: str = MANIFEST_FILE) -> float:
    """Open a bundle and replay its golden histories, in one request and one by one.

    Args:
        path: the bundle.
        manifest_file: that of another version than the current one.

    Returns:
        The largest difference between a score and the trained model's.

    Raises:
        UserError: the bundle can't be opened, or its results differ from the trained model's. Items may change places
            only where the model's scores are equal within TOLERANCE; an index that is not exact may miss as many
            results as at export, and SLACK more.
    """
    return replay_golden(Retriever(open_bundle(path, manifest_file=manifest_file)), manifest_file)


def replay_golden(retriever: Retriever, manifest_file: str = MANIFEST_FILE) -> float:
    """As `verify`, of an opened bundle."""
    bundle, path = retriever.bundle, retriever.bundle.path
    golden = read_json(bundle.file(GOLDEN_FILE), "a bundle")
    _check_embeddings(bundle)
    _check_origin(bundle, golden, path / manifest_file)
    expected = Recommendations(golden["ids"], np.array(golden["scores"], dtype=np.float32))
    ids, codes, now = encoded_golden(golden, retriever.inputs)
    together = retriever.recommend_encoded(ids, codes, golden["k"], now)
    alone = [retriever.recommend_encoded([ids[row]], [codes[row]], golden["k"], now[[row]]) for row in range(len(ids))]
    at_export = bundle.manifest["index"]["golden_recall"]
    difference = 0.0
    for results in (together, Recommendations([r.ids[0] for r in alone], np.concatenate([r.scores for r in alone]))):
        compared = compare(results, expected)
        wrong = int((compared.is_wrong | (compared.recall < 1 if at_export == 1 else False)).sum())
        what = f"answers {wrong} of {len(expected.ids)} golden histories otherwise than the trained model"
        if not wrong and at_export < 1 and compared.recall.mean() < at_export - SLACK:
            wrong = len(expected.ids)
            what = f"finds {compared.recall.mean():.4f} of the golden histories' results, at export {at_export:.4f}"
        if wrong:
            raise UserError(f"{path} {what}: {GOLDEN_FILE} and the other files are not of one export; {REMEDY}")
        difference = max(difference, compared.difference)
    return difference


def _check_embeddings(bundle: Bundle) -> None:
    """Refuse an items.parquet with other embeddings than the index."""
    start = 0
    for batch in pq.ParquetFile(bundle.file(ITEMS_FILE)).iter_batches(columns=[EMBEDDING]):
        values = batch[EMBEDDING].flatten().to_numpy()
        if not np.array_equal(values, bundle.vectors[start : start + len(batch)].reshape(-1)):
            raise UserError(f"{bundle.file(ITEMS_FILE)} has other embeddings than {EMBEDDINGS_FILE}; {REMEDY}")
        start += len(batch)


def _check_origin(bundle: Bundle, golden: dict[str, Any], manifest: Path) -> None:
    """Refuse a similarity, or features, of another model than that of the golden results."""
    expected = origin(bundle.manifest["similarity"], bundle.file(FEATURES_FILE))
    for fact, file in (("similarity", manifest), ("features", bundle.file(FEATURES_FILE))):
        if golden.get("origin", {}).get(fact) != expected[fact]:
            raise UserError(f"{file} has another {fact} than the model of {GOLDEN_FILE}; {REMEDY}")


class Comparison(NamedTuple):
    """How results compare with the trained model's."""

    is_wrong: Mask  # [Q] an item twice, out of order, or with another score than the model's
    recall: npt.NDArray[np.float64]  # [Q] the share of the model's results that are there; a tie with the last is one
    difference: float  # the largest of a score


def compare(results: Recommendations, expected: Recommendations) -> Comparison:
    """Compare results [Q, k] with the expected ones, within rounding.

    An expected item must have its score; another item may have at most the last expected score.
    """
    scores, truth = results.scores, expected.scores
    if scores.shape != truth.shape or [*map(len, results.ids)] != [*map(len, expected.ids)]:
        return Comparison(np.ones(len(truth), dtype=bool), np.zeros(len(truth)), float("inf"))
    tolerance = TOLERANCE * max(1.0, float(np.abs(truth).max(initial=0)))
    ids, expected_ids = _codes(results.ids, expected.ids)
    same = ids[:, :, None] == expected_ids[:, None, :]  # [Q, k, k]
    is_expected, last = same.any(axis=2), truth[:, -1:]
    gap = np.abs(scores - np.take_along_axis(truth, same.argmax(axis=2), axis=1))
    fits = np.where(is_expected, gap, scores - last) <= tolerance  # False for NaN
    fits[:, 1:] &= np.diff(scores, axis=1) <= tolerance
    is_repeated = (np.diff(np.sort(ids, axis=1), axis=1) == 0).any(axis=1)
    recall = (is_expected | (scores >= last - tolerance)).mean(axis=1)
    return Comparison(~fits.all(axis=1) | is_repeated, recall, float(gap[is_expected].max(initial=0)))


def _codes(*tables: Any) -> list[Ints]:
    """Tables [Q][k] of ids as integers that are equal where the ids are."""
    code: dict[Any, int] = {}
    return [np.array([[code.setdefault(i, len(code)) for i in row] for row in table]) for table in tables]


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """Print whether a bundle is sound; returns 0 if so, else 2."""
    if len(arguments) != 1:
        print("usage: twotower verify BUNDLE", file=sys.stderr)
        return 2
    difference = verify(arguments[0])
    print(f"{arguments[0]} answers as the trained model did; largest difference of a score: {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
