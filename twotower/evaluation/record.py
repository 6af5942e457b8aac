"""The file of a model's answers: what two models are compared by. It tells no ids of users, sessions or items.

Shapes: Q queries.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.core.files import write_bytes
from twotower.evaluation.slices import Grouping
from twotower.metrics.results import RankingResults

Array = npt.NDArray[Any]
RECORD_FILE = "answers.npz"
FORMAT_VERSION = 1


class Record(NamedTuple):
    """Ranking results and the session and groups of each query."""

    fingerprint: str  # of the data
    ks: list[int]
    answers: RankingResults
    session: Array  # [Q]
    groupings: list[Grouping]


def write_record(path: Path, record: Record) -> None:
    """Write RECORD_FILE: about 100 bytes a query, before compression."""
    about = {
        "format_version": FORMAT_VERSION,
        "fingerprint": record.fingerprint,
        "ks": record.ks,
        "groupings": [{"name": g.name, "groups": g.groups} for g in record.groupings],
    }
    codes = {f"code_{k}": g.code.astype(np.int16) for k, g in enumerate(record.groupings)}
    arrays = {**record.answers._asdict(), "session": record.session, **codes}
    content = io.BytesIO()
    np.savez_compressed(content, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)
    write_bytes(path, content.getvalue())


def read_record(path: Path) -> Record:
    """Read it; raises UserError where it is missing, damaged or of another format."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {about['format_version']}, expected {FORMAT_VERSION}; evaluate again"
            )
        groupings = [Grouping(g["name"], g["groups"], arrays[f"code_{k}"]) for k, g in enumerate(about["groupings"])]
        answers = RankingResults(*(arrays[name] for name in RankingResults._fields))
        return Record(about["fingerprint"], about["ks"], answers, arrays["session"], groupings)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is missing or damaged ({error}); a run has it once its test is done") from None
