"""Proof that a bundle answers as the trained model did; needs neither the run nor torch.

    python -m twotower.serving.verify BUNDLE

Shapes: Q golden histories, k answers each.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import FEATURES_FILE, ITEMS_FILE
from twotower.serving.bundle import open_bundle
from twotower.serving.golden import origin
from twotower.serving.manifest import EMBEDDINGS_FILE, GOLDEN_FILE, MANIFEST_FILE, REMEDY
from twotower.serving.retriever import Recommendations, Retriever

TOLERANCE = 1e-5  # of a score; for scores beyond one, of the largest
SLACK = 0.02  # of the recall of an index that is not exact: other processors round otherwise


def verify(path: str | Path, manifest_file: str = MANIFEST_FILE) -> float:
    """Load a bundle, or the version of it with this manifest, and replay its golden histories, together and alone.

    Returns:
        The largest difference between a score and the trained model's.

    Raises:
        UserError: the bundle cannot be loaded, or it answers otherwise than the trained model; items may
            change places only where the model's scores are equal within TOLERANCE. With an index that is not
            exact, as many may be missing as were missing at export, and SLACK.
    """
    path = Path(path)
    retriever = Retriever(open_bundle(path, manifest_file=manifest_file))
    bundle = retriever.bundle
    start = 0
    for batch in pq.ParquetFile(bundle.file(ITEMS_FILE)).iter_batches(columns=["embedding"]):
        values = batch["embedding"].flatten().to_numpy()
        if not np.array_equal(values, bundle.vectors[start : start + len(batch)].reshape(-1)):
            raise UserError(f"{bundle.file(ITEMS_FILE)} has other embeddings than {EMBEDDINGS_FILE}; {REMEDY}")
        start += len(batch)
    golden = read_json(bundle.file(GOLDEN_FILE), "a bundle")
    found = origin(bundle.manifest["similarity"], bundle.file(FEATURES_FILE))
    for fact, file in (("similarity", path / manifest_file), ("features", bundle.file(FEATURES_FILE))):
        if golden.get("origin", {}).get(fact) != found[fact]:
            raise UserError(f"{file} has not the {fact} of the model whose answers {GOLDEN_FILE} holds; {REMEDY}")
    expected = Recommendations(golden["ids"], np.array(golden["scores"], dtype=np.float32))
    together = _replay(retriever, golden["histories"], golden["k"])
    alone = [_replay(retriever, [history], golden["k"]) for history in golden["histories"]]
    recall = bundle.manifest["index"]["golden_recall"]
    least = recall if recall == 1 else recall - SLACK
    difference = 0.0
    for answers in (together, Recommendations([a.ids[0] for a in alone], np.concatenate([a.scores for a in alone]))):
        compared = compare(answers, expected)
        wrong = int((compared.is_wrong | (compared.found < 1 if recall == 1 else False)).sum())
        if wrong or compared.found.mean() < least:
            what = f"answers {wrong} of {len(expected.ids)} golden histories otherwise than the trained model"
            if not wrong:
                what = f"finds {compared.found.mean():.4f} of the golden histories' answers, at export {recall:.4f}"
            raise UserError(f"{path} {what}: {GOLDEN_FILE} and the other files are not of one export; {REMEDY}")
        difference = max(difference, compared.difference)
    return difference


def _replay(retriever: Retriever, histories: list[Any], k: int) -> Recommendations:
    """Answers to golden histories: ids, or with event inputs events with their codes."""
    if not retriever.inputs:
        return retriever.recommend(histories, k)
    ids = [[event["item_id"] for event in history] for history in histories]
    codes = [[[event["codes"][name] for name in retriever.inputs] for event in history] for history in histories]
    return retriever.recommend_encoded(ids, codes, k)


class Compared(NamedTuple):
    """How answers stand to the trained model's."""

    is_wrong: npt.NDArray[np.bool_]  # [Q] an item twice, out of order, or with another score than the model's
    found: npt.NDArray[np.float64]  # [Q] the share of the model's answers that are there; a tie with the last is one
    difference: float  # the largest of a score


def compare(answers: Recommendations, expected: Recommendations) -> Compared:
    """Hold answers [Q, k] against the expected ones, within rounding.

    An item that is expected must have its score; one that is not may have at most the last one's.
    """
    scores, truth = answers.scores, expected.scores
    if scores.shape != truth.shape or [*map(len, answers.ids)] != [*map(len, expected.ids)]:
        return Compared(np.ones(len(truth), dtype=bool), np.zeros(len(truth)), float("inf"))
    tolerance = TOLERANCE * max(1.0, float(np.abs(truth).max(initial=0)))
    ids, known = _codes(answers.ids, expected.ids)
    same = ids[:, :, None] == known[:, None, :]  # [Q, k, k]
    is_known, last = same.any(axis=2), truth[:, -1:]
    gap = np.abs(scores - np.take_along_axis(truth, same.argmax(axis=2), axis=1))
    fits = np.where(is_known, gap, scores - last) <= tolerance  # False for NaN
    fits[:, 1:] &= np.diff(scores, axis=1) <= tolerance
    is_repeated = (np.diff(np.sort(ids, axis=1), axis=1) == 0).any(axis=1)
    found = (is_known | (scores >= last - tolerance)).mean(axis=1)
    return Compared(~fits.all(axis=1) | is_repeated, found, float(gap[is_known].max(initial=0)))


def _codes(*tables: Any) -> list[npt.NDArray[np.int64]]:
    """Tables [Q][k] of ids as integers that are equal where the ids are."""
    code: dict[Any, int] = {}
    return [np.array([[code.setdefault(i, len(code)) for i in row] for row in table]) for table in tables]


def main(arguments: Sequence[str]) -> int:
    """Say whether a bundle is in order; 0: it is, 2: it is not, or the question is wrong."""
    if len(arguments) != 1:
        print("usage: python -m twotower.serving.verify BUNDLE", file=sys.stderr)
        return 2
    try:
        difference = verify(arguments[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[0]} answers as the trained model did; largest difference of a score: {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
