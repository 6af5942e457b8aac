"""The report of a sweep, against a study made by hand."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from rich.console import Console

from twotower.commands.main import main
from twotower.core.errors import UserError
from twotower.core.files import write_json
from twotower.sweep.study import FAILED, LEFT_OUT, SECONDS, SWEEP_FILE
from twotower.sweep.sweep_report import (
    best_trials,
    header,
    importance_of,
    page,
    report_sweep,
    results_of,
    row,
    write_experiment,
)

SPACE = {
    "optimizer.learning_rate": FloatDistribution(1e-4, 1, log=True),
    "model.dim": CategoricalDistribution(("8", "16")),
}
GROUPS = {"data", "model/user_tower", "experiment"}


def made(
    values: Sequence[Sequence[float] | None], directions: Sequence[str] = ("maximize",), left_out: Any = ()
) -> optuna.Study:
    """A study of complete trials with these values, and failed ones where there are none."""
    study = optuna.create_study(directions=list(directions))
    for number, value in enumerate(values):
        params: dict[str, Any] = {
            "optimizer.learning_rate": 10.0 ** -(number % 4),
            "model.dim": ("8", "16")[number // 4 % 2],
        }
        attributes: dict[str, Any] = {SECONDS: 60.0} | ({} if value else {FAILED: "ValueError: too <odd>"})
        attributes |= {LEFT_OUT: left_out[number]} if number in left_out else {}
        state = TrialState.COMPLETE if value else TrialState.FAIL
        study.add_trial(
            optuna.trial.create_trial(
                state=state, values=value, params=params, distributions=SPACE, user_attrs=attributes
            )
        )
    return study


@pytest.mark.parametrize(("direction", "expected"), [("maximize", [2, 0, 3]), ("minimize", [3, 0, 2])])
def test_trials_are_ranked_by_the_first_objective(direction: str, expected: list[int]) -> None:
    study = made([[0.2], None, [0.3], [0.1]], [direction])
    assert [trial.number for trial in results_of(study, ["x"]).ranked] == expected
    assert results_of(study, ["x"]).states == "3 complete, 1 failed"


def test_lists_stand_in_the_table_as_they_are() -> None:
    study = optuna.create_study(direction="maximize")
    inputs = CategoricalDistribution(("[]", "[event_type]"))
    params = {"model.inputs": "[event_type]"}
    study.add_trial(
        optuna.trial.create_trial(
            value=0.5, params=params, distributions={"model.inputs": inputs}, user_attrs={SECONDS: 1.0}
        )
    )
    console = Console(width=100)
    with console.capture() as shown:
        console.print(best_trials(results_of(study, ["val/ndcg_at_20"])))
    assert "[event_type]" in shown.get()


def test_of_two_objectives_those_that_nothing_beats_come_first() -> None:
    study = made([[0.5, 9.0], [0.4, 1.0], [0.45, 9.5], [0.1, 1.5]], ["maximize", "minimize"])
    assert [trial.number for trial in results_of(study, ["x"]).ranked] == [0, 1, 2, 3]


def test_the_page_has_the_reason_of_each_failure_and_no_setting_that_was_left_out() -> None:
    results = results_of(made([[0.2], None, [0.3]], left_out={2: ["model.dim"]}), ["x"])
    text = page(results, "towers")
    assert "Failed trials" in text and "ValueError: too &lt;odd&gt;" in text
    assert [row(trial, [])[-1] for trial in results.ranked] == ["-", "8"]
    assert "Failed trials" not in page(results_of(made([[0.2], [0.1]]), ["x"]), "towers")


def test_importance_finds_the_setting_that_decides() -> None:
    study = made([[-float(number % 4)] for number in range(16)])
    found = importance_of(study)
    assert next(iter(found)) == "optimizer.learning_rate" and found["optimizer.learning_rate"] > 0.7
    assert sum(found.values()) == pytest.approx(1)
    assert importance_of(made([[0.1], [0.2]])) == {}


def test_names_are_short_where_they_are_one_settings_alone() -> None:
    study = made([[0.1]])
    assert header(results_of(study, ["val/ndcg_at_20"])) == ["trial", "val/ndcg@20", "seconds", "learning_rate", "dim"]
    trial = optuna.trial.create_trial(
        value=1.0,
        params={"a.dim": 1.0, "b/dim": 2.0},
        distributions=dict.fromkeys(("a.dim", "b/dim"), FloatDistribution(0, 9)),
    )
    other = optuna.create_study(direction="maximize")
    other.add_trial(trial)
    assert header(results_of(other, ["x"]))[-2:] == ["a.dim", "b/dim"]


def run_of(path: Path) -> None:
    path.mkdir(parents=True)
    config = {"model": {"dim": 16, "inputs": ["gap"]}, "optimizer": {"learning_rate": 0.1}, "name": "shop: a"}
    OmegaConf.save(OmegaConf.create(config), path / "config.yaml")


def test_the_experiment_says_all_that_was_typed_and_drawn(tmp_path: Path) -> None:
    run_of(tmp_path / "1")
    typed = ["data=events", "experiment=shop", "model/user_tower=gru", "model.inputs=[gap]", "name='shop: a'"]
    write_experiment(
        tmp_path, made([[0.1], [0.2]]).trials[1], ["val/ndcg_at_20"], [*typed, "~callbacks.health"], GROUPS
    )
    text = (tmp_path / "experiment" / "best.yaml").read_text()
    assert text.startswith("# @package _global_\n") and "val/ndcg_at_20 0.2000" in text
    assert OmegaConf.create(text) == {
        "defaults": ["shop", {"override /data": "events"}, {"override /model/user_tower": "gru"}, "_self_"],
        "model": {"inputs": ["gap"], "dim": 16},
        "name": "shop: a",
        "optimizer": {"learning_rate": 0.1},
    }


def sweep_folder(path: Path, study: optuna.Study, objectives: Sequence[str], **command: Any) -> Path:
    """A sweep's folder with a copy of `study`, and the run of each trial."""
    path.mkdir(parents=True)
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=f"sqlite:///{path / 'study.db'}",
        to_study_name="shop",
    )
    for trial in study.trials:
        run_of(path / str(trial.number))
    typed = {"line": "", "overrides": [], "groups": sorted(GROUPS), "config_folders": [], **command}
    sweep = {"name": "shop", "storage": "sqlite:///elsewhere.db", "objectives": dict.fromkeys(objectives, "maximize")}
    write_json(path / SWEEP_FILE, {"sweep": sweep, "command": typed})
    return path


def test_the_report_names_the_best_the_failures_and_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = made([[0.1 * number + 0.1] if number != 3 else None for number in range(8)])
    typed = {"overrides": ["name=x", "~callbacks.health"]}
    path = sweep_folder(tmp_path / "a sweep", study, ["val/ndcg_at_20"], **typed)
    assert report_sweep(path) == 8
    printed = capsys.readouterr().out
    assert "8 trials: 7 complete, 1 failed" in printed and "trial 3 failed: ValueError: too <odd>" in printed
    lines = {line.partition(": ")[0]: shlex.split(line.partition(": ")[2]) for line in printed.splitlines()}
    assert lines["again"][:3] == lines["next"][:3] == ["cd", str(tmp_path), "&&"]
    assert lines["again"][-5:] == [
        *("train", "--config-dir", str(path), "experiment=best"),
        "~callbacks.health",
    ]
    assert f"resume='{path / '7'}'" in lines["next"]
    page = (path / "sweep.html").read_text()
    assert page.count("<svg") >= 4 and "0.8000" in page and "Importance" in page


def test_a_sweep_without_a_complete_trial_recommends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_folder(tmp_path / "sweep", made([None, None]), ["val/ndcg_at_20"])
    assert report_sweep(path) == 2
    assert "nothing can be recommended" in capsys.readouterr().out
    assert (path / "sweep.html").exists() and not (path / "experiment").exists()


def test_two_objectives_are_drawn_against_each_other(tmp_path: Path) -> None:
    study = made([[0.1, 3.0], [0.2, 2.0]], ["maximize", "minimize"])
    path = sweep_folder(tmp_path / "sweep", study, ["val/ndcg_at_20", "serving/megabytes"])
    report_sweep(path)
    assert "Trade-off" in (path / "sweep.html").read_text()


def test_the_command_reports_a_sweep_again_and_refuses_any_other_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_folder(tmp_path / "sweep", made([[0.25]]), ["val/ndcg_at_20"])
    assert main(["sweep-report", str(path)]) == 0
    assert "0.2500" in capsys.readouterr().out and (path / "sweep.html").exists()
    assert main(["sweep-report", str(tmp_path)]) == 2
    assert str(tmp_path / SWEEP_FILE) in capsys.readouterr().err
    with pytest.raises(UserError, match=SWEEP_FILE):
        report_sweep(tmp_path)
