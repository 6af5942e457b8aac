"""Command lines to print: quoted so that they work when pasted into a shell, from any folder and with any paths."""

import glob
import os
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from shutil import which

PLAIN = re.compile(r"[\w./:@%+~-]+", re.ASCII)  # values that need no quotes in Hydra's grammar
ESCAPED = re.compile(r"(\\*)(['\"]|$)")  # backslashes that stand before a quote, or at the end


def override(key: str, value: object) -> str:
    """Return KEY=VALUE quoted for Hydra; `command` adds the quotes for the shell.

    >>> override("run", "runs/My Shop (1)")
    "run='runs/My Shop (1)'"
    """
    text = str(value)
    if PLAIN.fullmatch(text) and not text.startswith("~"):
        return f"{key}={text}"
    return f"{key}='{ESCAPED.sub(lambda m: m[1] * 2 + (chr(92) + m[2] if m[2] == chr(39) else m[2]), text)}'"


def readable(word: str) -> str:
    """Return an override quoted for Hydra where its value, as it stands, is a path that is there.

    >>> readable("data.path=a,b"), readable("model.dim=8,16")
    ('data.path=a,b', 'model.dim=8,16')
    """
    key, separator, value = word.partition("=")
    path = os.path.expanduser(value)
    is_read_so = (PLAIN.fullmatch(path) and path == value) or path[:1] in ("[", "{", "'", '"')
    if separator and not is_read_so:
        with suppress(OSError, ValueError):  # too long for a path
            if os.path.exists(path) or ("*" in path and glob.glob(path)):
                return override(key, path)
    return word


def quoting_hint(word: str) -> str:
    """How to type an override whose value Hydra can't read, as a word for the shell."""
    key, _, value = word.partition("=")
    return f"if the value is a text, as a path is, type {shlex.quote(override(key, os.path.expanduser(value)))}"


def command(name: str, *words: object) -> str:
    """Return `twotower NAME WORDS...`, quoted for a POSIX shell."""
    return shlex.join([*program(), name, *map(str, words)])


def in_this_folder(line: str) -> str:
    """`line` for a shell in any folder: it changes to the present one, as a run's settings may hold relative paths."""
    return f"cd {shlex.quote(os.getcwd())} && {line}"


def program() -> list[str]:
    """Return the words that call this installation: `twotower` if the PATH leads to it, else its full path."""
    script = Path(sys.executable).with_name("twotower")
    if (known := which("twotower")) and Path(known).resolve() == script.resolve():
        return ["twotower"]
    return [str(script)] if script.exists() else [sys.executable, "-m", "twotower.commands.main"]
