"""What descends from files of events: prepared directories, stores, runs, bundles and versions in the registry.

A run carries what it was trained on, and what the models were trained on that its warm starts began from.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import MANIFEST_FILE, TOWER_FILE
from twotower.data.preparation.store import STORE_FILE
from twotower.runs.layout import CONFIG_FILE, DATA_FILE
from twotower.runs.run import lineage
from twotower.tracking.lookup import answering, client_of

PREPARED, STORE, RUN, BUNDLE, VERSION = "prepared directory", "store", "run", "bundle", "registered version"
MODELS = (RUN, BUNDLE, VERSION)  # these have learnt, so deleting data does not change them


class Descendant(NamedTuple):
    """Something that was made from files of events."""

    kind: str
    name: str  # a path, or the address of a registered version


def descendants(files: Collection[Path], folders: Sequence[Path], tracking_uri: str | None = None) -> list[Descendant]:
    """Return what was made from any of these files, directly or through warm starts.

    Args:
        files: of events; they need not exist any more.
        folders: where to look, with all that is in them.
        tracking_uri: of the model registry; None: it is not asked.
    """
    wanted = {str(file.resolve()) for file in files}
    found: list[Descendant] = []
    fingerprints: set[str] = set()
    runs: list[tuple[Path, list[str]]] = []
    bundles: list[tuple[Path, dict[str, Any]]] = []
    for path in _files(folders):
        folder, content = path.parent, _json(path)
        if path.name == STORE_FILE and wanted & content.get("files", {}).keys():
            found.append(Descendant(STORE, str(folder)))
        elif path.name == MANIFEST_FILE and (folder / TOWER_FILE).exists():
            bundles.append((folder, content))
        elif path.name in (MANIFEST_FILE, DATA_FILE):
            made_from = {str(each[0]) for each in content.get("settings", {}).get("files", [])}
            if wanted & made_from:
                fingerprints.add(str(content.get("fingerprint")))
            if path.name == DATA_FILE and (folder / CONFIG_FILE).exists():
                runs.append((folder, lineage(folder)))
            elif path.name == MANIFEST_FILE and wanted & made_from:
                found.append(Descendant(PREPARED, str(folder)))
    found += [Descendant(RUN, str(folder)) for folder, learnt in runs if fingerprints & set(learnt)]
    found += [Descendant(BUNDLE, str(f)) for f, manifest in bundles if fingerprints & set(_learnt(manifest))]
    return [*found, *_versions(fingerprints, tracking_uri)]


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        for name in (STORE_FILE, DATA_FILE, MANIFEST_FILE):
            yield from sorted(folder.rglob(name))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path, "made by this program")
    except UserError:  # damaged, or another program's
        return {}
    return content if isinstance(content, dict) else {}


def _learnt(manifest: dict[str, Any]) -> list[str]:
    return [*manifest.get("lineage", []), str(manifest.get("dataset_fingerprint"))]


def _versions(fingerprints: Collection[str], tracking_uri: str | None) -> Iterator[Descendant]:
    client = client_of(tracking_uri) if tracking_uri else None
    if client is None or tracking_uri is None:
        return
    with answering(tracking_uri):
        for version in client.search_model_versions():
            learnt = {version.tags.get("dataset_fingerprint"), *version.tags.get("lineage", "").split(",")}
            if learnt & set(fingerprints):
                yield Descendant(VERSION, f"models:/{version.name}/{version.version}")
