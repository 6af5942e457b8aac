"""conf/train.yaml composed in this process, each list of overrides once: a composition takes a tenth of a second."""

from copy import deepcopy
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from twotower.runs.config_folder import CONF


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """Return a copy, which may be changed; run_dir and name of a run, or run of an export, are set."""
    return deepcopy(_once(name, overrides))


@cache
def _once(name: str, overrides: tuple[str, ...]) -> DictConfig:
    fixed = {
        "train": ["run_dir=somewhere", "name=test"],
        "export": ["run=somewhere"],
        "promote": ["candidate=c", "champion=c"],
    }[name]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*fixed, *overrides])
