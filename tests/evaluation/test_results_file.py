"""The file of results: read as it was written, and refused where it is damaged."""

from pathlib import Path

import numpy as np
import pytest

from twotower.core.errors import UserError
from twotower.evaluation.results_file import SavedResults, read_results, write_results
from twotower.evaluation.slices import Grouping
from twotower.metrics.ranking_results import RankingResults


def saved() -> SavedResults:
    random = np.random.default_rng(0)
    answers = RankingResults(
        np.arange(9) * 3, *(random.integers(1, 50, 9).astype(np.int32) for _ in range(2)), np.ones((9, 4))
    )
    groupings = [Grouping("colour", ["rød", "grün"], np.array([0, 1, -1] * 3)), Grouping("size", [], np.full(9, -1))]
    return SavedResults(
        "abc", [1, 20], answers, np.arange(9) // 2, groupings, "exclude_seen", {"revenue": np.arange(9.0)}
    )


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    write_results(tmp_path / "answers.npz", saved())
    found, expected = read_results(tmp_path / "answers.npz"), saved()
    assert (found.fingerprint, found.ks, found.rules) == ("abc", [1, 20], "exclude_seen")
    assert found.weights["revenue"].tolist() == [*range(9)]
    for one, other in zip([*found.ranking, found.session], [*expected.ranking, expected.session], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.groupings, expected.groupings, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_array_equal(one.code, other.code)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "answers.npz"
    write_results(file, saved())
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(UserError, match=r"answers\.npz is missing or damaged"):
        read_results(file)
    with pytest.raises(UserError, match="missing"):
        read_results(tmp_path / "nothing.npz")


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path / "answers.npz", saved())
    monkeypatch.setattr("twotower.evaluation.results_file.FORMAT_VERSION", 2)
    with pytest.raises(UserError, match="format version 1, expected 2"):
        read_results(tmp_path / "answers.npz")
