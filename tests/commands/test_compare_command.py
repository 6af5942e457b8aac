"""`twotower compare`: the better run and the slices are printed; what is no run gets one message."""

from pathlib import Path

import numpy as np
import pytest

from twotower.commands.compare import METRIC
from twotower.commands.main import main
from twotower.evaluation.results_file import SavedResults, write_results
from twotower.evaluation.slices import Grouping
from twotower.evaluation.summary import PRIMARY_METRIC
from twotower.metrics.ranking_results import RankingResults


def write(folder: Path, chance: float, chance_of_new: float) -> str:
    folder.mkdir()
    queries = np.arange(900)
    new = queries // 3 % 2
    right = np.random.default_rng(0).random(900) < np.where(new, chance_of_new, chance)
    better, one = np.where(right, 0, 99).astype(np.int32), np.ones(900, dtype=np.int32)
    ranking = RankingResults(queries, better, one, np.empty((900, 0), dtype=np.int32))
    groups = [Grouping("user", ["known", "new"], new)]
    write_results(folder / "answers.npz", SavedResults("abc", [1, 20], ranking, queries // 3, groups))
    return str(folder)


def test_it_names_the_better_run_and_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", 0.6, 0.1), write(tmp_path / "b", 0.2, 0.3)
    assert METRIC == PRIMARY_METRIC
    assert main(["compare", a, b]) == 0
    text = capsys.readouterr().out
    assert "A: recall@20 of all queries: better than B" in text.splitlines()
    cells = [[c.strip() for c in line.split("│")[1:]] for line in text.splitlines()]
    verdicts = {row[1]: row[-2] for row in cells if len(row) > 6}
    assert verdicts["known"] == "better" and verdicts["new"] == "worse"
    assert main(["compare", b, a, "--metric", "mrr_at_1"]) == 0
    assert "A: mrr@1 of all queries: worse than B" in capsys.readouterr().out.splitlines()
    assert main(["compare", a, a]) == 0
    text = capsys.readouterr().out
    assert "A: recall@20 of all queries: equal to B" in text and "+0.0000" not in text


def test_what_is_no_run_gets_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty"), str(tmp_path / "empty")]) == 2
    assert "answers.npz" in capsys.readouterr().err
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert main(["compare", "0123456789abcdef", "0123456789abcdef", "--tracking-uri", uri]) == 2
    assert "0123456789abcdef" in capsys.readouterr().err
    unknown = 32 * "0"
    assert main(["compare", unknown, unknown, "--tracking-uri", uri]) == 2
    assert uri in capsys.readouterr().err


def test_a_model_equals_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", 0.6, 0.1)
    assert main(["compare", a, a]) == 0
    text = capsys.readouterr().out
    assert text.strip().splitlines()[-1] == "A: mrr@20 of all queries: equal to B"
    assert "unclear" not in text and "+0.0000" not in text


def test_both_models_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for typed, missing in (([], "RUN, OTHER"), (["a"], "OTHER")):
        with pytest.raises(SystemExit):
            main(["compare", *typed])
        assert f"required: {missing}\n" in capsys.readouterr().err
