"""The store of preparation.store: the cleaned rows of all files so far, so that only new files are read.

Its folder holds integers: hashes of users and sessions with their secret seed, places, times, codes; and what the codes
stand for. Nothing in it is changed but store.json, which names the folders that belong together and is replaced last: a
killed preparation leaves the store as it was before or as it is afterwards.

    store.json          seed, files, settings, counts; names of the folders below
    state-N/            dictionaries.parquet: values by code; live-SEGMENT.npy: sessions that no later segment has
    segment-N/          NAME.npy, rows; sessions/NAME.npy

Without a setting the same is done in a temporary folder, for one preparation.
Shapes: E events, S sessions, P partitions.
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.core.arrays import Array
from twotower.core.errors import UserError
from twotower.core.files import locked_folder, read_json, sha256, write_json
from twotower.core.ragged import ranges
from twotower.core.schema import FORMAT_VERSION, TIMESTAMP, USER_ID
from twotower.data.preparation.sessionize import MICROSECOND, SessionCounts
from twotower.data.preparation.sort import Segment
from twotower.data.preparation.spill import KEY, ArrayFile
from twotower.data.readers.source import Source

STORE_FILE, DICTIONARIES_FILE = "store.json", "dictionaries.parquet"
OWN = r"(segment|state)-\d+|\.store\.json\.\d+"  # names that a killed preparation may have left
MOST_SEGMENTS = 8  # more are sorted into one, but for the largest
OTHER = "name another folder as preparation.store, for which all files are read"


class Store:
    """Segments of sorted sessions, and what the first pass has counted.

    Args:
        folder: an existing folder.
        kept: whether a later preparation goes on from it.
        settings: all that decides on the rows.

    Raises:
        UserError: its rows were prepared with other settings, or by another version.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()), kept=True, settings={"preparation.until": None})
    >>> store.state, len(store.segments)
    (None, 0)
    """

    def __init__(self, folder: Path, kept: bool, settings: Mapping[str, Any]) -> None:
        self.folder, self.kept, self._settings = folder, kept, json.loads(json.dumps(settings))
        self.seed = secrets.randbits(63)
        self.files: dict[str, list[Any]] = {}  # path -> size, time of change, checksum
        self.state: dict[str, Any] | None = None  # of the first pass; None: the store is empty
        self.dictionaries: dict[str, pl.Series] = {}
        self.segments: list[Segment] = []
        self.live: list[Array] = []
        self.counts = SessionCounts()
        self._names: list[str] = []  # of the segments
        self._number = 0  # of the last folder
        self.forgotten_rows = 0  # that have left now
        self._begin: list[Array] = []  # [S] first row of each session of each segment
        self._listed: set[int] = set()  # hashes of the erase list
        self._forgotten: set[int] = set()  # of these, users whose rows leave now
        self._folded: set[int] = set()  # segments whose sessions are sorted anew
        if (folder / STORE_FILE).exists():
            self._load(read_json(folder / STORE_FILE, "a store of preparation"))
        self._remove_unnamed()

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.seed = saved["seed"]
        if saved["format"] != FORMAT_VERSION or saved["probe"] != self._probe():
            raise UserError(f"{self.folder} was made by another version of twotower or of polars; {OTHER}")
        was = saved["settings"]
        for name in sorted(was.keys() | self._settings.keys()):
            if was.get(name) != self._settings.get(name):
                raise UserError(
                    f"{self.folder} holds rows of {name}={was.get(name)}, now it is {self._settings.get(name)}; "
                    f"set it as it was, or {OTHER}"
                )
        self.files, self.state, self._number = saved["files"], saved["state"], saved["number"]
        self._listed, self._names = set(saved["listed"]), saved["segments"]
        self.counts = SessionCounts(**saved["counts"])
        state = self.folder / f"state-{self._number}"
        table = pl.read_parquet(state / DICTIONARIES_FILE)
        self.dictionaries = {column.name: column.explode(empty_as_null=False) for column in table.get_columns()}
        for name in self._names:
            self.segments.append(_read_segment(self.folder / name))
            self.live.append(np.load(state / f"live-{name}.npy", allow_pickle=False))
            length = self.segments[-1].table["length"]
            self._begin.append(np.cumsum(length) - length)

    def _probe(self) -> list[int]:
        """Hashes that tell whether those of ids are still the same."""
        return [int(pl.Series([value]).hash(self.seed)[0]) for value in (7, "seven")]

    def new_files(self, source: Source) -> list[int] | None:
        """Return the numbers of the event files that are not in the store; None where it is not kept: all of them.

        Raises UserError where one that is in it has changed or is missing.
        """
        if not self.kept:
            return None
        if not source.event_files:
            raise UserError("preparation.store needs a reader that tells its files apart; leave the setting out")
        present, new = {}, []
        for number, file in enumerate(source.files[: source.event_files]):
            name, size, time = str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns
            before = self.files.get(name)
            if before is None:
                new.append(number)
                before = [size, time, sha256(file)]
            elif before[:2] != [size, time] and (before[0] != size or before[2] != sha256(file)):
                raise UserError(f"{file} has changed since its rows went into {self.folder}; {OTHER}")
            present[name] = before
        if gone := sorted(self.files.keys() - present.keys()):
            raise UserError(
                f"data.path has no {gone[0]} ({len(gone):,} such files), whose rows are in {self.folder}; "
                f"bring it back, or {OTHER}"
            )
        self.files = present
        return new

    def forget(self, listed: Sequence[int], by_user: bool) -> set[int]:
        """Return which of the hashes of erased users have rows, which leave the store now."""
        added = np.array(sorted(set(listed) - self._listed), dtype=np.uint64)
        self._listed = set(listed)
        found: set[int] = set()
        for segment in self.segments if len(added) else ():
            users = segment.table[KEY] if by_user else segment.columns[USER_ID].array()
            for begin in range(0, len(users), 1 << 22):
                found |= set(np.intersect1d(added, users[begin : begin + (1 << 22)]).tolist())
        self._forgotten = found
        return found

    def choose_folded(self, everything: bool) -> int:
        """Choose the segments that are sorted anew, to forget users, or as too many or too full of gaps.

        Returns:
            How many rows they have.
        """
        if everything or self._forgotten:
            self._folded = set(range(len(self.segments)))
        alive = [int(s.table["length"][live].sum()) for s, live in zip(self.segments, self.live, strict=True)]
        rows = [int(s.table["length"].sum()) for s in self.segments]
        self._folded |= {number for number, live in enumerate(alive) if 2 * live < rows[number]}
        if len(alive) >= MOST_SEGMENTS:
            self._folded |= set(range(len(alive))) - {int(np.argmax(alive))}
        return sum(alive[number] for number in self._folded)

    def older(self, number: int, count: int, new: pl.DataFrame | None) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """Take the rows of a partition that are sorted again: of the keys of new rows, and of folded segments.

        Args:
            number: of the partition, of `count`.
            new: its new rows.

        Returns:
            The rows, and those of them that stay; None where there are none.
        """
        frames = []
        shift = np.uint64(64 - (count.bit_length() - 1))
        for place, (segment, live) in enumerate(zip(self.segments, self.live, strict=True)):
            per = len(segment.bounds) - 1
            first = number * per // count
            low, high = segment.bounds[first], segment.bounds[max(first + 1, (number + 1) * per // count)]
            key = segment.table[KEY][low:high]
            wanted = live[low:high].copy()
            if per < count:
                wanted &= (key >> shift) == number
            if place not in self._folded:
                wanted &= pl.Series(key).is_in(new[KEY].unique().implode()).to_numpy() if new is not None else False
            live[low:high] &= ~wanted
            frames.append(_rows(segment, self._begin[place], low + np.flatnonzero(wanted)))
        if not any(frame.height for frame in frames):
            return None
        rows = pl.concat(frames)
        if not self._forgotten:
            return rows, rows
        users = rows[USER_ID if USER_ID in rows.columns else KEY]
        stay = rows.filter(~users.is_in(pl.Series(sorted(self._forgotten), dtype=pl.UInt64).implode()))
        self.forgotten_rows += rows.height - stay.height
        return rows, stay

    def new_segment(self) -> Path:
        """Create the folder for a segment."""
        self._number += 1
        folder = self.folder / f"segment-{self._number}"
        folder.mkdir()
        return folder

    def add(self, segment: Segment, counts: SessionCounts) -> None:
        """Add the segment in the folder of `new_segment`, in place of the folded ones."""
        self.counts.add(counts)
        kept = [number for number in range(len(self.segments)) if number not in self._folded]
        self.segments, self.live = [self.segments[n] for n in kept], [self.live[n] for n in kept]
        self._names = [self._names[n] for n in kept]
        if segment.table:
            self.segments.append(segment)
            self.live.append(np.ones(len(segment.table["length"]), dtype=bool))
            self._names.append(f"segment-{self._number}")

    def commit(self, state: Mapping[str, Any], dictionaries: Mapping[str, pl.Series]) -> None:
        """Make all this what the next preparation finds."""
        self._number += 1
        folder = self.folder / f"state-{self._number}"
        folder.mkdir()
        for name, segment, live in zip(self._names, self.segments, self.live, strict=True):
            np.save(folder / f"live-{name}.npy", live)
            if not (table := self.folder / name / "sessions").exists():
                table.mkdir()
                for column, array in {**segment.table, "bounds": segment.bounds}.items():
                    np.save(table / f"{column}.npy", array)
        pl.DataFrame([v.implode().alias(name) for name, v in dictionaries.items()]).write_parquet(
            folder / DICTIONARIES_FILE
        )
        saved = {"format": FORMAT_VERSION, "probe": self._probe(), "settings": self._settings, "seed": self.seed}
        saved |= {"files": self.files, "state": state, "number": self._number, "listed": sorted(self._listed)}
        saved |= {"segments": self._names, "counts": vars(self.counts)}
        write_json(self.folder / STORE_FILE, saved)
        self._remove_unnamed()

    def release(self) -> None:
        """Free the memory of the tables of sessions."""
        self.segments, self.live, self._begin = [], [], []

    def _remove_unnamed(self) -> None:
        """Remove folders that a killed preparation left, or that the last one has replaced."""
        named = {*self._names, f"state-{self._number}"}
        for left in self.folder.iterdir():
            if left.name not in named and re.fullmatch(OWN, left.name):
                left.unlink() if left.is_file() else shutil.rmtree(left)


@contextmanager
def open_store(folder: str | None, work: Path, settings: Mapping[str, Any]) -> Iterator[Store]:
    """Open the store in `folder` under an exclusive lock; without one a temporary store in `work`."""
    if folder is None:
        yield Store(work, False, settings)
        return
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True, mode=0o700)  # hashes and their secret are for nobody else
    if not (path / STORE_FILE).exists():
        foreign = [file.name for file in path.iterdir() if not re.fullmatch(OWN, file.name)]
        if foreign:
            raise UserError(f"preparation.store={folder} holds {sorted(foreign)[0]}; expected a store, or a new folder")
    with locked_folder(path, f"another process is preparing with preparation.store={folder}; wait for it"):
        yield Store(path, True, settings)


def _read_segment(folder: Path) -> Segment:
    columns = {file.stem: ArrayFile.closed(file) for file in folder.glob("*.npy")}
    table = {file.stem: np.load(file, allow_pickle=False) for file in (folder / "sessions").glob("*.npy")}
    return Segment(columns, table, table.pop("bounds"))


def _rows(segment: Segment, begin: Array, sessions: Array) -> pl.DataFrame:
    """Return the rows of some sessions as the first pass gives them; `begin` [S] is the first row of each session."""
    length = segment.table["length"][sessions]
    take = ranges(begin[sessions], length)
    columns = {name: file.array()[take] for name, file in sorted(segment.columns.items())}
    scale = 1 if MICROSECOND not in columns else 1000
    columns[TIMESTAMP] = columns[TIMESTAMP] * scale + columns.pop(MICROSECOND, 0)
    return pl.DataFrame({KEY: np.repeat(segment.table[KEY][sessions], length), **columns})
