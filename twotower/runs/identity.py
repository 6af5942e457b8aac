"""When two commands mean the same run: with equal settings, and with data of one fingerprint."""

from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from twotower.core.nested import leaves

# Settings, and all below them, that may differ: where files go, how a run is shown, and on what it runs.
NOT_COUNTED = (
    *("run_dir", "resume", "evaluate", "prepared_root", "checkpoint_minutes", "threads", "accept", "logger"),
    *("callbacks.progress_bar", "callbacks.best_checkpoint.dirpath"),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.log_every_n_steps"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.default_root_dir"),
)
BY_FINGERPRINT = ("data", "preparation", "split")  # these count through what is prepared with them
ABSENT, TARGET = "absent", "._target_"
SHOWN = 6  # differences in a message


def differing_settings(began: str, asked: DictConfig, of_data: bool = False) -> list[str]:
    """Return `NAME: was X, is Y` for each setting that differs and counts.

    A setting is named without the copies of it, and another class without its settings.

    Args:
        began: the resolved configuration of a run, as YAML.
        asked: a configuration, not yet resolved.
        of_data: whether those that count through the data's fingerprint are meant, or the others.
    """
    one, other = (_settings(text) for text in (began, OmegaConf.to_yaml(asked, resolve=True)))
    copies = [name for name, value in leaves(OmegaConf.to_container(asked, resolve=False)) if "${" in str(value)]
    changed = [
        (name, line)
        for name, line in differences(one, other).items()
        if not is_in(name, NOT_COUNTED) and is_in(name, BY_FINGERPRINT) == of_data
    ]
    classes = {name.removesuffix(TARGET) for name, _ in changed if name.endswith(TARGET)}
    parts = [name for name, _ in changed if not name.endswith(TARGET) and is_in(name, classes)]
    main = [line for name, line in changed if not is_in(name, [*copies, *parts])]
    return main or [line for _, line in changed]


def counted_settings(config: DictConfig) -> dict[str, Any]:
    """Return the settings that make a run another one, by name; those that count through the data are left out."""
    settings = _settings(OmegaConf.to_yaml(config, resolve=True))
    return {name: value for name, value in settings.items() if not is_in(name, (*NOT_COUNTED, *BY_FINGERPRINT))}


def differences(began: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """Return `NAME: was X, is Y` by name, of two flat mappings; null is the same as absent.

    >>> differences({"seed": 1, "dim": 8}, {"seed": 2, "dim": 8, "name": None})
    {'seed': 'seed: was 1, is 2'}
    """
    return {
        name: f"{name}: was {_text(began.get(name))}, is {_text(asked.get(name))}"
        for name in sorted(began.keys() | asked.keys())
        if began.get(name) != asked.get(name)
    }


def listed(lines: list[str]) -> str:
    """The first of the differences in one line, and how many more there are."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _settings(text: str) -> dict[str, Any]:
    """A configuration's settings by name; where one names the run directory, without that."""
    config: Any = OmegaConf.to_container(OmegaConf.create(text))
    run_dir = str(config["run_dir"])
    return {n: v.replace(run_dir, "RUN_DIR") if isinstance(v, str) else v for n, v in leaves(config)}


def is_in(name: str, settings: Iterable[str]) -> bool:
    """Whether a setting is one of `settings`, or lies below one."""
    return any(name == setting or name.startswith(f"{setting}.") for setting in settings)


def _text(value: Any) -> str:
    return ABSENT if value is None else str(value)
