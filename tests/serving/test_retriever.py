"""Retriever against brute force over a toy tower that NumPy can follow."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import pytest
from serving_oracle import DIM, MAX_LENGTH, naive_answers, reseal, toy_tower, toy_user

from twotower.serving import user_tower
from twotower.serving.bundle_format import EMBEDDINGS_FILE, HISTORY_FILE, TOWER_INT8_FILE
from twotower.serving.retrieve import main
from twotower.serving.retriever import Retriever
from twotower.serving.verify import verify

IDS = [10, 20, 30, 40, 50, 60, 70]
COUNTS = [3, 9, 1, 9, 0, 4, 9]
WORDS = ["apple", "Ωmega", "日本語", "naïve café", "10", "", "🛒"]


@pytest.fixture(scope="module")
def path(make_bundle: Any) -> Path:
    return make_bundle(IDS, COUNTS)


@pytest.fixture(scope="module")
def retriever(path: Path) -> Retriever:
    return Retriever.load(path)


def test_the_example_of_the_docstring(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles/demo").symlink_to(make_bundle(["sku-1", "sku-2", "sku-3", "sku-4"]))
    monkeypatch.chdir(tmp_path)
    lines = (Retriever.__doc__ or "").splitlines()
    exec(textwrap.dedent("\n".join(line for line in lines if line.startswith(" " * 8))), {"Retriever": Retriever})
    assert sorted(line.split()[0] for line in capsys.readouterr().out.splitlines()) == ["sku-3", "sku-4"]


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
    monkeypatch.setattr(user_tower, "POSITIONS", 3 * MAX_LENGTH)  # many chunks
    random = np.random.default_rng(1)
    histories = [random.choice([*IDS, 999], random.integers(0, 9)).tolist() for _ in range(50)]
    together = retriever.recommend(histories, k=4)
    for row, history in enumerate(histories):
        alone = retriever.recommend([history], k=4)
        assert together.ids[row] == alone.ids[0]
        np.testing.assert_allclose(together.scores[row], alone.scores[0], rtol=1e-5)


def test_thousands_at_once_equal_brute_force(path: Path, retriever: Retriever) -> None:
    random = np.random.default_rng(2)
    histories = [random.integers(1, 8, random.integers(1, 9)).tolist() for _ in range(5000)]
    together = retriever.recommend([[IDS[i - 1] for i in history] for history in histories], k=3)
    vectors = np.load(path / EMBEDDINGS_FILE)
    for row, history in enumerate(histories):
        found, scores = naive_answers(vectors, history[-MAX_LENGTH:], 3)
        assert together.ids[row] == [IDS[i - 1] for i in found]
        np.testing.assert_allclose(together.scores[row], scores, rtol=1e-4)


@pytest.mark.parametrize("only", [7, "seven"])
def test_catalogue_of_one(make_bundle: Any, only: int | str) -> None:
    path = make_bundle([only])
    assert verify(path) < 1e-5
    retriever = Retriever.load(path)
    for asked in ({}, {"exploration": 1.0}, {"filters": {"item_id": only}}, {"include": [only]}):
        assert retriever.recommend([[only, only], []], 20, **asked).ids == [[only], [only]]
    assert retriever.recommend([[only], []], 20, exclude_seen=True).ids == [[], [only]]
    assert retriever.similar_items([only, type(only)(8)]).ids == [[], []]
    assert retriever.audience([only], [[], [only]]).histories == [[1]]


def test_items_may_have_other_vectors_in_histories(make_bundle: Any) -> None:
    path = make_bundle(IDS)
    own = np.random.default_rng(9).normal(size=(len(IDS), DIM)).astype(np.float32)
    np.save(path / HISTORY_FILE, own)
    reseal(path, HISTORY_FILE)
    retriever, vectors = Retriever.load(path), np.load(path / EMBEDDINGS_FILE)
    user = toy_user(own, [2, 3, 2])
    np.testing.assert_allclose(retriever.encode([[20, 30, 20]]), [user], rtol=1e-5)
    np.testing.assert_allclose(
        retriever.recommend([[20, 30, 20]], k=7).scores[0], np.sort(vectors @ user)[::-1], rtol=1e-4
    )
    nearest = sorted({1, 2, 3, 4, 5, 6, 7} - {2}, key=lambda i: -float(vectors[i - 1] @ vectors[1]))
    assert retriever.similar_items([20], k=6).ids == [[IDS[i - 1] for i in nearest]]


def test_the_tower_of_8_bits_answers_where_it_is_asked_for(make_bundle: Any) -> None:
    path = make_bundle(IDS)
    tower = toy_tower(DIM)
    tower.graph.initializer.append(onnx.numpy_helper.from_array(np.array(5), "five"))
    next(node for node in tower.graph.node if node.output[0] == "places").input[1] = "five"  # weights 5, 6, ...
    onnx.save(tower, path / TOWER_INT8_FILE)
    reseal(path, TOWER_INT8_FILE)
    vectors = np.load(path / EMBEDDINGS_FILE)
    plain, quick = (Retriever.load(path, int8=int8).encode([[10, 20]])[0] for int8 in (False, True))
    np.testing.assert_allclose(plain, vectors[0] + 2 * vectors[1], rtol=1e-5)
    np.testing.assert_allclose(quick, 5 * vectors[0] + 6 * vectors[1], rtol=1e-5)


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
    assert "'ten' is of type str" in capsys.readouterr().err
    assert main([str(path / "nowhere"), "10"]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().out
