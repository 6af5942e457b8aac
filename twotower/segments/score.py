"""Score in batch: the best items for every user of files of events, as Retriever.recommend answers them.

A folder of Parquet files, a row for each place: user_id (or session_id), rank (1 is the best), item_id, score (null
where no item of the history is known: these are the popular items); and _score.json, what was asked for and counts. It
grows as .NAME.unfinished and appears whole; after a kill the same request goes on with the files that it lacks.

Shapes: S users, k results each.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from twotower.core.errors import UserError
from twotower.core.files import create_file_once, locked_folder, read_json, write_json
from twotower.core.schema import ITEM_ID, PAD
from twotower.data.readers.files import find_files
from twotower.segments.batch_answers import RANK, Scoring, answers, schema
from twotower.segments.events_file import read_events
from twotower.segments.item_tables import exclusions, read_item_lists
from twotower.segments.user_histories import Histories, bounds
from twotower.serving.batch_retriever import BatchRetriever

USERS = 2**16  # of a file
REQUEST_FILE, SUMMARY_FILE = "_request.json", "_score.json"  # names with _ are skipped by readers of folders


@dataclass(frozen=True)
class ScoreReport:
    """What was written."""

    path: Path
    whose: str  # users or sessions
    users: int  # S
    rows: int
    unknown: int  # users without an item of the bundle, who get the popular items
    short: int  # users with fewer than k results, as no more were allowed
    without: int  # of these, users without any result
    skipped: int  # events of items that the bundle does not have
    unusable: int  # rows of events without id, item, time or consent
    omitted: int  # rows of the tables to exclude or include without effect
    resumed: int  # files that a killed call had finished

    def __str__(self) -> str:
        """Return a summary for the terminal."""
        text = f"{self.users:,} {self.whose}, {self.rows:,} rows"
        for number, words in (
            (self.unknown, f"{self.whose} have no item of the bundle: they get the popular ones, without a score"),
            (self.short, f"{self.whose} have fewer than k results, as no more items are allowed"),
            (self.without, f"{self.whose} of these have none"),
            (self.skipped, "events are of items that the bundle does not have, and do not count"),
            (self.unusable, "events were left out: no id, item, time or consent"),
            (self.omitted, f"rows to exclude or include have no effect: not of these {self.whose}, or an unknown item"),
            (self.resumed, "files were there already"),
        ):
            text += f"\n{number:,} {words}" if number else ""
        return f"{text}\nscores: {self.path}"


def score_users(
    bundle_path: Path,
    events: Path,
    out: Path,
    scoring: Scoring,
    *,
    columns: Mapping[str, str | bool | None] | None = None,
    unit: str = "ms",
    threads: int = 1,
) -> ScoreReport:
    """Write the best k items of each user; the history is all of the user's events.

    Memory: what `read_events` keeps, and parts of USERS users.

    Args:
        bundle_path: the bundle.
        events: a file, a folder or a glob, as in training; see `read_events`, also for `columns` and `unit`.
        out: a new folder.
        scoring: what is asked for.
        columns: the files' name of each column, where it is another one.
        unit: of numeric timestamps.
        threads: that compute concurrently.

    Raises:
        UserError: `out` exists, a file can't be read, or the bundle can't answer what is asked for.
    """
    if out.exists():
        raise UserError(f"{out} exists already; delete it, or name another folder")
    retriever = BatchRetriever.load(bundle_path, threads)
    bundle = retriever.bundle
    asked = {name: getattr(scoring, name) for name in ("k", "objective", "timestamp", "filters", "max_per")}
    retriever.recommend([], **asked)  # refuses what the bundle can't answer before the events are read
    request = _request(bundle.manifest["checksum"], events, scoring, columns, unit)
    histories = read_events(bundle, events, columns, unit)
    tables = [read_item_lists(path, "--exclude", histories.id_name, bundle.encoder.form) for path in scoring.exclude]
    for_each = [table for table in tables if histories.id_name in table.columns]
    excluded = exclusions(for_each, bundle, histories) if for_each else None
    for_all = [item for table in tables if table.width == 1 for item in table[ITEM_ID]]
    include = (
        [*read_item_lists(scoring.include, "--include", "", bundle.encoder.form)[ITEM_ID]] if scoring.include else None
    )
    allowed = retriever.allowed(scoring.filters, include, for_all)
    omitted = sum(retriever.unknown.get(f"ids in {name}", 0) for name in ("include", "exclude"))
    omitted += excluded.omitted if excluded else 0
    unfinished = out.with_name(f".{out.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    with locked_folder(unfinished, f"another process writes {out}; wait for it, or name another folder"):
        resumed = _left_by_a_kill(unfinished, request)
        total = len(histories.ids)
        with tqdm(total=total, desc="score", unit=f" {histories.whose}", leave=False, disable=None) as bar:
            for number, start in enumerate(range(0, total, USERS)):
                stop = min(start + USERS, total)

                def write(file: Path, first: int = start, last: int = stop) -> None:
                    with pq.ParquetWriter(file, schema(histories, bundle)) as writer:
                        for begin, end in bounds(histories, first, last):
                            writer.write_table(answers(retriever, histories, begin, end, scoring, allowed, excluded))
                            bar.update(end - begin)

                create_file_once(unfinished / f"part-{number:05}.parquet", write)
        report = _report(unfinished, out, histories, scoring.k, omitted, resumed)
        write_json(unfinished / SUMMARY_FILE, {**request, **asdict(report), "path": str(out)})
        (unfinished / REQUEST_FILE).unlink()
        unfinished.rename(out)
    return report


def _request(checksum: str, events: Path, scoring: Scoring, columns: Any, unit: str) -> dict[str, Any]:
    """What decides on the results, as JSON: files by their names, sizes and times."""
    tables = [str(events), *scoring.exclude, *([scoring.include] if scoring.include else [])]
    files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for t in tables for file in find_files(t, t)]
    asked = {**asdict(scoring), "columns": dict(columns or {}), "unit": unit}
    made: dict[str, Any] = json.loads(json.dumps({"bundle": checksum, "files": files, **asked}, default=str))
    return made


def _left_by_a_kill(folder: Path, request: dict[str, Any]) -> int:
    """Keep the files that a killed call with the same request has finished, and count them; else empty the folder."""
    file = folder / REQUEST_FILE
    if file.exists() and read_json(file, "scores") == request:
        return len(list(folder.glob("part-*.parquet")))
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    write_json(file, request)
    return 0


def _report(folder: Path, out: Path, histories: Histories, k: int, omitted: int, resumed: int) -> ScoreReport:
    """Count what was written."""
    begin = np.concatenate([[0], np.cumsum(histories.item_index != PAD)])[histories.offsets]
    rows = first = full = 0
    for file in sorted(folder.glob("part-*.parquet")):
        rank = pq.read_table(file, columns=[RANK])[RANK].to_numpy()
        rows, first, full = rows + len(rank), first + int((rank == 1).sum()), full + int((rank == k).sum())
    users = len(histories.ids)
    return ScoreReport(
        path=out,
        whose=histories.whose,
        users=users,
        rows=rows,
        unknown=int((np.diff(begin) == 0).sum()),
        short=users - full,
        without=users - first,
        skipped=int((histories.item_index == PAD).sum()),
        unusable=histories.unusable,
        omitted=omitted,
        resumed=resumed,
    )
