"""Proof that a bundle answers as the trained model did; needs neither the run nor torch.

Shapes: Q golden histories, k answers each.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower.errors import UserError
from twotower.files import read_json
from twotower.schema import ITEMS_FILE
from twotower.serving.bundle import EMBEDDINGS_FILE, GOLDEN_FILE, REMEDY
from twotower.serving.retriever import Recommendations, Retriever

TOLERANCE = 1e-5  # of a score; for scores beyond one, of the largest


def verify(path: str | Path) -> float:
    """Load a bundle and replay its golden histories, all at once and one by one.

    Returns:
        The largest difference between a score and the trained model's.

    Raises:
        UserError: the bundle cannot be loaded, or it answers otherwise than the trained model; items may
            change places only where the model's scores are equal within TOLERANCE.
    """
    path = Path(path)
    retriever = Retriever.load(path)
    table = pq.read_table(path / ITEMS_FILE, columns=["embedding"])["embedding"].combine_chunks()
    vectors = np.load(path / EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False)
    if not np.array_equal(table.flatten().to_numpy(), vectors.reshape(-1)):
        raise UserError(f"{path / ITEMS_FILE} has other embeddings than {EMBEDDINGS_FILE}; {REMEDY}")
    golden = read_json(path / GOLDEN_FILE, "a bundle")
    expected = Recommendations(golden["ids"], np.array(golden["scores"], dtype=np.float32))
    together = _replay(retriever, golden["histories"], golden["k"])
    alone = [_replay(retriever, [history], golden["k"]) for history in golden["histories"]]
    difference = 0.0
    for answers in (
        together,
        Recommendations([a.ids[0] for a in alone], np.concatenate([a.scores for a in alone])),
    ):
        wrong = disagreements(answers, expected)
        if wrong.any():
            raise UserError(
                f"{path} answers {int(wrong.sum())} of {len(wrong)} golden histories otherwise than the "
                f"trained model: {GOLDEN_FILE} and the other files are not of one export; {REMEDY}"
            )
        difference = max(difference, float(np.abs(answers.scores - expected.scores).max()))
    return difference


def _replay(retriever: Retriever, histories: list[Any], k: int) -> Recommendations:
    """Answers to golden histories: ids, or with event inputs events with their codes."""
    if not retriever.inputs:
        return retriever.recommend(histories, k)
    ids = [[event["item_id"] for event in history] for history in histories]
    codes = [[[event["codes"][name] for name in retriever.inputs] for event in history] for history in histories]
    return retriever.recommend_encoded(ids, codes, k)


def disagreements(answers: Recommendations, expected: Recommendations) -> npt.NDArray[np.bool_]:
    """[Q] whether a history's answers differ in more than rounding.

    Position by position the scores must be equal within the tolerance; where an id stands at another position
    than expected, so must the scores of the two positions. An id that is not expected at all counts as one
    just beyond the last: it must tie with the last.
    """
    scores, truth = answers.scores, expected.scores
    if scores.shape != truth.shape:
        return np.ones(len(truth), dtype=bool)
    tolerance = TOLERANCE * max(1.0, float(np.abs(truth).max(initial=0)))
    ids, known = _codes(answers.ids, expected.ids)
    same = ids[:, :, None] == known[:, None, :]  # [Q, k, k]
    position = np.where(same.any(axis=2), same.argmax(axis=2), truth.shape[1] - 1)
    fits = np.abs(np.take_along_axis(truth, position, axis=1) - truth) <= tolerance
    fits &= np.abs(scores - truth) <= tolerance  # False for NaN
    repeated = np.diff(np.sort(ids, axis=1), axis=1) == 0
    return np.asarray(~fits.all(axis=1) | repeated.any(axis=1))


def _codes(*tables: Any) -> list[npt.NDArray[np.int64]]:
    """Tables [Q][k] of ids as integers that are equal where the ids are."""
    code: dict[Any, int] = {}
    return [np.array([[code.setdefault(i, len(code)) for i in row] for row in table]) for table in tables]
