"""Compose a command's configuration inside a program or notebook, as Hydra does from the command line."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from twotower.core.command_line import override
from twotower.core.errors import UserError
from twotower.runs.config_errors import explain
from twotower.runs.config_folder import CONF
from twotower.runs.ranges import check_ranges


@contextmanager
def as_user_error(config_name: str, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Raise Hydra's errors that the user can fix as UserError with one message; also used as a decorator."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        message = explain(error, config_name, overrides)
        if message is None:
            raise
        raise UserError(message) from error


def compose_config(
    config_name: str,
    values: Mapping[str, object],
    overrides: Sequence[str] = (),
    config_dir: str | os.PathLike[str] | None = None,
) -> DictConfig:
    """The configuration of conf/CONFIG_NAME.yaml; may be called any number of times in one process.

    Args:
        config_name: train or export.
        values: key or group -> its value or choice, with any characters; None is left out.
        overrides: further ones as on the command line; they come after `values`.
        config_dir: a folder with further groups and experiments, as --config-dir.

    Raises:
        UserError: an override names no setting, group or choice, or what it names can't be composed; or a number is out
            of range.

    >>> compose_config("export", {"run": "runs/My Shop (1)"}, ["index=exact"]).run
    'runs/My Shop (1)'
    """
    words = [override(key, value) for key, value in values.items() if value is not None] + list(overrides)
    if config_dir is not None:
        words.append(f"hydra.searchpath=[{override('', f'file://{Path(config_dir).absolute()}')[1:]}]")
    with as_user_error(config_name, words), initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name, words, return_hydra_config=True)
    choices = config.hydra.runtime.choices
    with open_dict(config):
        del config["hydra"]
        if config_name == "train":
            texts: Any = OmegaConf.to_container(config, resolve=False)
            if "hydra:" in str(texts["name"]):  # of the job, which there is none of here
                config.name = choices["data"]
    check_ranges(config)
    return config
