"""Sessions read back in the order in which they begin, against a plain sort."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.data.preparation.blocks import Block, Rows, SortedSessions, blocks, blocks_by_start, parts
from twotower.data.preparation.sessionize import SessionCounts
from twotower.data.preparation.spill import ArrayFile
from twotower.data.preparation.splits import Split

Session = list[tuple[int, int, str]]  # time, item, part


def stored(path: Path, partitions: list[list[Session]]) -> SortedSessions:
    sessions = [session for partition in partitions for session in sorted(partition, key=lambda s: s[0][0])]
    events = [event for session in sessions for event in session]
    path.mkdir()
    columns = {}
    for place, (name, dtype) in enumerate({"timestamp": "<i8", "item_id": "<u4"}.items()):
        columns[name] = ArrayFile(path / f"{name}.npy", dtype)
        columns[name].append(np.array([event[place] for event in events]))
        columns[name].close()
    lengths = np.array([len(s) for s in sessions])
    counts = {part: np.array([sum(e[2] == part for e in s) for s in sessions]) for part in ("train", "validation")}
    rows = Rows({name: [file] for name, file in columns.items()}, {}, np.cumsum(lengths) - lengths,
                np.concatenate([[0], np.cumsum(lengths)]))  # fmt: skip
    return SortedSessions(
        rows,
        np.array([s[0][0] for s in sessions]),
        np.array([s[0][1] for s in sessions], dtype=np.uint8),  # anything: here the first item
        np.concatenate([[0], np.cumsum([len(p) for p in partitions])]),
        Split(counts["train"], counts["validation"], {}),
        SessionCounts(),
    )


def listed(found: list[Block]) -> list[Session]:
    sessions: list[Session] = []
    for block in found:
        names = np.array(["train", "validation", "test"])[block.part]
        columns: Any = (block.columns["timestamp"].tolist(), block.columns["item_id"].tolist(), names.tolist())
        for position, (first, *event) in enumerate(zip(block.first.tolist(), *columns, strict=True)):
            if first:
                assert block.columns["returning"][position] == event[1]
                sessions.append([])
            sessions[-1].append(tuple(event))
    return sessions


def random_sessions(random: np.random.Generator, count: int, moments: int) -> list[Session]:
    sessions = []
    for _ in range(count):
        begin, length = int(random.integers(moments)), int(random.integers(1, 6))
        cut = sorted(random.integers(0, length + 1, 2).tolist())
        names = ["train"] * cut[0] + ["validation"] * (cut[1] - cut[0]) + ["test"] * (length - cut[1])
        sessions.append([(begin + i, int(random.integers(1, 4)), name) for i, name in enumerate(names)])
    return sessions


@pytest.mark.parametrize("rows", [1, 7, 50, 10_000])
@pytest.mark.parametrize("moments", [3, 1000])
def test_the_order_is_that_of_the_beginning(tmp_path: Path, rows: int, moments: int) -> None:
    random = np.random.default_rng(rows)
    sessions = random_sessions(random, 120, moments)
    found = []
    for number, cuts in enumerate([[0, 120], [0, 11, 11, 60, 120]]):  # one of the partitions is empty
        shuffled = [sessions[i] for i in random.permutation(120)]
        partitions = [shuffled[a:b] for a, b in itertools.pairwise(cuts)]
        stored_sessions = stored(tmp_path / str(number), partitions)
        assert sorted(listed(list(blocks(stored_sessions, rows)))) == sorted(sessions)
        found.append(listed(list(blocks_by_start(stored_sessions, rows))))
        assert sorted(found[-1]) == sorted(sessions)
        assert [s[0][0] for s in found[-1]] == sorted(s[0][0] for s in sessions)
    assert found[0] == found[1]  # also among those that begin together


def test_blocks_have_about_the_rows_asked_for(tmp_path: Path) -> None:
    sessions = random_sessions(np.random.default_rng(0), 400, 10**6)
    stored_sessions = stored(tmp_path / "a", [sessions[:100], sessions[100:]])
    for found in (list(blocks(stored_sessions, 50)), list(blocks_by_start(stored_sessions, 50))):
        sizes = [len(block.first) for block in found]
        assert max(sizes) < 50 + 6 and len(sizes) < 1 + 1.2 * sum(sizes) / 50


def test_parts_of_events() -> None:
    lengths, train, validation = np.array([3, 2, 4]), np.array([3, 0, 1]), np.array([0, 0, 2])
    assert parts(lengths, train, validation).tolist() == [0, 0, 0, 2, 2, 0, 1, 1, 2]
