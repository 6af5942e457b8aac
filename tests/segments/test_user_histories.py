"""A run's own sessions, and event inputs, against torch and against Retriever.encode."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.core.errors import UserError
from twotower.core.schema import open_prepared
from twotower.exporting.bundle import export_bundle
from twotower.exporting.vectors import encode_users
from twotower.runs import run
from twotower.runs.histories import History
from twotower.segments.audiences import write_audience
from twotower.segments.events_file import read_events
from twotower.segments.prepared_sessions import run_sessions
from twotower.segments.segments import write_segments
from twotower.segments.user_histories import encode
from twotower.serving.retriever import Retriever

IDS = [f"sku {i}" for i in range(40)]
INPUTS = ["event_type", "gap", "hour", "weekday", "device"]
INDEX = {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000}


@pytest.fixture(scope="module")
def loaded(make_run: Any) -> run.Run:
    return run.load_run(make_run(IDS, "model/user_tower=mean_pool", f"model.inputs=[{','.join(INPUTS)}]"))


@pytest.fixture(scope="module")
def retriever(loaded: run.Run, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    export_bundle(loaded, path, INDEX)
    return Retriever.load(path)


@pytest.mark.slow
def test_vectors_of_the_run_s_sessions_are_those_of_torch(loaded: run.Run, retriever: Retriever) -> None:
    prepared = open_prepared(loaded.data["path"])
    sessions = []
    for start, stop in zip(prepared.offsets[:-1], prepared.offsets[1:], strict=True):
        codes = np.array([prepared.inputs[name][start:stop] for name in INPUTS], dtype=np.int64).T
        sessions.append(History(prepared.item_index[start:stop].astype(np.int64), codes))
    expected = encode_users(loaded.model, sessions, 6).vectors
    histories = run_sessions(retriever.bundle, loaded.path)
    assert (histories.id_name, histories.whose) == ("position", "sessions")
    assert histories.ids.to_pylist() == list(range(30)) and histories.event_types == prepared.event_types
    np.testing.assert_allclose(encode(retriever.bundle, histories, 0, 30).vectors, expected, atol=1e-5)
    newest = run_sessions(retriever.bundle, loaded.path, newest=4)
    assert newest.ids.to_pylist() == [26, 27, 28, 29]
    np.testing.assert_allclose(encode(retriever.bundle, newest, 1, 4).vectors, expected[27:], atol=1e-5)
    assert newest.event_type.tolist() == prepared.event_type[prepared.offsets[26] :].tolist()


@pytest.mark.slow
def test_event_inputs_come_from_the_file_as_in_serving(retriever: Retriever, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    events = [
        {
            "user_id": int(random.integers(12)),
            "item_id": "nowhere" if random.random() < 0.1 else IDS[random.integers(40)],
            "event_type": [None, "view", "cart", "gift"][random.integers(4)],
            "timestamp": 1_700_000_000_000 + int(random.integers(10**8)),
            "device": [None, "phone", "fridge"][random.integers(3)],
        }
        for _ in range(150)
    ]
    lists: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        lists.setdefault(event["user_id"], []).append(event)
    lists = {user: sorted(mine, key=lambda event: event["timestamp"]) for user, mine in lists.items()}
    for left_out in ((), ("device",), ("event_type", "device")):
        rows = [{name: value for name, value in event.items() if name not in left_out} for event in events]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "events.parquet", row_group_size=40)
        histories = read_events(retriever.bundle, tmp_path / "events.parquet")
        served = retriever.encode(
            [[{k: v for k, v in e.items() if k not in left_out} for e in lists[u]] for u in histories.ids.to_pylist()]
        )
        found = np.concatenate([encode(retriever.bundle, histories, *part).vectors for part in ((0, 5), (5, 12))])
        np.testing.assert_allclose(found, served, atol=1e-6)


@pytest.mark.slow
def test_a_run_s_sessions_become_segments_and_audiences(loaded: run.Run, retriever: Retriever, tmp_path: Path) -> None:
    source = partial(run_sessions, run_path=loaded.path)
    report = write_segments(retriever.bundle.path, source, tmp_path / "segments", 3, 5)
    members = pq.read_table(report.path / "members.parquet")
    assert members["position"].to_pylist() == list(range(30)) and len(set(members["segment"].to_pylist())) > 1
    assert f"{len(report.segments)} segments of 30 sessions" in str(report)
    audience = write_audience(retriever.bundle.path, IDS[:1], source, tmp_path / "audience.parquet", 5, 5)
    assert pq.read_schema(audience.path).names == ["item_id", "rank", "position", "score"]


def test_prepared_data_that_is_gone_or_another_is_refused(
    loaded: run.Run, retriever: Retriever, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(loaded.path, copy)
    data = json.loads((copy / "data.json").read_text())
    for change, message in (({"path": str(tmp_path / "gone")}, "is missing"), ({"fingerprint": "x"}, "fingerprint x")):
        (copy / "data.json").write_text(json.dumps({**data, **change}))
        with pytest.raises(UserError, match=f"{message}.*events=events.parquet"):
            run_sessions(retriever.bundle, copy)
