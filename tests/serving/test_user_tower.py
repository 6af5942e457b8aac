"""What goes into the user tower, against a loop over events, and the session that runs it.

Shapes: V items, H dim of items in histories, K event inputs.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from serving_oracle import DIM, toy_tables, toy_tower, toy_user

from twotower.serving.user_tower import open_session, padded, padded_feed

ROOT = Path(__file__).parents[2]
V, H = 9, 3
RANDOM = np.random.default_rng(6)
TABLE = RANDOM.normal(size=(V, H)).astype(np.float32)


def random_histories(number: int, inputs: int, longest: int = 8) -> list[list[tuple[int, list[int]]]]:
    """Each event's item_index and codes."""
    return [
        [(int(RANDOM.integers(1, V + 1)), RANDOM.integers(0, 5, inputs).tolist()) for _ in range(length)]
        for length in RANDOM.integers(1, longest + 1, number)
    ]


def flat(histories: list[list[tuple[int, list[int]]]], inputs: int) -> tuple[Any, Any, Any]:
    """[E] item_index, [E, K] codes and [B] lengths."""
    events = [event for history in histories for event in history]
    codes = np.array([codes for _, codes in events], dtype=np.int64).reshape(len(events), inputs)
    return np.array([item for item, _ in events]), codes, np.array([len(history) for history in histories])


def tower_feed(table: Any, *histories: Any) -> dict[str, Any]:
    history, codes = padded(*histories)
    return padded_feed(table, history, codes, [])


def assert_feed(feed: dict[str, Any], histories: list[list[tuple[int, list[int]]]], inputs: int) -> None:
    length = max(map(len, histories))
    assert list(feed) == ["history_vectors", "newest", *(["event_inputs"] if inputs else [])]
    vectors, newest, codes = feed["history_vectors"], feed["newest"], feed.get("event_inputs")
    assert (vectors.shape, vectors.dtype) == ((len(histories), length, H), np.float32)
    assert (newest.shape, newest.dtype) == ((len(histories),), np.int64)
    assert codes is None or (codes.shape, codes.dtype) == ((len(histories), length, inputs), np.int64)
    for row, history in enumerate(histories):
        assert newest[row] == len(history) - 1
        for place in range(length):
            item, known = history[place] if place < len(history) else (0, [0] * inputs)
            expected = TABLE[item - 1] if item else np.zeros(H)
            np.testing.assert_array_equal(vectors[row, place], expected)
            assert codes is None or codes[row, place].tolist() == known


@pytest.mark.parametrize("inputs", [0, 1, 3])
@pytest.mark.parametrize("number", [1, 2, 40])
@pytest.mark.parametrize("max_length", [1, 4, 100])
def test_feed_equals_a_loop_over_events(inputs: int, number: int, max_length: int) -> None:
    histories = random_histories(number, inputs)
    items, codes, length = flat(histories, inputs)
    feed = tower_feed(TABLE, items, codes, np.cumsum(length), length, max_length)
    assert_feed(feed, [history[-max_length:] for history in histories], inputs)


def test_feed_of_some_histories() -> None:
    """`end` and `available` choose them, in any order, and parts of them."""
    histories = random_histories(6, 2)
    items, codes, length = flat(histories, 2)
    end = np.cumsum(length)
    feed = tower_feed(TABLE, items, codes, end[[4, 1]], length[[4, 1]], 100)
    assert_feed(feed, [histories[4], histories[1]], 2)
    longest = int(np.argmax(length))
    assert length[longest] > 1
    feed = tower_feed(TABLE, items, codes, end[[longest]] - 1, length[[longest]] - 1, 100)
    assert_feed(feed, [histories[longest][:-1]], 2)


@pytest.mark.parametrize("inputs", [0, 2])
def test_feed_of_padded_histories(inputs: int) -> None:
    histories = random_histories(20, inputs)
    length = max(map(len, histories))
    rows = [history + [(0, [0] * inputs)] * (length - len(history)) for history in histories]
    items = np.array([[item for item, _ in row] for row in rows])
    codes = np.array([[codes for _, codes in row] for row in rows], dtype=np.int64).reshape(20, length, inputs)
    assert_feed(padded_feed(TABLE, items, codes, []), histories, inputs)
    more = padded_feed(TABLE, items, codes, ["occurrences", "objective"], objective=3)
    assert more["objective"].tolist() == [3] * 20
    counted = more["occurrences"].tolist()
    for row, history in zip(counted, histories, strict=True):
        seen = [item for item, _ in history]
        assert row[: len(seen)] == [seen.count(item) for item in seen]


def test_the_table_stays_as_it_is_on_disk(tmp_path: Path) -> None:
    """Memory-mapped and not writable; zeros go into a copy."""
    np.save(tmp_path / "table.npy", TABLE)
    table = np.load(tmp_path / "table.npy", mmap_mode="r")
    feed = padded_feed(table, np.array([[1, 0], [9, 1]]), np.zeros((2, 2, 0), np.int64), [])
    assert_feed(feed, [[(1, [])], [(9, []), (1, [])]], 0)
    np.testing.assert_array_equal(np.load(tmp_path / "table.npy"), TABLE)


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tower") / "tower.onnx"
    onnx.save(toy_tower(DIM, toy_tables({"a": 5, "b": 5})), file)
    return file


def test_session(tower: Path) -> None:
    """The tower does not see what lies behind a history's newest event, so a batch answers as each alone."""
    session = open_session(tower)
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.get_providers() == ["CPUExecutionProvider"]
    vectors, tables = RANDOM.normal(size=(V, DIM)).astype(np.float32), toy_tables({"a": 5, "b": 5})
    histories = random_histories(50, 2)
    items, codes, length = flat(histories, 2)
    feed = tower_feed(vectors, items, codes, np.cumsum(length), length, 4)
    (users,) = session.run(["user_vector"], feed)
    for history, user in zip(histories, users, strict=True):
        kept = history[-4:]
        expected = toy_user(vectors, [item for item, _ in kept], [known for _, known in kept], tables)
        np.testing.assert_allclose(user, expected, rtol=1e-4, atol=1e-4)


def test_threads_share_a_session(tower: Path) -> None:
    session = open_session(tower)
    feeds = []
    for number in range(1, 30):
        items, codes, length = flat(random_histories(number, 2), 2)
        vectors = RANDOM.normal(size=(V, DIM)).astype(np.float32)
        feeds.append(tower_feed(vectors, items, codes, np.cumsum(length), length, 4))
    alone = [session.run(["user_vector"], feed)[0] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda feed: session.run(["user_vector"], feed)[0], feeds * 4))
    for found, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "tower.onnx").write_bytes(b"not a graph")
    with pytest.raises(Exception, match=r"tower\.onnx"):
        open_session(tmp_path / "tower.onnx")


def test_the_runtime_leaves_nothing_and_sends_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)  # as this process has set it
    code = (
        "import os, sys; from pathlib import Path; from twotower.serving.user_tower import open_session; "
        "open_session(Path(sys.argv[1])); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    tower = tmp_path / "tower.onnx"
    onnx.save(toy_tower(DIM, toy_tables({}, 0)), tower)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tower)], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"] and done.stderr == ""
    assert list(tmp_path.iterdir()) == [tower]
