"""Add, change and remove items of a bundle without training, as if it had been exported with the changed catalogue.

    twotower delta upsert BUNDLE items.parquet [item_id=NAME FEATURE=NAME ...]
    twotower delta remove BUNDLE ITEM_ID [ITEM_ID ...]
    twotower delta remove BUNDLE items.csv [item_id=NAME]
    twotower delta rollback BUNDLE [VERSION]
    twotower delta versions BUNDLE

Each change makes a new version, which becomes the current one after verification: see serving.updates.versions. A
changed item keeps its row and its id embedding; its features are replaced. A new item comes last, with an id embedding
of zeros, so its vector is that of its features. Needs no torch; vectors stream from file to file.

Shapes: V items before, W after, n items of a table.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.arrays import Floats, Ints, Mask
from twotower.core.command_line import command
from twotower.core.errors import UserError, nearest, printing_user_errors
from twotower.core.files import read_json
from twotower.core.matches import SAMPLE, Match
from twotower.core.schema import EMBEDDING, FEATURES_FILE, ITEM_ID, ITEMS_FILE
from twotower.core.values import healing
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.bundle_format import ID_EMBEDDINGS_FILE, ITEM_TOWER_FILE
from twotower.serving.catalogue import ItemId, rows_of
from twotower.serving.item_tower import ItemEncoder
from twotower.serving.updates.columns import read_columns
from twotower.serving.updates.item_table import ItemTable, as_ids, differing, merged, read_item_table
from twotower.serving.updates.versions import locked, number_of, rollback, versions
from twotower.serving.updates.write_version import Change, NewVectors, write_version

TAKEN_UP = "`twotower serve` answers from it at once, other processes once they load the bundle again"
USAGE = (__doc__ or "").split("\n\n")[1]


@dataclass(frozen=True)
class DeltaReport:
    """What a change did."""

    version: int  # the current one now
    num_items: int
    added: int = 0
    changed: int = 0
    unchanged: int = 0  # items of the table with the values that they had
    removed: int = 0
    unknown: tuple[ItemId, ...] = ()  # ids to remove that the bundle does not have
    ignored: tuple[str, ...] = ()  # columns of the table that are no feature of the bundle
    similar: str | None = None  # where new ids differ from the bundle's only by spaces, case or zeros


def upsert(
    bundle_path: str | Path, items: pa.Table | str | Path, columns: Mapping[str, str] | None = None
) -> DeltaReport:
    """Add new items, and replace features of those that the bundle has.

    Args:
        bundle_path: the bundle.
        items: a table, or a Parquet, CSV or JSON Lines file of it: item_id and features. A feature that the table lacks
            stays as it is, and is null for new items; a null in the table is a null. Further columns are ignored.
        columns: item_id or feature -> the table's name for it, unless it is this or the name in training.

    Raises:
        UserError: see item_table.read_item_table; new items in a bundle without an item tower; another process changes
            the bundle.
    """
    path = Path(bundle_path)
    with locked(path):
        bundle = open_bundle(path)
        encoders = read_json(bundle.file(FEATURES_FILE), "a bundle").get("items", {})
        given = read_item_table(items, bundle.item_ids.type, encoders, bundle.encoder.form, columns)
        row = rows_of(given.ids, bundle.item_ids)
        is_new = row < 0
        encoder = _item_encoder(bundle, encoders, given.ids.filter(pa.array(is_new)))
        items_before = _read_items(bundle)
        current = items_before.take(pa.array(row, mask=is_new))
        differs = differing(given.columns, current)
        if encoder is not None:
            id_embeddings, is_other = _id_embeddings(bundle, encoder, given, row)
            differs |= is_other
        chosen = np.concatenate([np.flatnonzero(differs & ~is_new), np.flatnonzero(is_new)])
        size, added = len(bundle.item_ids), int(is_new.sum())
        version, changed, unchanged = number_of(bundle.manifest), len(chosen) - added, len(row) - len(chosen)
        similar = _similar(given.ids.filter(pa.array(is_new)), bundle.item_ids)
        report = DeltaReport(version, size + added, added, changed, unchanged, ignored=given.ignored, similar=similar)
        if len(chosen) == 0:
            return report
        new_row = np.where(is_new, size + np.cumsum(is_new) - 1, row)[chosen]
        changed_items = merged(given.columns, current, encoders, is_new).take(pa.array(chosen))
        vectors = None
        if encoder is not None:
            rows = id_embeddings[chosen]
            vectors = NewVectors(new_row, rows, *encoder.encode(changed_items, rows))
        take = np.concatenate([np.arange(size), np.full(added, -1)])
        old_row = take.copy()
        take[new_row] = size + np.arange(len(new_row))
        columns = pa.concat_tables([items_before, changed_items.cast(items_before.schema)]).take(pa.array(take))
        return replace(report, version=write_version(bundle, Change(old_row, columns, vectors)))


def remove(bundle_path: str | Path, item_ids: Sequence[ItemId]) -> DeltaReport:
    """Remove items from the bundle; ids that it does not have are listed in the report.

    Raises:
        UserError: ids given twice, none that the bundle has, no item would be left, or another process changes the
            bundle.
    """
    path = Path(bundle_path)
    with locked(path):
        bundle = open_bundle(path)
        id_type, size = bundle.item_ids.type, len(bundle.item_ids)
        ids = as_ids(list(item_ids), id_type, bundle.encoder.form)
        row = rows_of(ids, bundle.item_ids)
        unknown = tuple(ids.filter(pa.array(row < 0)).to_pylist())
        old_row = np.setdiff1d(np.arange(size), row)
        if len(old_row) == 0:
            raise UserError(f"these are all {size} items of {path}; a bundle needs at least one")
        if len(old_row) == size:
            examples = [side.slice(0, SAMPLE).to_pylist() for side in (ids, bundle.item_ids)]
            Match("delta remove", "ids", 0, len(ids), *examples).require()
            return DeltaReport(number_of(bundle.manifest), size)
        version = write_version(bundle, Change(old_row, _read_items(bundle).take(pa.array(old_row)), None))
    return DeltaReport(version, len(old_row), removed=size - len(old_row), unknown=unknown)


def _similar(new: pa.Array, known: pa.Array) -> str | None:
    """A warning where ids that are new would be known but for spaces, case or zeros."""
    steps, pair = healing(*(map(str, side.slice(0, SAMPLE).to_pylist()) for side in (new, known)))
    if pair is None:
        return None
    return (
        f"{pair[0]!r} is new, and the bundle has {pair[1]!r}; preparation.ids=[{','.join(steps)}] would make them one"
    )


def _item_encoder(bundle: Bundle, encoders: Mapping[str, Any], new_ids: pa.Array) -> ItemEncoder | None:
    """The bundle's item tower; None where it has none, which new items need."""
    if "item_tower" in bundle.manifest:
        return ItemEncoder(bundle.file(ITEM_TOWER_FILE), encoders, bundle.manifest["item_tower"])
    if len(new_ids):
        raise UserError(
            f"item {new_ids[0].as_py()!r} is new, and {bundle.path} can't give it a vector: its model does not use "
            "item features. Leave new items out; or train with model/item_tower=features and export again"
        )
    return None


def _read_items(bundle: Bundle) -> pa.Table:
    """[V] items.parquet without the vectors."""
    file = bundle.file(ITEMS_FILE)
    return pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name != EMBEDDING])


def _id_embeddings(bundle: Bundle, encoder: ItemEncoder, given: ItemTable, row: Ints) -> tuple[Floats, Mask]:
    """[n, any] the new rows of id_embeddings.npy, and [n] whether they differ from those of `row`, -1 for new items."""
    before = np.load(bundle.file(ID_EMBEDDINGS_FILE), mmap_mode="r")[np.maximum(row, 0)]
    after = np.array(before)
    after[row < 0] = 0
    for name, columns in encoder.kept.items():
        if name in given.numbers:
            after[:, columns] = given.numbers[name]
        else:
            after[row < 0, columns] = encoder.numbers(name, [None])
    return after, (after != before).any(axis=1)


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """Change a bundle from the command line; returns 0, or 2 for a mistake that the user can correct."""
    actions: dict[str, tuple[Callable[..., None], int, float]] = {
        "upsert": (_upsert, 2, math.inf),
        "remove": (_remove, 2, math.inf),
        "rollback": (_rollback, 1, 2),
        "versions": (_versions, 1, 1),
    }
    if arguments and arguments[0] not in {*actions, "-h", "--help"}:
        hint = nearest(arguments[0], actions) or f"; there are {', '.join(actions)}"
        raise UserError(f"delta has no action {arguments[0]!r}{hint}")
    action, least, most = actions.get(arguments[0] if arguments else "", (_versions, 1, 0))
    words = arguments[1:]
    if not least <= len(words) <= most:
        print(f"usage:\n{USAGE}", file=sys.stderr)
        return 2
    action(*words)
    return 0


def _upsert(path: str, items: str, *names: str) -> None:
    report = upsert(path, items, _mapping(names))
    print(f"{report.added:,} items added, {report.changed:,} changed, {report.unchanged:,} unchanged")
    if report.ignored:
        print(f"columns that are no feature of the bundle, ignored: {', '.join(report.ignored)}")
    if report.similar:
        print(f"warning: {report.similar}")
    _print_version(path, report)


def _remove(path: str, *texts: str) -> None:
    report = remove(path, _ids_of_file(*texts) if Path(texts[0]).is_file() else texts)
    unknown = f"; not in the bundle: {', '.join(map(str, report.unknown))}" if report.unknown else ""
    print(f"{report.removed:,} items removed{unknown}")
    _print_version(path, report)


def _ids_of_file(file: str, *names: str) -> list[Any]:
    columns, name = read_columns(file), _mapping(names).get(ITEM_ID, ITEM_ID)
    if name not in columns:
        raise UserError(f"{file} has no column '{name}'; it has {', '.join(columns)}. Name one: {ITEM_ID}=NAME")
    return columns[name]


def _mapping(words: Sequence[str]) -> dict[str, str]:
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} has no '='; expected NAME=COLUMN: what the table calls item_id or a feature")
    return dict(word.split("=", 1) for word in words)


def _print_version(path: str, report: DeltaReport) -> None:
    if report.added + report.changed + report.removed == 0:
        print(f"nothing to change: version {report.version} of {path} stays")
        return
    print(f"{path} is at version {report.version}, {report.num_items:,} items; {TAKEN_UP}")
    print("to undo:", command("delta", "rollback", Path(path).resolve()))


def _rollback(path: str, version: str | None = None) -> None:
    if version is not None and not version.isdecimal():
        raise UserError(f"{version!r} is no version number; list them: {command('delta', 'versions', path)}")
    number = rollback(path, None if version is None else int(version))
    print(f"{path} is at version {number}; {TAKEN_UP}")


def _versions(path: str) -> None:
    print("version  from  items")
    for v in versions(Path(path)):
        print(f"{v.number:>7}  {v.parent or '-':>4}  {v.num_items:>5,}{'  current' if v.is_current else ''}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
