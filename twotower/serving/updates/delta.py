"""Change the items of a bundle without training, as if it had been exported with a catalogue changed in this way.

    python -m twotower.serving.updates.delta upsert BUNDLE items.parquet
    python -m twotower.serving.updates.delta remove BUNDLE ITEM_ID [ITEM_ID ...]
    python -m twotower.serving.updates.delta rollback BUNDLE [VERSION]
    python -m twotower.serving.updates.delta versions BUNDLE

Each change makes a new version, which answers once it is proven: see serving.versions. An item of the bundle keeps its
place and what it has learnt itself; its features are replaced. A new item comes last, has learnt nothing, and has the
vector of its features. All work is done without torch; vectors stream from file to file.

Shapes: V items before, W after, n items of a table, D embedding dim.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import EMBEDDING, FEATURES_FILE, ITEM_ID, ITEMS_FILE
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.item_encoder import ItemEncoder
from twotower.serving.item_rows import LEARNT, Given, as_ids, differing, merged, read_given, rows_of
from twotower.serving.manifest import ITEM_TOWER_FILE, MANIFEST_FILE, OWN_FILE, places
from twotower.serving.updates.new_version import Change, Vectors, write_version
from twotower.serving.updates.versions import locked, number_of, rollback, versions

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
USAGE = (__doc__ or "").split("\n\n")[1]


@dataclass(frozen=True)
class Report:
    """What a change did."""

    version: int  # that answers now
    num_items: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0  # items of the table that were so already
    removed: int = 0
    unknown: tuple[int | str, ...] = ()  # ids to remove that the bundle does not have


def upsert(bundle_path: str | Path, items: pa.Table | str | Path) -> Report:
    """Add items, and replace features of those that the bundle has.

    Args:
        bundle_path: the bundle.
        items: a table, or a Parquet file of it: item_id and features, under their names in items.parquet and those of
            vectors. A feature that the table lacks stays as it is, and is null for new items; null is null.

    Raises:
        UserError: see item_rows.read_given; new items in a bundle without an item tower; somebody changes the bundle.
    """
    path = Path(bundle_path)
    with locked(path):
        bundle = open_bundle(path)
        encoders = read_json(bundle.file(FEATURES_FILE), "a bundle").get("items", {})
        given = read_given(items, bundle.item_ids.type, encoders)
        place = rows_of(given.ids, bundle.item_ids)
        encoder = None
        if "item_tower" in bundle.manifest:
            encoder = ItemEncoder(bundle.file(ITEM_TOWER_FILE), encoders, bundle.manifest["item_tower"])
        elif (place < 0).any():
            raise UserError(
                f"item {given.ids[int(np.argmin(place))].as_py()!r} is new, and {path} can't give it a vector: its "
                "model learns nothing from item features. Leave new items out; or train with model/item_tower=features "
                "and export again"
            )
        have = _read_items(bundle)
        rows = pa.array(place, mask=place < 0)
        wanted = merged(given.columns, have.take(rows), encoders)
        own = None if encoder is None else _own_rows(bundle, encoder, given, place)
        differs = differing(given.columns, have.take(rows))
        if own is not None:
            known = np.maximum(place, 0)
            differs |= (own != np.load(bundle.file(OWN_FILE), mmap_mode="r")[known]).any(axis=1)
        is_new = place < 0
        chosen = np.concatenate([np.flatnonzero(differs & ~is_new), np.flatnonzero(is_new)])
        added, size = int(is_new.sum()), len(bundle.item_ids)
        report = Report(number_of(bundle.manifest), size + added, added, len(chosen) - added, len(place) - len(chosen))
        if len(chosen) == 0:
            return report
        where = np.where(is_new, size + np.cumsum(is_new) - 1, place)[chosen]
        wanted = wanted.take(pa.array(chosen))
        old = np.concatenate([np.arange(size), np.full(added, -1)])
        vectors = None
        if encoder is not None and own is not None:
            vectors = Vectors(where, own[chosen], *encoder.encode(wanted, own[chosen]))
        version = write_version(bundle, Change(old, _replaced(have, wanted, where, size + added), vectors))
    return replace(report, version=version)


def remove(bundle_path: str | Path, item_ids: Sequence[int | str]) -> Report:
    """Take items out of the bundle. Ids that it does not have are told in the report.

    Raises:
        UserError: ids of another type or given twice, all items would go, or somebody changes the bundle.
    """
    path = Path(bundle_path)
    with locked(path):
        bundle = open_bundle(path)
        try:
            ids = pa.array(list(item_ids))
        except pa.ArrowException:
            raise UserError(
                f"the ids {list(item_ids)!r:.200} are of several types; expected {bundle.item_ids.type}"
            ) from None
        ids = as_ids(ids, bundle.item_ids.type)
        place = rows_of(ids, bundle.item_ids)
        unknown = tuple(ids.filter(pa.array(place < 0)).to_pylist())
        size, removed = len(bundle.item_ids), int((place >= 0).sum())
        if removed == size:
            raise UserError(f"these are all {size} items of {path}; a bundle needs at least one")
        if removed == 0:
            return Report(number_of(bundle.manifest), size, unknown=unknown)
        stays = np.ones(size, dtype=bool)
        stays[place[place >= 0]] = False
        old = np.flatnonzero(stays)
        version = write_version(bundle, Change(old, _read_items(bundle).take(pa.array(old)), None))
    return Report(version, len(old), removed=removed, unknown=unknown)


def _read_items(bundle: Bundle) -> pa.Table:
    """[V] items.parquet but the vectors."""
    file = bundle.file(ITEMS_FILE)
    return pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name != EMBEDDING])


def _own_rows(bundle: Bundle, encoder: ItemEncoder, given: Given, place: Ints) -> Floats:
    """[n, ...] rows of OWN_FILE as they are to be: zero for new items, and the vectors that are given."""
    own = np.array(np.load(bundle.file(OWN_FILE), mmap_mode="r")[np.maximum(place, 0)])
    own[place < 0] = 0
    for name in encoder.kept:
        at = encoder.kept_slice(name)
        if name in given.numbers:
            own[:, at] = given.numbers[name]
        else:
            own[place < 0, at] = encoder.numbers(name, [None])
    return own


def _replaced(have: pa.Table, rows: pa.Table, where: Ints, size: int) -> pa.Table:
    """[W] the items [V], with `rows` [n] at the places `where`; no event tells of new ones."""
    row = np.concatenate([np.arange(len(have)), np.full(size - len(have), -1)])
    row[where] = len(have) + np.arange(len(where))
    columns = {}
    for name in have.column_names:
        if name in LEARNT:
            nothing = pa.array(np.zeros(size - len(have), dtype=np.int64))
            columns[name] = pa.chunked_array([*have[name].chunks, nothing])
        else:
            both = pa.chunked_array([*have[name].chunks, *rows[name].cast(have[name].type).chunks])
            columns[name] = both.take(pa.array(row))
    return pa.table(columns)


def main(arguments: Sequence[str]) -> int:
    """Change a bundle as the arguments say; 0: done, 2: the user can mend it."""
    actions: dict[str, tuple[Callable[..., None], int, float]] = {
        "upsert": (_upsert, 2, 2),
        "remove": (_remove, 2, math.inf),
        "rollback": (_rollback, 1, 2),
        "versions": (_versions, 1, 1),
    }
    action, least, most = actions.get(arguments[0] if arguments else "", (_versions, 1, 0))
    given = list(arguments[1:])
    if not least <= len(given) <= most:
        print(f"usage:\n{USAGE}", file=sys.stderr)
        return 2
    try:
        action(*given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _upsert(path: str, items: str) -> None:
    report = upsert(path, items)
    print(f"{report.added:,} items added, {report.changed:,} changed, {report.unchanged:,} as they were already")
    _tell(path, report)


def _remove(path: str, *texts: str) -> None:
    items = places(read_json(Path(path) / MANIFEST_FILE, "a bundle"))[ITEMS_FILE]
    is_text = pq.read_schema(Path(path) / items).field(ITEM_ID).type == pa.string()
    try:
        ids = list(texts) if is_text else [int(text) for text in texts]
    except ValueError:
        raise UserError(f"the ids {' '.join(texts)} are not all whole numbers, as those of {path} are") from None
    report = remove(path, ids)
    unknown = f"; not in the bundle: {', '.join(map(str, report.unknown))}" if report.unknown else ""
    print(f"{report.removed:,} items removed{unknown}")
    _tell(path, report)


def _tell(path: str, report: Report) -> None:
    if report.added + report.changed + report.removed == 0:
        print(f"nothing to change: {path} still answers from version {report.version}")
        return
    print(
        f"{path} answers from version {report.version}, {report.num_items:,} items; what has it open goes on with the "
        f"old version until it loads it again\nto undo: python -m twotower.serving.updates.delta rollback {path}"
    )


def _rollback(path: str, version: str | None = None) -> None:
    if version is not None and not version.isdecimal():
        raise UserError(f"{version!r} is no version's number; python -m twotower.serving.updates.delta versions {path}")
    number = rollback(path, None if version is None else int(version))
    print(f"{path} answers from version {number}; what has it open goes on with the other until it loads it again")


def _versions(path: str) -> None:
    print("version  from  items")
    for v in versions(Path(path)):
        print(f"{v.number:>7}  {v.parent or '-':>4}  {v.num_items:>5,}{'  answers' if v.answers else ''}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
