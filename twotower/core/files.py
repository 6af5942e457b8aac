"""Atomic creation of files and directories, and JSON and checksums of files."""

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
    """Yield a temporary directory beside `path` that is renamed to `path` if the block ends without an error.

    Temporary directories that killed processes left behind are removed first.

    Raises UserError where `path` exists already: finished work is never replaced.
    """
    refusal = f"{path} exists already; name another folder or delete this one"
    if path.exists():
        raise UserError(refusal)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, lock = _locked_directory(path)
    except OSError as error:
        raise UserError(f"{path.parent} can't hold folders: {error.strerror}; name another place") from None
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private, but serving may run as another user
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


def _locked_directory(path: Path) -> tuple[Path, int]:
    """Create a temporary directory beside `path` and lock it until the returned descriptor is closed."""
    import fcntl  # not on Windows, where serving imports this file, too

    while True:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        lock = os.open(temporary, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # else another process removed it as abandoned before it was locked
            return temporary, lock
        os.close(lock)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary directories for `path` that no process holds a lock on."""
    import fcntl

    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        try:
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # a file, or removed meanwhile
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:  # locked by a running process
            continue
        finally:
            os.close(lock)


@contextmanager
def locked_folder(path: Path, refusal: str) -> Iterator[None]:
    """Exclusive lock on an existing folder, which ends with the process; raises UserError(refusal) if it is held."""
    import fcntl  # not on Windows, where serving imports this file, too

    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(refusal) from None
        yield
    finally:
        os.close(lock)


def new_directory(path: Path) -> Path:
    """Create the directory `path` and return it; where it exists, one with a number at its end."""
    number = 1
    while True:
        directory = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return directory


def create_directory_once(path: Path, fill: Callable[[Path], object]) -> None:
    """Create a directory atomically with `fill(temporary)`, unless it exists; of several processes one succeeds."""
    if path.exists():
        return
    try:
        with atomic_directory(path) as temporary:
            fill(temporary)
    except UserError:
        if not path.exists():  # else another process was faster
            raise


def create_file_once(path: Path, write: Callable[[Path], object]) -> None:
    """Create a file atomically with `write(temporary)`, unless it exists; of several processes one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    if path.exists():
        return
    temporary, lock = _locked_directory(path)
    try:
        write(temporary / path.name)
        with suppress(FileExistsError):  # another process was faster
            os.link(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name that then replaces `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> Any:
    """Read JSON; where it is missing or damaged raise a UserError that names the directory's kind, `what`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: {path.parent} is not {what}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); make {what} again") from None


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
