"""Command lines to print: quoted so that they work when pasted into a shell, from any folder and with any paths."""

import os
import re
import shlex
import sys
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
