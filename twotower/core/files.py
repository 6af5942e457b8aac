"""Files and folders that appear whole or not at all."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from twotower.core.errors import UserError


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its name when the block ends without an error.

    What a killed process left of an earlier attempt is removed first.

    Raises UserError where `path` exists already: finished work is never replaced.
    """
    refusal = f"{path} exists already; name another folder or delete this one"
    if path.exists():
        raise UserError(refusal)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, lock = _locked_folder(path)
    except OSError as error:
        raise UserError(f"{path.parent} can't hold folders: {error.strerror}; name another place") from None
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private; serving runs as somebody else
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if path.exists():  # another process was faster
                raise UserError(refusal) from None
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _locked_folder(path: Path) -> tuple[Path, int]:
    """A new temporary folder and the lock on it, which ends with this process."""
    import fcntl  # not on Windows, where serving reads this file all the same

    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        lock = os.open(temporary, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # else another process took it for abandoned before it was locked
            return temporary, lock
        os.close(lock)


def _remove_abandoned(path: Path) -> None:
    import fcntl

    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # a file, or gone meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:  # somebody is at work there
            continue
        finally:
            os.close(lock)


def fill_once(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` make a folder that appears whole or not at all, unless it, or another process, has made it already."""
    if path.exists():
        return
    try:
        with atomic_directory(path) as temporary:
            fill(temporary)
    except UserError:
        if not path.exists():  # else another process was faster
            raise


def make_once(path: Path, make: Callable[[Path], object]) -> None:
    """Let `make` write a file that appears whole or not at all, unless it is there already.

    What a killed process left of an earlier attempt is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    if path.exists():
        return
    temporary, lock = _locked_folder(path)
    try:
        make(temporary / path.name)
        with suppress(FileExistsError):  # another process was faster
            os.link(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it; what stood there before is replaced whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Read JSON, or raise a UserError that calls the file `what`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: {path.parent} is not {what}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); make {what} again") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
