"""Settings out of range are refused by name, before anything is read or built."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from composed import composed
from omegaconf import OmegaConf

from twotower.commands.compose import compose_config
from twotower.core.errors import UserError
from twotower.runs.ranges import RANGES, Range, check_ranges

CONF = Path(__file__).parents[2] / "conf"
# Numbers that are checked where they are used, or that are measures of generated data.
ELSEWHERE = {"split.test_fraction", "split.validation_fraction", "preparation.memory_gib", "trainer.devices"}
ELSEWHERE |= {
    f"data.{name}" for name in ("items", "users", "sessions", "days", "mean_length", "repeat_share", "min_rating")
}
ELSEWHERE |= {"callbacks.progress_bar.refresh_rate", "callbacks.weight_average.decay"}
ELSEWHERE |= {"callbacks.weight_average.every_n_steps"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.dim=-1", "model.dim=-1; expected a whole number from 1 on"),
        ("model.dim=0", "model.dim=0; expected a whole number from 1 on"),
        ("model.dim=1.5", "model.dim=1.5; expected a whole number from 1 on"),
        ("model.dim=null", "model.dim=null; expected a whole number from 1 on"),
        ("model.max_length=0", "model.max_length=0; expected a whole number from 1 on"),
        ("model.user_tower.heads=-2", "model.user_tower.heads=-2; expected a whole number from 1 on"),
        ("model.user_tower.dropout=1", "model.user_tower.dropout=1; expected a number from 0 to less than 1"),
        ("model.temperature=0", "model.temperature=0; expected a number above 0, or null"),
        ("model.loss.chunk_items=0", "model.loss.chunk_items=0; expected a whole number from 1 on, or null"),
        ("optimizer.learning_rate=-0.1", "optimizer.learning_rate=-0.1; expected a number above 0"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan; expected a number above 0"),
        ("positions_per_batch=many", "positions_per_batch=many; expected a whole number from 1 on, or null"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0; expected a whole number from 1 on"),
        ("seed=true", "seed=True; expected a whole number from 0 on"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_ranges(OmegaConf.merge(composed(), OmegaConf.from_dotlist([setting])))
    assert str(raised.value) == message


def test_a_composition_checks_them() -> None:
    with pytest.raises(UserError, match=r"^model\.dim=-1; expected a whole number from 1 on$"):
        compose_config("train", {}, ["model.dim=-1"])
    compose_config("train", {}, ["model.loss.chunk_items=null", "trainer.gradient_clip_val=null", "model.dim=1"])


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf, -1, 0, 0.5, 1, 3, True, "3", None])
def test_ranges_are_what_they_say(value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    assert Range(1).refuses(value) == (not (number and isinstance(value, int) and value >= 1))
    assert Range(0, whole=False, above=True).refuses(value) == (not (number and 0 < value < math.inf))
    assert Range(0, whole=False, below=1).refuses(value) == (not (number and 0 <= value < 1))
    assert Range(0, whole=False, most=1).refuses(value) == (not (number and 0 <= value <= 1))
    assert Range(0, null=True).refuses(value) == (
        not (value is None or (isinstance(value, int) and number and value >= 0))
    )


def test_what_another_package_calls_so_is_its_own() -> None:
    check_ranges(OmegaConf.create({"model": {"user_tower": {"_target_": "my_shop.Tower", "layers": [64, 32]}}}))


def test_every_number_in_the_configuration_has_a_range() -> None:
    found = set()
    for file in CONF.rglob("*.yaml"):
        parts = file.relative_to(CONF).parts
        if parts[0] not in ("experiment", "effort"):  # whose values are those of other settings
            text = file.read_text()
            place = [] if file.parent == CONF or "@package _global_" in text else list(parts[:-1])
            found |= set(numbers(yaml.safe_load(text) or {}, place))
    found = {name for name in found if not name.startswith("sweep.pruner.")}  # another library's
    assert found - set(RANGES) - ELSEWHERE == set()
    null = {"model.item_tower.hash_buckets", "model.temperature", "newest_days", "positions_per_batch"} | {
        "gate.max_p99_ms"
    }
    assert set(RANGES) - found <= null


def numbers(node: Any, place: list[str]) -> list[str]:
    """Names of the settings whose value is a number."""
    if isinstance(node, dict):
        skip = ("defaults", "hydra", "space")
        return [name for key, value in node.items() if key not in skip for name in numbers(value, [*place, str(key)])]
    is_number = isinstance(node, int | float) and not isinstance(node, bool)
    return [".".join(place)] if is_number or str(node).startswith("${effort.") else []
