"""Retriever against brute force over a toy tower that NumPy can follow."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from serving_oracle import MAX_LENGTH, naive_answers

from twotower.errors import UserError
from twotower.serving import retriever as module
from twotower.serving.bundle import EMBEDDINGS_FILE
from twotower.serving.retriever import Retriever, main

IDS = [10, 20, 30, 40, 50, 60, 70]
COUNTS = [3, 9, 1, 9, 0, 4, 9]
WORDS = ["apple", "Ωmega", "日本語", "naïve café", "10", "", "🛒"]


@pytest.fixture(scope="module")
def path(make_bundle: Any) -> Path:
    return make_bundle(IDS, COUNTS)


@pytest.fixture(scope="module")
def retriever(path: Path) -> Retriever:
    return Retriever.load(path)


@pytest.mark.parametrize("history", [[1], [7], [1, 2], [5, 5, 5], [4, 3, 2, 1]])
@pytest.mark.parametrize("ids", [IDS, WORDS], ids=["int", "str"])
def test_answers_equal_brute_force(make_bundle: Any, ids: list[Any], history: list[int]) -> None:
    path = make_bundle(ids)
    answers = Retriever.load(path).recommend([[ids[i - 1] for i in history]], k=5)
    found, scores = naive_answers(np.load(path / EMBEDDINGS_FILE), history, 5)
    assert answers.ids == [[ids[i - 1] for i in found]]
    np.testing.assert_allclose(answers.scores, [scores], rtol=1e-5)
    assert answers.scores.dtype == np.float32
    assert all(type(item) is type(ids[0]) for item in answers.ids[0])


def test_batch_equals_single(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", 3 * MAX_LENGTH)  # many chunks
    random = np.random.default_rng(1)
    histories = [random.choice([*IDS, 999], random.integers(0, 9)).tolist() for _ in range(50)]
    together = retriever.recommend(histories, k=4)
    for row, history in enumerate(histories):
        alone = retriever.recommend([history], k=4)
        assert together.ids[row] == alone.ids[0]
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=1e-5)


def test_threads_share_a_retriever(retriever: Retriever) -> None:
    threads = faiss.omp_get_max_threads()
    histories = [[[IDS[i % 7], IDS[i % 5]]] for i in range(40)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda h: retriever.recommend(h, k=3).ids, histories))
    assert answers == [retriever.recommend(h, k=3).ids for h in histories]
    assert faiss.omp_get_max_threads() == threads  # the caller's setting is left alone


def test_unknown_items_are_skipped(retriever: Retriever) -> None:
    with_unknown = retriever.recommend([[999, 10, 999, 999, 999, 999, 30, "x", None]], k=4)
    without = retriever.recommend([[10, 30]], k=4)
    assert with_unknown.ids == without.ids
    np.testing.assert_array_equal(with_unknown.scores, without.scores)


@pytest.mark.parametrize("history", [[], [999], [999, 998]])
def test_history_without_known_items_gets_the_most_popular(retriever: Retriever, history: list[int]) -> None:
    popular = [i for _, i in sorted(zip([-c for c in COUNTS], IDS, strict=True))]  # ids ascend as rows do
    assert popular[:4] == [20, 40, 70, 60]
    answers = retriever.recommend([history, [10], history], k=4)
    assert answers.ids[0] == answers.ids[2] == popular[:4]
    assert np.isnan(answers.scores[[0, 2]]).all()
    assert np.isfinite(answers.scores[1]).all()


def test_long_histories_keep_their_newest_items(retriever: Retriever) -> None:
    history = [10, 20, 30, 40, 50, 60, 70, 10, 10]
    long = retriever.recommend([history], k=7)
    cut = retriever.recommend([history[-MAX_LENGTH:]], k=7)
    assert long.ids == cut.ids
    np.testing.assert_array_equal(long.scores, cut.scores)
    assert not np.array_equal(long.scores, retriever.recommend([history[:MAX_LENGTH]], k=7).scores)


@pytest.mark.parametrize(
    "histories",
    [
        [np.array([10, 30])],
        np.array([[10, 30]]),
        [(np.int32(10), np.uint64(30))],
        ((10, 30),),
    ],
)
def test_numpy_ids_and_other_sequences(retriever: Retriever, histories: Any) -> None:
    assert retriever.recommend(histories, k=3).ids == retriever.recommend([[10, 30]], k=3).ids


def test_k_beyond_the_catalogue_gives_all_of_it(retriever: Retriever) -> None:
    answers = retriever.recommend([[10], []], k=1000)
    assert answers.scores.shape == (2, len(IDS))
    assert [sorted(ids) for ids in answers.ids] == [IDS, IDS]


def test_no_histories_no_answers(retriever: Retriever) -> None:
    answers = retriever.recommend([], k=3)
    assert answers.ids == []
    assert answers.scores.shape == (0, 3)


@pytest.mark.parametrize(
    ("histories", "k", "reason"),
    [
        ("10", 3, "list of histories"),
        ([10, 20], 3, r"histories\[0\] is 10.*\[\[\.\.\.\]\]"),
        (["10", "20"], 3, r"histories\[0\] is '10'"),
        ({10: 20}, 3, "list of histories"),
        ([{10, 20}], 3, r"histories\[0\]"),
        (None, 3, "list of histories"),
        ([None], 3, r"histories\[0\] is None"),
        ([[[10]]], 3, "holds lists"),
        ([[10]], 0, "k is 0"),
        ([[10]], -1, "k is -1"),
        ([[10]], 2.5, "k is 2.5"),
        ([[10]], True, "k is True"),
        ([["10"], ["20"]], 3, "of type int: '20' is of type str.*like 10; convert"),
        ([[10.5]], 3, "of type float"),
    ],
)
def test_wrong_requests_are_refused(retriever: Retriever, histories: Any, k: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        retriever.recommend(histories, k)


def test_integers_for_a_catalogue_of_strings_are_refused(make_bundle: Any) -> None:
    retriever = Retriever.load(make_bundle(WORDS))
    with pytest.raises(UserError, match="of type str: 10 is of type int"):
        retriever.recommend([[10]])
    assert len(retriever.recommend([["10"]]).ids[0]) == len(WORDS)
    assert np.isnan(retriever.recommend([["unknown", 10]]).scores).all()  # one of the right type: merely unknown


def test_serving_needs_nothing_that_trains() -> None:
    heavy = [
        "torch",
        "pytorch_lightning",
        "lightning",
        "torchmetrics",
        "hydra",
        "omegaconf",
        "mlflow",
        "polars",
        "onnx",
    ]
    code = (
        "import sys, twotower.serving.retriever, twotower.serving.verify; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "10", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = Retriever.load(path).recommend([[10, 30]], k=10)
    assert [int(line.split()[1]) for line in lines[1:]] == expected.ids[0]
    assert [float(line.split()[2]) for line in lines[1:]] == pytest.approx(expected.scores[0], abs=1e-4)

    assert main([str(path), "999"]) == 0
    assert "most popular" in capsys.readouterr().out
    assert main([str(path), "ten"]) == 2
    assert "'ten' is not an item id" in capsys.readouterr().err
    assert main([str(path / "nowhere"), "10"]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out
