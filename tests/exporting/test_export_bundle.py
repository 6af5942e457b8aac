"""From a run to a bundle and back: the retriever against the torch towers and a naive search."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from twotower import features
from twotower.core.errors import UserError
from twotower.exporting import bundle as export
from twotower.exporting.bundle import export_bundle
from twotower.runs import run
from twotower.serving import bundle_format
from twotower.serving.retriever import Retriever
from twotower.serving.verify import verify

NUMBERS = list(range(1000, 1040))
INDEX = {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000}
WORDS = [f"Ünï-{i} 商品" for i in range(40)]


INPUTS = ["event_type", "gap", "hour", "weekday", "device"]
ALL_INPUTS = f"model.inputs=[{','.join(INPUTS)}]"


def naive(
    loaded: run.Run, ids: list[Any], history: list[Any], k: int, codes: list[list[int]] | None = None
) -> tuple[list[Any], list[float]]:
    """The best k items after one history, in torch, one dot product at a time."""
    index = torch.tensor([[ids.index(i) + 1 for i in history][-6:]])
    known = len(loaded.model.event_inputs.names)
    rows = (codes or [[0] * known for _ in history])[-6:]
    inputs = torch.tensor(rows, dtype=torch.long).view(1, len(rows), known)
    model, temperature = loaded.model.eval(), 1 / math.log(max(len(ids), 10)) if loaded.config.model.normalize else 1.0
    weight = [0.0] * len(ids)  # sum of exp(p) of each item's events
    with torch.no_grad():
        if model.pointer is None:
            user = model(index, inputs)[0]
        else:
            (user,), (pointer,) = model.with_pointer(index, inputs)
            for item, logit in zip(index[0].tolist(), pointer.tolist(), strict=True):
                weight[item - 1] += math.exp(logit)
        dots = [float(user @ model.item_tower(torch.tensor(row + 1))) for row in range(len(ids))]
    scores = [dot + (temperature * math.log(w) if w else 0.0) for dot, w in zip(dots, weight, strict=True)]
    best = sorted(range(len(ids)), key=lambda row: -scores[row])[:k]
    return [ids[row] for row in best], [scores[row] for row in best]


@pytest.mark.parametrize(
    ("tower", "normalize", "pointer"),
    [
        pytest.param("mean_pool", "false", "history", marks=pytest.mark.slow),
        pytest.param("gru", "true", "none", marks=pytest.mark.slow),
        pytest.param("linear_recurrence", "false", "history", marks=pytest.mark.slow),
        pytest.param("transformer", "true", "history", marks=pytest.mark.slow),
    ],
)
def test_round_trip(make_run: Any, tmp_path: Path, tower: str, normalize: str, pointer: str) -> None:
    ids = NUMBERS if normalize == "true" else WORDS[:15]  # fewer than golden.json asks for
    small = [f"model/pointer={pointer}", *(["model.user_tower.layers=1"] if tower == "transformer" else [])]
    loaded = run.load_run(make_run(ids, f"model/user_tower={tower}", f"model.normalize={normalize}", *small))
    loaded.model.train()  # a careless caller: dropout must be dead all the same
    report = export_bundle(loaded, tmp_path / "bundle", INDEX)
    facts = report.manifest
    assert facts["similarity"] == ("cosine" if normalize == "true" else "dot")
    assert (facts["num_items"], facts["dim"]) == (len(ids), 16)
    assert max(report.tower_difference, report.answer_difference) < 1e-5
    assert verify(report.path) == report.answer_difference

    random = np.random.default_rng(3)
    histories = [random.choice(ids, n).tolist() for n in [1, 1, 2, 3, 4, 5, 6, 7, 20] * 3]
    answers = Retriever.load(report.path).recommend(histories, k=10)
    for history, found, scores in zip(histories, answers.ids, answers.scores, strict=True):
        expected_ids, expected_scores = naive(loaded, ids, history, 10)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        assert found == expected_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "pointer"), [("mean_pool", "none"), pytest.param("transformer", "history", marks=pytest.mark.slow)]
)
def test_round_trip_with_features_and_event_inputs(make_run: Any, tmp_path: Path, tower: str, pointer: str) -> None:
    settings = [f"model/user_tower={tower}", "model/item_tower=features", ALL_INPUTS, f"model/pointer={pointer}"]
    path = make_run(NUMBERS, *settings)
    loaded = run.load_run(path)
    loaded.model.train()
    report = export_bundle(loaded, tmp_path / "bundle", INDEX)
    assert max(report.tower_difference, report.answer_difference) < 1e-5
    sizes = json.loads((path / "data.json").read_text())["inputs"]
    assert report.manifest == json.loads((report.path / "manifest.json").read_text())
    assert report.manifest["inputs"] == [{"name": name, "size": sizes[name]} for name in INPUTS]
    features = json.loads((path / "features.json").read_text())
    assert json.loads((report.path / "features.json").read_text()) == {
        key: features[key] for key in ("time_zone", "event_types", "input_types", "events", "items")
    }

    golden, kept = (json.loads((p).read_text()) for p in (report.path / "golden.json", path / "histories.json"))
    assert len(golden["histories"]) == len(kept["item_index"]) > 20
    for row, history in enumerate(golden["histories"]):
        assert [event["item_id"] for event in history] == [NUMBERS[i - 1] for i in kept["item_index"][row]]
        assert {name: [e["codes"][name] for e in history] for name in INPUTS} == {
            name: kept["codes"][name][row] for name in INPUTS
        }

    random = np.random.default_rng(4)
    retriever = Retriever.load(report.path)
    bare = 0
    for length in [1, 1, 2, 3, 5, 6, 7, 20]:
        history = random.choice(NUMBERS, length).tolist()
        codes = random.integers(0, list(sizes.values()), (length, len(INPUTS))).tolist()
        expected_ids, expected_scores = naive(loaded, NUMBERS, history, 10, codes)
        found = retriever.recommend_encoded([history], [codes], k=10)
        np.testing.assert_allclose(found.scores, [expected_scores], atol=1e-5)
        assert found.ids == [expected_ids]
        without = naive(loaded, NUMBERS, history, 10)
        assert retriever.recommend([history], k=10).ids == [without[0]]  # bare ids: all codes are 0
        bare += without[0] != expected_ids
    assert bare > 4  # the codes do make a difference


@pytest.mark.slow
def test_times_of_a_request_reach_the_tower(make_run: Any, tmp_path: Path) -> None:
    settings = ["model.user_tower.time_bias=true", "model.user_tower.layers=1", "model.inputs=[gap]"]
    path = make_run(NUMBERS, *settings)
    loaded = run.load_run(path)
    report = export_bundle(loaded, tmp_path / "bundle", INDEX)
    assert max(report.tower_difference, report.answer_difference) < 1e-5
    assert loaded.model.event_inputs.names == ["gap", "time"]
    prepared = Path(json.loads((path / "data.json").read_text())["path"])
    timestamp, offsets = np.load(prepared / "timestamp.npy"), np.load(prepared / "offsets.npy")
    kept = json.loads((path / "histories.json").read_text())["codes"]["time"]
    for row, (begin, end) in zip(kept, pairwise(offsets), strict=True):
        seconds = timestamp[max(begin, end - 6) : end] // 1000
        assert row == (1 + seconds - seconds[0]).tolist()

    random = np.random.default_rng(6)
    retriever = Retriever.load(report.path)
    untimed = 0
    for length in [2, 3, 5, 6]:
        history = random.choice(NUMBERS, length).tolist()
        seconds = (1_750_000_000 + np.exp2(random.uniform(0, 20, length)).cumsum()).astype(int)
        codes = [[0 if i == 0 else 1 + int(2 * np.log2(1 + t - seconds[i - 1])), t] for i, t in enumerate(seconds)]
        expected_ids, expected_scores = naive(loaded, NUMBERS, history, 10, codes)
        events = [{"item_id": i, "timestamp": 1000 * int(t) + 7} for i, t in zip(history, seconds, strict=True)]
        found = retriever.recommend([events], k=10)
        np.testing.assert_allclose(found.scores, [expected_scores], atol=1e-5)
        assert found.ids == [expected_ids]
        untimed += naive(loaded, NUMBERS, history, 10, [[gap, 0] for gap, _ in codes])[1] != expected_scores
    assert untimed == 4  # times do make a difference


@pytest.mark.slow
def test_an_order_of_inputs_is_the_models(make_run: Any, tmp_path: Path) -> None:
    inputs = ["device", "event_type"]
    loaded = run.load_run(make_run(NUMBERS, "model/user_tower=mean_pool", f"model.inputs=[{','.join(inputs)}]"))
    bundle = export_bundle(loaded, tmp_path / "bundle", INDEX).path
    retriever = Retriever.load(bundle)
    assert retriever.inputs == inputs
    event = {"item_id": NUMBERS[3], "device": "tablet", "event_type": "purchase"}
    encoder = json.loads((bundle / "features.json").read_text())["events"]["device"]
    device = int(features.encode_single(encoder, ["tablet"])[0])
    expected_ids, scores = naive(loaded, NUMBERS, [NUMBERS[3]], 10, [[device, 2]])
    answers = retriever.recommend([[event]], k=10)
    np.testing.assert_allclose(answers.scores, [scores], atol=1e-5)
    assert answers.ids == [expected_ids]


@pytest.mark.slow
def test_a_run_from_before_ages_were_kept(make_run: Any, tmp_path: Path) -> None:
    path = make_run(WORDS, "model/user_tower=mean_pool")
    pq.write_table(pq.read_table(path / "catalogue.parquet").drop_columns("age_days"), path / "catalogue.parquet")
    retriever = Retriever.load(export_bundle(run.load_run(path), tmp_path / "bundle", INDEX).path)
    assert pq.read_table(tmp_path / "bundle" / "items.parquet")["age_days"].null_count == len(WORDS)
    assert len(set(retriever.recommend([[WORDS[0]]], 10, exploration=0.5, seed=1).ids[0])) == 10


@pytest.fixture(scope="module")
def exported(make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[run.Run, Path]:
    loaded = run.load_run(make_run(WORDS, "model/user_tower=mean_pool", "model.horizon=session"))
    return loaded, export_bundle(loaded, tmp_path_factory.mktemp("exported") / "bundle", INDEX).path


@pytest.mark.slow
def test_contents(exported: tuple[run.Run, Path]) -> None:
    loaded, path = exported
    assert {file.name for file in path.iterdir()} - {"user_tower_int8.onnx"} == {
        *bundle_format.REQUIRED,
        *("manifest.json", "README.md", "index.html"),
    }
    vectors = np.load(path / "item_embeddings.npy", allow_pickle=False)
    items = pq.read_table(path / "items.parquet").to_pydict()
    catalogue = pq.read_table(loaded.path / "catalogue.parquet").to_pydict()
    assert items["item_id"] == catalogue["item_id"] == WORDS
    assert items["train_count"] == catalogue["train_count"]
    assert items["age_days"] == catalogue["age_days"]
    np.testing.assert_array_equal(np.array(items["embedding"], np.float32), vectors)
    weight = loaded.model.state_dict()["item_tower.embedding.weight"][1:].numpy()
    np.testing.assert_allclose(vectors, weight / np.linalg.norm(weight, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(faiss.read_index(str(path / "index.faiss")).reconstruct_n(0, 40), vectors)
    facts = json.loads((path / "manifest.json").read_text())
    assert facts["max_length"] == 6 and facts["horizon"] == "session"
    assert facts["index"]["recall"] == facts["index"]["golden_recall"] == 1
    assert facts["dataset_fingerprint"] == json.loads((loaded.path / "data.json").read_text())["fingerprint"]
    assert facts["versions"]["packages"]["torch"] == torch.__version__
    golden = json.loads((path / "golden.json").read_text())
    histories = json.loads((loaded.path / "histories.json").read_text())["item_index"]
    assert golden["histories"] == [[WORDS[i - 1] for i in history] for history in histories]
    for history, ids in zip(golden["histories"], golden["ids"], strict=True):
        assert ids == naive(loaded, WORDS, history, 20)[0]
    onnx_bytes = (path / "user_tower.onnx").read_bytes()
    assert b"site-packages" not in onnx_bytes and str(Path.cwd()).encode() not in onnx_bytes


@pytest.mark.slow
def test_figures_are_of_test_queries_counted_one_by_one(exported: tuple[run.Run, Path]) -> None:
    loaded, path = exported
    test = json.loads((loaded.path / "histories.json").read_text())["test"]
    found = []
    for history, target in zip(test["item_index"], test["target"], strict=True):
        found.append(WORDS[target - 1] in naive(loaded, WORDS, [WORDS[i - 1] for i in history], 20)[0])
    facts = json.loads((path / "manifest.json").read_text())
    figures = facts["next_item"]
    assert figures["queries"] == len(found) > 30 and figures["sessions"] == len(set(test["session"]))
    assert figures["recall_at_20"]["exact"][0] == figures["recall_at_20"]["index"][0] == np.mean(found)
    assert facts["exploration"][0]["recall"] == np.mean(found)
    assert set(figures["recall_at_20"]) - {"int8"} == {"exact", "index"}
    assert "label_recall" not in (path / "manifest.json").read_text()


@pytest.mark.slow
def test_what_validation_asks_is_in_no_figure(make_run: Any, tmp_path: Path) -> None:
    """A model that has learnt each validation target by heart, as after a refit, gets no better figures for that."""
    path = make_run(WORDS, "model/user_tower=mean_pool")
    before = export_bundle(run.load_run(path), tmp_path / "before", INDEX).manifest
    content = json.loads((path / "histories.json").read_text())
    content["item_index"] = [history[:-1] + history[:1] for history in content["item_index"]]  # the target is in sight
    (path / "histories.json").write_text(json.dumps(content))
    after = export_bundle(run.load_run(path), tmp_path / "after", INDEX).manifest
    assert before["next_item"]["recall_at_20"]["exact"] == after["next_item"]["recall_at_20"]["exact"]
    assert before["exploration"] == after["exploration"]


@pytest.mark.slow
def test_a_run_without_test_queries_has_no_such_figures(make_run: Any, tmp_path: Path) -> None:
    path = make_run(WORDS, "model/user_tower=mean_pool")
    content = json.loads((path / "histories.json").read_text())
    del content["test"]
    (path / "histories.json").write_text(json.dumps(content))
    report = export_bundle(run.load_run(path), tmp_path / "bundle", INDEX)
    assert (report.manifest["next_item"], report.manifest["exploration"]) == (None, [])
    readme = (report.path / "README.md").read_text()
    assert "keeps no test queries" in readme and "recall@20 of the next item" not in readme


def _diverge(loaded: run.Run) -> None:
    with torch.no_grad():
        loaded.model.item_tower.embedding.weight[3] = torch.nan


def _lose_length(loaded: run.Run) -> None:
    loaded.model.item_tower.normalize = False


def _empty_histories(loaded: run.Run) -> None:
    (loaded.path / "histories.json").write_text('{"item_index": [], "codes": {}}')


def _cut_catalogue(loaded: run.Run) -> None:
    table = pq.read_table(loaded.path / "catalogue.parquet")
    pq.write_table(table.slice(0, 39), loaded.path / "catalogue.parquet")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_diverge, "NaN or inf"),
        (_lose_length, "other lengths than one"),
        (_empty_histories, "no history"),
        (_cut_catalogue, "39 items, the run's model 40"),
    ],
)
def test_unfit_runs_leave_nothing(make_run: Any, tmp_path: Path, damage: Any, reason: str) -> None:
    loaded = run.load_run(make_run(NUMBERS, "model/user_tower=mean_pool"))
    damage(loaded)
    with pytest.raises(UserError, match=reason):
        export_bundle(loaded, tmp_path / "deep" / "bundle", INDEX)
    assert not list(tmp_path.rglob("*.*"))


def _other_tower(monkeypatch: pytest.MonkeyPatch, loaded: run.Run) -> None:
    with torch.no_grad():
        loaded.model.user_tower.feed_forward[0].weight.add_(0.01)


def _other_index(monkeypatch: pytest.MonkeyPatch, loaded: run.Run) -> None:
    def l2(vectors: Any, *rest: Any, **settings: Any) -> Any:
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(np.array(vectors))
        return original(vectors, *rest, **settings)._replace(index=index)

    original = export.choose_index
    monkeypatch.setattr(export, "choose_index", l2)


def _other_ids(monkeypatch: pytest.MonkeyPatch, loaded: run.Run) -> None:
    def rotate(file: Path, columns: Any, vectors: Any) -> None:
        ids = columns["item_id"].take(np.roll(np.arange(len(vectors)), 1))
        original(file, columns.set_column(0, "item_id", ids), vectors)

    original = export.write_items
    monkeypatch.setattr(export, "write_items", rotate)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_other_tower, "ONNX user tower differs from the torch one by"),
        (_other_index, "index gives 30 histories other scores than exact search"),
        (_other_ids, "golden histories otherwise"),
    ],
)
def test_failed_proofs_leave_nothing(
    exported: tuple[run.Run, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Any,
    reason: str,
) -> None:
    loaded, sound = run.load_run(exported[0].path), exported[1]
    monkeypatch.setattr(export, "export_user_tower", lambda m, path, *rest: shutil.copy(sound / path.name, path))
    fault(monkeypatch, loaded)
    with pytest.raises(UserError, match=reason):
        export_bundle(loaded, tmp_path / "bundle", INDEX)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_existing_folder_is_kept(exported: tuple[run.Run, Path], tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_bundle(exported[0], tmp_path, INDEX)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
