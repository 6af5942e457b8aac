"""Which settings make another run, and how they are named."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from twotower.runs.config_folder import CONF
from twotower.runs.identity import differing_settings, listed


def configured(*overrides: str, run_dir: str = "runs/a") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [f"run_dir={run_dir}", "name=shop", *overrides])


def changed(*overrides: str, of_data: bool = False) -> list[str]:
    began = OmegaConf.to_yaml(configured(), resolve=True)
    return differing_settings(began, configured(*overrides, run_dir="elsewhere/b"), of_data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.dim=32", "model.dim: was 64, is 32"),
        ("optimizer.learning_rate=1e-5", "optimizer.learning_rate: was 0.003, is 1e-05"),
        ("target_weights={cart: 3}", "target_weights.cart: was absent, is 3"),
        ("evaluation.min_history=2", "evaluation.min_history: was 1, is 2"),
        ("trainer.precision=bf16-mixed", "trainer.precision: was 32-true, is bf16-mixed"),
        ("callbacks.early_stopping.patience=7", "callbacks.early_stopping.patience: was 3, is 7"),
    ],
)
def test_what_decides_on_the_result_counts_and_is_named_once(override: str, expected: str) -> None:
    assert changed(override) == [expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        *("logger=none", "logger.experiment_name=x", "checkpoint_minutes=1", "prepared_root=/there", "resume=auto"),
        *("trainer.devices=4", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "accept=[few_queries]"),
        *("callbacks.progress_bar=null", "trainer=ddp"),
    ],
)
def test_where_and_how_it_runs_does_not_count(override: str) -> None:
    assert changed(override) == []


def test_another_class_is_named_without_its_settings() -> None:
    lines = changed("model/user_tower=gru", "model.dim=32")
    assert [line.partition(":")[0] for line in lines] == ["model.dim", "model.user_tower._target_"]


@pytest.mark.slow
def test_data_counts_by_what_is_prepared_with_it() -> None:
    for override, name in (("split.test_days=3", "split.test_days"), ("data.sessions=9", "data.sessions")):
        assert changed(override) == []
        (line,) = changed(override, of_data=True)
        assert line.startswith(f"{name}: was ")


def test_a_long_list_is_cut() -> None:
    assert listed(list("abcdefgh")) == "a; b; c; d; e; f; and 2 more"
