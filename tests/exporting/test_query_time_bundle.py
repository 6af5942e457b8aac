"""A bundle of a model that knows when it is asked, against the torch model."""

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from twotower.core.errors import UserError
from twotower.exporting.bundle import export_bundle
from twotower.runs.run import Run, load_run
from twotower.serving.retriever import Retriever
from twotower.serving.updates.delta import remove
from twotower.serving.user_tower import open_session
from twotower.serving.verify import verify

IDS = [f"i{number}" for number in range(40)]
HOUR, T = 3600, 1_700_000_000
NAMED = [["i3"], ["i3", "i9", "i3", "i1"], ["i20", "i21", "i20", "i20", "i5", "i6", "i7", "i20"], ["i8", "i3"]]
TIMES = [[0], [0, 40, 41, 9 * HOUR], [0, 1, 2, 3, 50 * HOUR, 51 * HOUR, 51 * HOUR, 52 * HOUR], [0, HOUR]]
HISTORIES = [
    [{"item_id": item, "timestamp": (T + time) * 1000} for item, time in zip(items, times, strict=True)]
    for items, times in zip(NAMED, TIMES, strict=True)
]
LATER = (T + 99 * HOUR) * 1000
INDEX = {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000}


pytestmark = pytest.mark.slow  # an export of this tower takes twelve seconds


@pytest.fixture(scope="module", params=[["model/objective=none"], ["model/objective=by_type"]])
def exported(request: Any, make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = load_run(make_run(IDS, "model.query_time=true", *request.param))
    return run, export_bundle(run, tmp_path_factory.mktemp("exported") / "bundle", INDEX).path


def dense(run: Run, place: int, now: int, objective: int = 0, left_out: str = "") -> dict[str, float]:
    """The score of every item after a history, asked at a second (0: at once), in torch."""
    model = run.model.eval()
    events = [*zip(NAMED[place], TIMES[place], strict=True)]
    events = [(IDS.index(item) + 1, T + time) for item, time in events if item != left_out][-6:]
    items, seconds = torch.tensor([events]).unbind(-1)
    weight = dict.fromkeys(IDS, 0.0)
    with torch.no_grad():
        (user,), (pointer,) = model.with_pointer(
            items, seconds[..., None], torch.tensor([objective]), torch.tensor([now])
        )
        for item, logit in zip(items[0].tolist(), pointer.tolist(), strict=True):
            weight[IDS[item - 1]] += math.exp(logit)
        dots = (model.encode_items() @ user).tolist()
    temperature = 1 / math.log(len(IDS))
    bonus = {item: temperature * math.log(total) if total else 0.0 for item, total in weight.items()}
    return {item: dot + bonus[item] for item, dot in zip(IDS, dots, strict=True)}


def assert_best(ids: list[str], scores: Any, expected: dict[str, float]) -> None:
    assert ids == sorted(expected, key=lambda item: -expected[item])[: len(ids)]
    np.testing.assert_allclose(scores[: len(ids)], [expected[i] for i in ids], atol=1e-5)


def test_a_request_is_answered_as_the_model_does_at_its_time(exported: tuple[Run, Path]) -> None:
    run, path = exported
    retriever = Retriever.load(path, strict=True)
    plain, later = retriever.recommend(HISTORIES, k=10), retriever.recommend(HISTORIES, k=10, timestamp=LATER)
    each = [None, LATER, dt.datetime.fromtimestamp(T + 60 * HOUR, dt.UTC), LATER + 400 * 24 * HOUR * 1000]
    mixed = retriever.recommend(HISTORIES, k=10, timestamp=each)
    moments = [0, T + 99 * HOUR, T + 60 * HOUR, T + 99 * HOUR + 400 * 24 * HOUR]
    for place in range(4):
        assert_best(plain.ids[place], plain.scores[place], dense(run, place, 0))
        assert_best(later.ids[place], later.scores[place], dense(run, place, T + 99 * HOUR))
        assert_best(mixed.ids[place], mixed.scores[place], dense(run, place, moments[place]))
    assert not np.allclose(plain.scores, later.scores, atol=1e-3)
    newest = [(T + times[-1]) * 1000 for times in TIMES]
    at_once = retriever.recommend(HISTORIES, k=10, timestamp=newest)
    assert at_once.ids == plain.ids and np.array_equal(at_once.scores, plain.scores)


def test_every_kind_of_request_takes_a_time(exported: tuple[Run, Path]) -> None:
    run, path = exported
    retriever = Retriever.load(path)
    scores = [dense(run, place, T + 99 * HOUR) for place in range(4)]
    found = retriever.audience(["i3"], HISTORIES, k=4, timestamp=LATER)
    np.testing.assert_allclose(found.scores[0], sorted((each["i3"] for each in scores), reverse=True), atol=1e-5)
    items = [["i3", "i30"]] * 4
    for place, shares in enumerate(retriever.explain(HISTORIES, items, timestamp=LATER)):
        np.testing.assert_allclose(shares.sum(axis=1), [scores[place]["i3"], scores[place]["i30"]], atol=1e-5)
    vectors = retriever.encode(HISTORIES, timestamp=LATER)
    assert not np.allclose(vectors, retriever.encode(HISTORIES), atol=1e-3)
    if names := retriever.bundle.manifest["objectives"]:
        ids, found_scores, *_ = retriever.recommend(HISTORIES, k=10, objective=names[1], timestamp=LATER)
        for place in range(4):
            assert_best(ids[place], found_scores[place], dense(run, place, T + 99 * HOUR, 2))


def test_a_time_before_the_newest_event(exported: tuple[Run, Path]) -> None:
    _, path = exported
    retriever = Retriever.load(path)
    early = retriever.recommend(HISTORIES, k=10, timestamp=(T + HOUR) * 1000)
    assert retriever.unknown == {"timestamps before the newest event": 2}
    plain = retriever.recommend(HISTORIES, k=10)
    assert [early.ids[place] for place in (1, 2)] == [plain.ids[place] for place in (1, 2)]
    with pytest.raises(UserError, match="timestamps before the newest event: 2 of 4"):
        Retriever.load(path, strict=True).recommend(HISTORIES, timestamp=(T + HOUR) * 1000)


def test_golden_answers_are_at_times_and_those_of_another_time_do_not_pass(exported: tuple[Run, Path]) -> None:
    _, path = exported
    golden = json.loads((path / "golden.json").read_text())
    newest = [history[-1]["codes"]["time"] for history in golden["histories"]]
    delays = [now and now - time for now, time in zip(golden["now"], newest, strict=True)]
    assert delays[::2] == [2**row for row in range(len(delays[::2]))] and not any(delays[1::2])
    assert verify(path) < 1e-5
    inputs = {entry.name for entry in open_session(path / "user_tower.onnx").get_inputs()}
    assert "now" in inputs and json.loads((path / "manifest.json").read_text())["query_time"] is True
    retriever = Retriever.load(path)
    ids = [[event["item_id"] for event in history] for history in golden["histories"]]
    codes = [[[event["codes"]["time"]] for event in history] for history in golden["histories"]]
    at_once = retriever.recommend_encoded(ids, codes, golden["k"])
    differs = ~np.isclose(at_once.scores, golden["scores"], atol=1e-4).all(axis=1)
    assert differs[::2].mean() > 0.5 and not differs[1::2].any()


def test_the_eight_bit_tower_takes_a_time(exported: tuple[Run, Path]) -> None:
    run, path = exported
    if not (path / "user_tower_int8.onnx").exists():
        pytest.skip("left out: its recall was too low")
    ids, scores, *_ = Retriever.load(path, int8=True).recommend(HISTORIES, k=40, timestamp=LATER)
    for place in range(4):
        expected = dense(run, place, T + 99 * HOUR)
        np.testing.assert_allclose(scores[place], [expected[i] for i in ids[place]], atol=0.3)


def test_a_changed_catalogue_keeps_it(exported: tuple[Run, Path]) -> None:
    run, path = exported
    before = json.loads((path / "golden.json").read_text())
    remove(path, ["i9", "i39"])
    assert verify(path) < 1e-5
    retriever = Retriever.load(path)
    ids, scores, *_ = retriever.recommend(HISTORIES[1:2], k=10, timestamp=LATER)
    expected = dense(run, 1, T + 99 * HOUR, left_out="i9")
    assert_best(ids[0], scores[0], {i: s for i, s in expected.items() if i not in ("i9", "i39")})
    golden = json.loads(retriever.bundle.file("golden.json").read_text())
    kept = [any(event["item_id"] not in ("i9", "i39") for event in history) for history in before["histories"]]
    assert golden["now"] == [now for now, is_kept in zip(before["now"], kept, strict=True) if is_kept]


def test_other_bundles_know_no_time(make_run: Any, tmp_path: Path) -> None:
    path = export_bundle(load_run(make_run(IDS, "model.user_tower.time_bias=true")), tmp_path / "bundle", INDEX).path
    assert "now" not in {entry.name for entry in open_session(path / "user_tower.onnx").get_inputs()}
    assert "now" not in json.loads((path / "golden.json").read_text())
    for ask in (Retriever.load(path).recommend, Retriever.load(path).encode):
        with pytest.raises(UserError, match="no query time"):
            ask(HISTORIES, timestamp=LATER)
