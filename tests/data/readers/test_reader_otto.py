"""OTTO's sessions in their official JSON Lines form, and the labels of its test sessions."""

import json
from pathlib import Path
from typing import Any

import pytest
from captured import events_of, source_of, write

from twotower.core.errors import UserError
from twotower.data.readers import chunks
from twotower.data.readers.otto import read

ALL = ["session_id", "item_id", "timestamp", "event_type"]
TRAIN = (
    '{"session":0,"events":[{"aid":1517085,"ts":1659304800025,"type":"clicks"},'
    '{"aid":1563459,"ts":1659304904511,"type":"carts"}]}\n'
    '{"session":1,"events":[{"aid":1517085,"ts":1659304800025,"type":"orders"}]}\n'
)
TEST = (
    '{"session":7,"events":[{"aid":1,"ts":1661724000278,"type":"clicks"},{"aid":2,"ts":1661724000378,"type":"clicks"}]}\n'
    '{"session":8,"events":[{"aid":3,"ts":1661724000983,"type":"clicks"}]}\n'
    '{"session":9,"events":[{"aid":4,"ts":1661724001000,"type":"clicks"}]}\n'
)
LABELS = (
    '{"session":7,"labels":{"clicks":5,"carts":[6,5],"orders":[6]}}\n'
    '{"session":9,"labels":{"orders":[8,9]}}\n'
    '{"session":8,"labels":{"clicks":7}}\n'
)
FROM_TRAIN = [
    (0, 1517085, 1659304800025, "clicks"),
    (0, 1563459, 1659304904511, "carts"),
    (1, 1517085, 1659304800025, "orders"),
]
FROM_TEST = [
    (7, 1, 1661724000278, "clicks"),
    (7, 2, 1661724000378, "clicks"),
    (8, 3, 1661724000983, "clicks"),
    (9, 4, 1661724001000, "clicks"),
]
FROM_LABELS = [
    *[
        (7, 5, 1661724000379, "clicks"),
        (7, 6, 1661724000380, "carts"),
        (7, 5, 1661724000381, "carts"),
        (7, 6, 1661724000382, "orders"),
    ],
    *[(9, 8, 1661724001001, "orders"), (9, 9, 1661724001002, "orders"), (8, 7, 1661724000984, "clicks")],
]


def labelled(rows: list[tuple[Any, ...]], split: str) -> list[tuple[Any, ...]]:
    return [(*row, split) for row in rows]


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "otto-recsys-train.jsonl"])
def test_sessions_of_a_training_file(tmp_path: Path, name: str) -> None:
    for path in (tmp_path, write(tmp_path / name, TRAIN)):
        source = source_of(read, path)
        assert (source.name, source.unit, source.columns) == ("otto", "ms", ALL)
        assert events_of(source).rows() == FROM_TRAIN
        assert source.rows >= 3


def test_labels_become_events_after_the_given_ones(tmp_path: Path) -> None:
    for name, text in {"train.jsonl": TRAIN, "test.jsonl": TEST, "test_labels.jsonl": LABELS}.items():
        write(tmp_path / name, text)
    write(tmp_path / "test_sessions_full.jsonl", TEST)  # what the labels say, in another form
    write(tmp_path / "sample_submission.csv", "session_type,labels\n")
    source = source_of(read, tmp_path)
    assert sorted(file.name for file in source.files) == ["test.jsonl", "test_labels.jsonl", "train.jsonl"]
    rows = events_of(source, [*ALL, "split"]).rows()
    given = labelled(FROM_TEST, "train")
    assert rows == given + labelled(FROM_TRAIN, "train") + labelled(FROM_LABELS, "test")
    assert events_of(source_of(read, tmp_path / "test.jsonl")).rows() == given + labelled(FROM_LABELS, "test")
    assert source.rows >= len(rows)


def test_without_labels_the_test_sessions_test(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", TRAIN)
    write(tmp_path / "test.jsonl.gz", TEST)
    rows = events_of(source_of(read, tmp_path)).rows()
    assert rows == labelled(FROM_TEST, "test") + labelled(FROM_TRAIN, "train")


def test_odd_lines(tmp_path: Path) -> None:
    write(
        tmp_path / "test.jsonl",
        TEST + '\n{"session":10,"events":[]}\n{"session":11}\n{"session":12,"events":[{"aid":5}]}',
    )
    write(tmp_path / "test_labels.jsonl", '{"session":99,"labels":{"clicks":1}}\n{"session":8,"labels":{"carts":[]}}\n')
    rows = events_of(source_of(read, tmp_path), ["session_id", "item_id", "timestamp"]).rows()
    assert rows[4:] == [(12, 5, None), (99, 1, None)]


def test_a_truncated_line(tmp_path: Path) -> None:
    source = source_of(read, write(tmp_path / "train.jsonl", TRAIN[:-10]))
    with pytest.raises(UserError, match=r"train\.jsonl can't be read as JSON Lines: line 2 is not a JSON object"):
        events_of(source)


def test_sessions_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "PIECE_BYTES", 50)
    for name, text in {"train.jsonl": TRAIN, "test.jsonl": TEST, "test_labels.jsonl": LABELS}.items():
        write(tmp_path / name, text)
    rows = events_of(source_of(read, tmp_path)).rows()
    assert rows == labelled(FROM_TEST + FROM_TRAIN, "train") + labelled(FROM_LABELS, "test")


@pytest.mark.parametrize("name", ["", "readme.md", "train.jsonl", "test_labels.jsonl"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name if name == "train.jsonl" else tmp_path
    if name not in ("", "train.jsonl"):
        write(tmp_path / name, LABELS)
    with pytest.raises(UserError, match=r"data\.path=.*kaggle\.com/datasets/otto/recsys-dataset"):
        source_of(read, path)


def test_the_real_sessions(real_data: Path) -> None:
    file = real_data / "otto_tiny" / "train.jsonl"
    sessions = [json.loads(line) for line in file.read_text().splitlines()]
    expected = [(s["session"], e["aid"], e["ts"], e["type"]) for s in sessions for e in s["events"]]
    assert events_of(source_of(read, file.parent)).rows() == expected
