"""Versions of a bundle: which there are, which one answers, and the switch to another.

The export is version 1. New files of version N lie in BUNDLE/versions/N/; those that it shares with an earlier version
stay where they are. manifest.json is the manifest of the version that answers, versions/N.json that of another one; to
switch is to replace manifest.json, so a process that is killed leaves the old version or the new one. Whoever has
opened a bundle before goes on with its files, which are never changed or removed.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_bytes, write_json
from twotower.serving.manifest import MANIFEST_FILE, VERSIONS, read_manifest

VERSION, PARENT = "version", "parent"  # of all manifests but the first's: its number, and the one it was made from
CANDIDATE = "candidate.json"  # below VERSIONS: a manifest that is not yet proven


class Version(NamedTuple):
    """One of a bundle's versions."""

    number: int
    parent: int | None
    num_items: int
    answers: bool


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep all others from changing this bundle; the lock ends with the process. Raises UserError where one does."""
    import fcntl  # not on Windows, where serving reads bundles all the same

    if not (path / MANIFEST_FILE).is_file():
        raise UserError(
            f"{path / MANIFEST_FILE} is missing: {path} is not a bundle; name the folder that export.py made"
        )
    lock = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"somebody else is changing {path} at this moment; try again when that is done") from None
        yield
    finally:
        os.close(lock)


def versions(path: Path) -> list[Version]:
    """All that the bundle at `path` can answer from, by number."""
    current = read_json(path / MANIFEST_FILE, "a bundle")
    files = (path / VERSIONS).glob("*.json")
    manifests = {int(f.stem): read_json(f, "a version") for f in files if f.stem.isdecimal()}
    manifests[number_of(current)] = current
    return [
        Version(number, manifest.get(PARENT), manifest["num_items"], number == number_of(current))
        for number, manifest in sorted(manifests.items())
    ]


def number_of(manifest: dict[str, Any]) -> int:
    """The number of the version that a manifest is of."""
    return int(manifest.get(VERSION, 1))


@contextmanager
def next_version(path: Path) -> Iterator[tuple[int, Path]]:
    """A number that is free and a new folder for its files, which is removed again if the block ends with an error.

    What killed processes left of attempts is removed first.
    """
    known = {version.number for version in versions(path)}
    number = max(known) + 1
    for left in (path / VERSIONS).glob("*/"):
        if not (left.name.isdecimal() and int(left.name) in known):
            shutil.rmtree(left)
    directory = path / VERSIONS / str(number)
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{path} can't hold a new version: {error.strerror}; let this user write there") from None
    try:
        yield number, directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def propose(path: Path, manifest: dict[str, Any]) -> str:
    """Write the manifest of a version that is still to be proven; its file's name below `path`."""
    write_json(path / VERSIONS / CANDIDATE, manifest)
    return f"{VERSIONS}/{CANDIDATE}"


def accept(path: Path) -> None:
    """Let the proposed version answer."""
    _keep_current(path)
    (path / VERSIONS / CANDIDATE).replace(path / MANIFEST_FILE)


def rollback(path: str | Path, version: int | None = None) -> int:
    """Let another version answer.

    Args:
        path: the bundle.
        version: a number, of an earlier version or of a later one; None: the one that the present one was made from.

    Returns:
        The number of the version that answers now.

    Raises:
        UserError: there is no such version, its files are not what they were, or somebody changes the bundle.
    """
    path = Path(path)
    with locked(path):
        known = {v.number: v for v in versions(path)}
        current = next(v for v in known.values() if v.answers)
        target = current.parent if version is None else version
        if target is None:
            raise UserError(f"{path} answers from version {current.number}, the first; there is none before it")
        if target not in known:
            raise UserError(f"{path} has no version {target}; it has {', '.join(map(str, known))}")
        if target != current.number:
            file = f"{VERSIONS}/{target}.json"
            read_manifest(path, file)  # refuses what is damaged
            _keep_current(path)
            write_bytes(path / MANIFEST_FILE, (path / file).read_bytes())
    return target


def _keep_current(path: Path) -> None:
    content = (path / MANIFEST_FILE).read_bytes()
    write_bytes(path / VERSIONS / f"{number_of(json.loads(content))}.json", content)
