"""Lines that a person can paste into a shell, from any folder, whatever their paths hold."""

import re
import shlex
import sys
from pathlib import Path
from shutil import which

PLAIN = re.compile(r"[\w./:@%+~-]+", re.ASCII)  # a value that Hydra's grammar takes as it is; of paths the most
ESCAPED = re.compile(r"(\\*)(['\"]|$)")  # backslashes that stand before a quote, or at the end


def override(key: str, value: object) -> str:
    """KEY=VALUE as Hydra reads it, whatever characters `value` has; for the shell `command` quotes it once more.

    >>> override("run", "runs/My Shop (1)")
    "run='runs/My Shop (1)'"
    """
    text = str(value)
    if PLAIN.fullmatch(text) and not text.startswith("~"):
        return f"{key}={text}"
    return f"{key}='{ESCAPED.sub(lambda m: m[1] * 2 + (chr(92) + m[2] if m[2] == chr(39) else m[2]), text)}'"


def command(name: str, *words: object) -> str:
    """`twotower NAME WORDS...`, quoted for a POSIX shell."""
    return shlex.join([*program(), name, *map(str, words)])


def program() -> list[str]:
    """How to call this installation: by its name where the shell finds it, else by its place."""
    script = Path(sys.executable).with_name("twotower")
    if (known := which("twotower")) and Path(known).resolve() == script.resolve():
        return ["twotower"]
    return [str(script)] if script.exists() else [sys.executable, "-m", "twotower.commands.main"]
