"""Errors of composing a configuration as one message that names the nearest valid key or choice."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from twotower.core.command_line import quoting_hint
from twotower.core.errors import UserError, nearest
from twotower.core.extras import install_hint
from twotower.runs.config_folder import CONF, config_dirs


@contextmanager
def explaining(config_name: str) -> Iterator[None]:
    """Print errors that the user can fix as one message, and exit with status 2; with 130 after an interruption."""
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


def explain(error: Exception, config_name: str, overrides: Sequence[str]) -> str | None:
    """The message for an error of composing or building a configuration; None where it is not the user's mistake.

    Args:
        error: what was raised.
        config_name: train or export.
        overrides: the command line's words, or those of the compose API.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OverrideParseException):
        word = str(error.override)
        return f"{word} can't be read" + (
            f"; {quoting_hint(word)}" if re.match(r"[+~]*[\w./@]+=", word) else f": {error.message}"
        )
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", str(error).splitlines()[0]):
        return f"{ambiguous[1]} is several values: -m runs each; {quoting_hint(ambiguous[1])}"
    if isinstance(error, InstantiationException):
        return _explain_target(error)
    if isinstance(error, MissingConfigException):
        return _explain_choice(str(error))
    if isinstance(error, MissingMandatoryValue):
        key = getattr(error, "full_key", None) or str(error).split(": ")[-1]
        return f"{key} has no value; set it on the command line: {key}=..."
    if isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return _explain_key(error, config_name, overrides)
    return str(error)


def _explain_target(error: InstantiationException) -> str | None:
    """The reason why a configured object could not be made, from the errors below Hydra's."""
    text, below = str(error).splitlines()[0], error.__cause__ or error.__context__
    if isinstance(below, UserError):
        return str(below)
    place = re.search(r"full_key: (\S+)", str(error))
    name = place[1] if place else "a setting"
    if isinstance(below, ValueError | TypeError):
        return f"{name} can't be built: {below}"
    while below is not None:
        if isinstance(below, ModuleNotFoundError) and (hint := install_hint(below)):
            return hint
        if isinstance(below, ImportError) and not (below.__cause__ or below.__context__):
            return f"{name}: {text.split(', set env')[0]}: {below}"
        below = below.__cause__ or below.__context__
    return None


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


def _explain_key(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    text = "\n".join(str(e) for e in (error, error.__cause__) if e)
    wrong = re.search(r"Could not override '([^']+)'", text) or re.search(r"full_key: (\S+)", text)
    if wrong is None or "In '" in text.splitlines()[0]:  # the second: an experiment file can't be composed
        return text.splitlines()[0]
    key = wrong[1]
    try:
        known = list(_keys(config_name, overrides))
    except HydraException:
        return text.splitlines()[0]
    if key in known:  # a mapping that is to get new keys
        return f"{key}: new keys need a + in front: '+{key}=...'"
    return f"{key}: there is no such setting{meant(key, known)} All settings: twotower {config_name} --cfg job"


def meant(key: str, known: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the setting with this name or these initials, or for a similar one beside it.

    Without one it tells what there is beside it.

    >>> meant("optimizer.lr", ["optimizer.eps", "optimizer.learning_rate"])
    "; did you mean 'optimizer.learning_rate'?"
    >>> meant("optimizer.momentum", ["optimizer.eps", "optimizer.learning_rate"])
    '; there are eps, learning_rate.'
    """
    folder, _, name = key.rpartition(".")
    parts = [(*other.rpartition(".")[::2], other) for other in known if not re.search(r"(^|\.)_", other)]
    parts.sort(key=lambda part: part[0] != folder)  # those beside it first
    beside = {last: other for place, last, other in parts if place == folder}
    found = [other for _, last, other in parts if name in (last, _initials(last))]
    found += [beside[last] for last in get_close_matches(name, beside, n=1, cutoff=0.5)]
    if found:
        return nearest(found[0], found[:1])
    return f"; there are {', '.join(beside)}." if folder and beside else nearest(key, known) or "."


def _initials(name: str) -> str:
    """lr of learning_rate; of one word the word."""
    words = name.split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else name


def _keys(config_name: str, overrides: Sequence[str]) -> Iterator[str]:
    """All keys of the configuration with those of the `overrides` that choose a group's member."""
    folders = config_dirs(overrides)
    choices = [word for word in overrides if _is_choice(word, folders)]
    choices += [word for word in overrides if word.startswith("hydra.searchpath=")]
    if len(folders) > 1:
        choices.append(f"hydra.searchpath={[f'file://{folder.absolute()}' for folder in folders[1:]]}")
    GlobalHydra.instance().clear()  # of the run that went wrong
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(config_name, overrides=choices)
    yield from _paths(OmegaConf.to_container(config, resolve=False), "")


def _is_choice(override: str, folders: Sequence[Path]) -> bool:
    """GROUP=CHOICE, in contrast to KEY=VALUE."""
    group, _, choice = override.lstrip("+~").partition("=")
    return any((folder / group / f"{choice}.yaml").is_file() for folder in folders)


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
