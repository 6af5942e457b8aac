"""Versions of a bundle: list them, add one, roll back to one.

The export is version 1. New files of version N lie in BUNDLE/versions/N/; files that it shares with an earlier version
stay where they are. manifest.json is the manifest of the current version, versions/N.json that of another one.
Replacing manifest.json switches versions, so a killed process leaves the old version or the new one. Files are never
changed or removed, so processes that have opened an earlier version keep working.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.core.files import locked_folder, read_json, write_bytes, write_json
from twotower.serving.bundle_format import MANIFEST_FILE, VERSIONS, read_manifest

VERSION, PARENT = "version", "parent"  # in manifests from version 2 on: its number, and the one it was made from
CANDIDATE = "candidate.json"  # below VERSIONS: a manifest that is not yet verified


class Version(NamedTuple):
    """One of a bundle's versions."""

    number: int
    parent: int | None
    num_items: int
    is_current: bool


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclusive lock on the bundle, which ends with the process; raises UserError while another process holds it."""
    if not (path / MANIFEST_FILE).is_file():
        raise UserError(f"{path / MANIFEST_FILE} is missing: {path} is not a bundle; name the folder of an export")
    with locked_folder(path, f"another process is changing {path}; try again when it is done"):
        yield


def versions(path: Path) -> list[Version]:
    """Return the versions of the bundle at `path`, by number."""
    current = read_json(path / MANIFEST_FILE, "a bundle")
    files = (path / VERSIONS).glob("*.json")
    manifests = {int(f.stem): read_json(f, "a version") for f in files if f.stem.isdecimal()}
    manifests[number_of(current)] = current
    return [
        Version(number, manifest.get(PARENT), manifest["num_items"], number == number_of(current))
        for number, manifest in sorted(manifests.items())
    ]


def number_of(manifest: dict[str, Any]) -> int:
    """Return the version number of a manifest."""
    return int(manifest.get(VERSION, 1))


@contextmanager
def next_version(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield a free number and a new folder for its files, which is removed if the block raises.

    Files that killed processes left are removed first.
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
        raise UserError(f"{path} can't hold a new version: {error.strerror}; give this user write permission") from None
    try:
        yield number, directory
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def propose(path: Path, manifest: dict[str, Any]) -> str:
    """Write the manifest of a version that is not yet verified, and return its file's name below `path`."""
    write_json(path / VERSIONS / CANDIDATE, manifest)
    return f"{VERSIONS}/{CANDIDATE}"


def accept(path: Path) -> None:
    """Make the proposed version the current one."""
    _keep_current(path)
    (path / VERSIONS / CANDIDATE).replace(path / MANIFEST_FILE)


def rollback(path: str | Path, version: int | None = None) -> int:
    """Make another version, an earlier or a later one, the current one.

    Args:
        path: the bundle.
        version: its number; None: the one that the current one was made from.

    Returns:
        The number of the current version.

    Raises:
        UserError: there is no such version, its files are damaged, or another process changes the bundle.
    """
    path = Path(path)
    with locked(path):
        known = {v.number: v for v in versions(path)}
        current = next(v for v in known.values() if v.is_current)
        target = current.parent if version is None else version
        if target is None:
            raise UserError(f"{path} is at version {current.number}, the first; there is none before it")
        if target not in known:
            raise UserError(f"{path} has no version {target}; it has {', '.join(map(str, known))}")
        if target != current.number:
            file = f"{VERSIONS}/{target}.json"
            read_manifest(path, file)  # refuses damaged files
            _keep_current(path)
            write_bytes(path / MANIFEST_FILE, (path / file).read_bytes())
    return target


def _keep_current(path: Path) -> None:
    content = (path / MANIFEST_FILE).read_bytes()
    write_bytes(path / VERSIONS / f"{number_of(json.loads(content))}.json", content)
