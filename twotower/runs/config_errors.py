"""Errors of composing a configuration as one message that names the nearest valid key or choice."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from twotower.core.errors import UserError, nearest

PACKAGE = Path(__file__).parents[1]
CONF = (
    PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
)  # of the wheel, or of the repository


@contextmanager
def explaining(config_name: str) -> Iterator[None]:
    """Turn what a user can mend into one message and status 2."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = explain(error, config_name, sys.argv[1:])
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def explain(error: Exception, config_name: str, overrides: list[str]) -> str | None:
    """One message for a person, or None where the error is not the user's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException):
        cause, place = error.__cause__, re.search(r"full_key: (\S+)", str(error))
        if isinstance(cause, UserError):
            return str(cause)
        return f"{place[1]} can't be built: {cause}" if place and isinstance(cause, ValueError | TypeError) else None
    if isinstance(error, MissingConfigException):
        return _explain_choice(str(error))
    if isinstance(error, MissingMandatoryValue):
        key = getattr(error, "full_key", None) or str(error).split(": ")[-1]
        return f"{key} has no value; set it on the command line: {key}=..."
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return _explain_key(error, config_name, overrides)
    return str(error)


def _explain_choice(text: str) -> str:
    """Hydra's text names the group, the wrong choice and the available ones."""
    wrong = re.search(r"Could not find '(?:.*/)?([^/']+)'", text)
    group = re.search(r"Available options in '(.+)'", text)
    choices = re.findall(r"^\s+(\S+)$", text, flags=re.MULTILINE)
    if not (wrong and group and choices):
        return text
    return (
        f"{group[1]}={wrong[1]}: there is no such choice{nearest(wrong[1], choices)} "
        f"Choices of {group[1]}: {', '.join(choices)}"
    )


def _explain_key(error: Exception, config_name: str, overrides: list[str]) -> str:
    text = "\n".join(str(e) for e in (error, error.__cause__) if e)
    wrong = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    if wrong is None:
        return str(error).splitlines()[0]
    key = wrong[1]
    try:
        known = list(_keys(config_name, [o for o in overrides if _is_choice(o)]))
    except HydraException:  # a file of the user's own is what can't be composed
        return text.splitlines()[0]
    if key in known:  # a mapping that is to get new keys
        return f"{key}: new keys need a + in front: '+{key}=...'"
    same_parent = [k for k in known if k.rpartition(".")[0] == key.rpartition(".")[0]]
    hint = nearest(key, same_parent) or nearest(key, known)
    return f"{key}: there is no such setting{hint} All settings: twotower {config_name} --cfg job"


def _is_choice(override: str) -> bool:
    """GROUP=CHOICE, in contrast to KEY=VALUE."""
    key, _, value = override.lstrip("+~").partition("=")
    return (CONF / key / f"{value}.yaml").is_file()


def _keys(config_name: str, choices: list[str]) -> Iterator[str]:
    GlobalHydra.instance().clear()  # of the run that went wrong
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, overrides=choices)
    yield from _paths(OmegaConf.to_container(config, resolve=False), "")


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
