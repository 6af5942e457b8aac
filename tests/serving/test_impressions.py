"""The impression log: whole files, all rows once, what recommend returned."""

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from twotower.core.errors import UserError
from twotower.serving.answers import Recommendations
from twotower.serving.impressions import ImpressionLog
from twotower.serving.retriever import Retriever

NO_SCORES = np.zeros((1, 2), np.float32)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def retriever(make_bundle: Any) -> Retriever:
    return Retriever.load(make_bundle([f"ä{number}" for number in range(40)]))


def test_what_was_shown_is_in_the_log(retriever: Retriever, tmp_path: Path) -> None:
    histories = [["ä1", {"item_id": "ä2", "timestamp": datetime(2026, 1, 2, tzinfo=UTC)}], [np.str_("ä3")]]
    result = retriever.recommend(histories, 5, exploration=0.5, seed=1, exclude_seen=True)
    assert result.propensities is not None and result.ranks is not None
    with ImpressionLog(tmp_path / "log", retriever.bundle) as log:
        given = log.write(
            "u1", histories[0], result, parameters={"exclude_seen": True, "seed": 1}, bucket="new", timestamp=7
        )
        other = log.write("u2", histories[1], result, query=1, request_id="mine", teams=[0, 1, 0, 1, 0])
        assert rows_of(tmp_path / "log") == []
    first, second = rows_of(tmp_path / "log")
    assert (first["request_id"], second["request_id"], other) == (given, "mine", "mine")
    assert json.loads(first["request"]) == {
        "history": ["ä1", {"item_id": "ä2", "timestamp": 1_767_312_000_000}],
        "exclude_seen": True,
    }
    for query, row in enumerate((first, second)):
        assert row["item_ids"] == result.ids[query]
        assert row["propensities"] == result.propensities[query].tolist()
        assert row["ranks"] == result.ranks[query].tolist()
        assert row["bundle"] == str(retriever.bundle.manifest["checksum"])[:16]
    assert (first["timestamp"], first["bucket"], first["teams"]) == (7, "new", None)
    assert second["timestamp"] > 1_700_000_000_000 and second["teams"] == [0, 1, 0, 1, 0] and second["bucket"] == ""
    replayed = json.loads(first["request"])
    again = retriever.recommend([replayed.pop("history")], 5, exploration=0.5, seed=1, **replayed)
    assert again.ids == result.ids[:1]


def test_without_exploration_each_result_was_certain(make_bundle: Any, tmp_path: Path) -> None:
    retriever = Retriever.load(make_bundle(list(range(1, 9))))
    with ImpressionLog(tmp_path, retriever.bundle) as log:
        log.write("u", [3], retriever.recommend([[3]], 3))
        log.write("u", [], retriever.recommend([[]], 3, include=[], exploration=0.1))
    plain, empty = rows_of(tmp_path)
    assert plain["propensities"] == [1.0, 1.0, 1.0] and plain["ranks"] == [0, 1, 2]
    assert empty["item_ids"] == empty["propensities"] == []


def test_threads_write_each_row_once_into_whole_files(retriever: Retriever, tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path, retriever.bundle, rows_per_file=7)
    result = Recommendations([["ä1", "ä2"]], NO_SCORES)

    def work(thread: int) -> None:
        for number in range(50):
            log.write(f"{thread}-{number}", ["ä1"], result)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    log.close()
    assert sorted(row["user"] for row in rows_of(tmp_path)) == sorted(f"{t}-{n}" for t in range(4) for n in range(50))
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".parquet"]


def test_rows_stay_where_the_folder_can_not_be_written_to(retriever: Retriever, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = ImpressionLog(folder, retriever.bundle)
    log.write("u", ["ä1"], Recommendations([["ä1", "ä2"]], NO_SCORES))
    folder.rmdir()
    with pytest.raises(UserError, match="can't be written"):
        log.flush()
    folder.mkdir()
    log.flush()
    assert [row["user"] for row in rows_of(folder)] == ["u"]


def test_a_request_is_json(retriever: Retriever, tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path, retriever.bundle)
    with pytest.raises(UserError, match="not JSON"):
        log.write("u", [{"item_id": object()}], Recommendations([["ä1", "ä2"]], NO_SCORES))
    log.close()
    assert rows_of(tmp_path) == []
