"""A study whose workers come and go, against what one that is never left would have."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from twotower.sweep.study import claim_trial, enqueue, load_study, open_study, unfinished

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(("a", "b"))}


@pytest.fixture
def sweep(tmp_path: Path) -> DictConfig:
    return OmegaConf.create(
        {
            "name": "shop's",
            "storage": f"sqlite:///{tmp_path / 'sweeps' / 'study.db'}",
            "objectives": {"val/ndcg_at_20": "maximize"},
            "sampler": {"_target_": "optuna.samplers.RandomSampler"},
            "pruner": None,
        }
    )


def test_all_trials_are_there_from_the_beginning_and_only_those_that_lack_are_added(sweep: DictConfig) -> None:
    enqueue(open_study(sweep, 0), 2, [])
    study = open_study(sweep, 0)
    enqueue(study, 4, [])
    enqueue(study, 3, [])
    assert [trial.number for trial in study.trials] == unfinished(study) == [0, 1, 2, 3]
    assert {trial.state for trial in study.trials} == {TrialState.WAITING}


def test_a_trial_that_was_left_goes_on_with_the_settings_that_it_drew(sweep: DictConfig) -> None:
    study = open_study(sweep, 0)
    enqueue(study, 3, [])
    first = claim_trial(study, 1, SPACE)
    first.report(0.5, 0)
    again = claim_trial(open_study(sweep, 99), 1, SPACE)
    assert again.params == first.params and set(first.params) == set(SPACE)
    assert unfinished(study) == [0, 1, 2]
    study.tell(1, 0.75)
    assert unfinished(study) == [0, 2]
    assert study.trials[1].value == 0.75 and study.trials[1].intermediate_values == {0: 0.5}
    assert study.trials[0].params == {}


@pytest.mark.slow
def test_workers_with_seeds_of_their_own_draw_different_settings_and_always_the_same(sweep: DictConfig) -> None:
    def drawn(seed: int, number: int) -> dict[str, Any]:
        study = open_study(sweep, seed)
        enqueue(study, 4, [])
        return claim_trial(study, number, SPACE).params

    some = [drawn(number, number) for number in range(3)]
    assert len({params["x"] for params in some}) == 3
    Path(sweep.storage.removeprefix("sqlite:///")).unlink()
    assert [drawn(number, number) for number in (2, 0, 1)] == [some[2], some[0], some[1]]


def test_the_first_trials_have_the_settings_that_are_known(sweep: DictConfig) -> None:
    study = open_study(sweep, 0)
    points = [{"x": 0.25, "kind": "b"}, {"x": 0.5, "kind": "a"}]
    enqueue(study, 3, points)
    assert [claim_trial(study, number, SPACE).params for number in (1, 0)] == [points[1], points[0]]
    assert claim_trial(study, 2, SPACE).params["x"] not in (0.25, 0.5)


def test_a_pruner_sees_what_other_workers_reported(sweep: DictConfig) -> None:
    sweep.pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}
    study = open_study(sweep, 0)
    enqueue(study, 2, [])
    good = claim_trial(study, 0, SPACE)
    good.report(0.9, 0)
    study.tell(0, 0.9)
    bad = claim_trial(open_study(sweep, 1), 1, SPACE)
    bad.report(0.1, 0)
    assert bad.should_prune()
    assert isinstance(open_study(sweep, 1).pruner, optuna.pruners.MedianPruner)


def test_a_study_whose_folder_was_moved_is_read_where_it_is(sweep: DictConfig, tmp_path: Path) -> None:
    enqueue(open_study(sweep, 0), 3, [])
    (tmp_path / "sweeps").rename(tmp_path / "moved")
    assert len(load_study(tmp_path / "moved", sweep).trials) == 3
