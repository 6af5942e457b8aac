"""answers.npz: a model's rank of every test query, for comparisons. It holds no ids of users, sessions or items.

Shapes: Q queries.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.core.errors import UserError
from twotower.core.files import write_bytes
from twotower.evaluation.slices import Grouping
from twotower.metrics.ranking_results import RankingResults

Array = npt.NDArray[Any]
RESULTS_FILE = "answers.npz"
FORMAT_VERSION = 1


class SavedResults(NamedTuple):
    """Ranking results with the session and the groups of each query."""

    fingerprint: str  # of the data
    ks: list[int]
    ranking: RankingResults
    session: Array  # [Q]
    groupings: list[Grouping]
    rules: str = ""  # by which items are left out: see ranked.rules_in_words
    weights: Mapping[str, Array] = {}  # weightings of the queries, each [Q]


def write_results(path: Path, saved: SavedResults) -> None:
    """Write the file: about 100 bytes a query, before compression."""
    about = {
        "format_version": FORMAT_VERSION,
        "fingerprint": saved.fingerprint,
        "ks": saved.ks,
        "groupings": [{"name": g.name, "groups": g.groups} for g in saved.groupings],
        "rules": saved.rules,
        "weights": list(saved.weights),
    }
    codes = {f"code_{k}": g.code.astype(np.int16) for k, g in enumerate(saved.groupings)}
    weights = {f"weight_{k}": weight.astype(np.float32) for k, weight in enumerate(saved.weights.values())}
    arrays = {**saved.ranking._asdict(), "session": saved.session, **codes, **weights}
    content = io.BytesIO()
    np.savez_compressed(content, about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8), **arrays)
    write_bytes(path, content.getvalue())


def read_results(path: Path) -> SavedResults:
    """Read the file; raises UserError where it is missing, damaged or of another format."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {about['format_version']}, expected {FORMAT_VERSION}; evaluate again"
            )
        groupings = [Grouping(g["name"], g["groups"], arrays[f"code_{k}"]) for k, g in enumerate(about["groupings"])]
        ranking = RankingResults(*(arrays[name] for name in RankingResults._fields))
        weights = {name: arrays[f"weight_{k}"] for k, name in enumerate(about.get("weights", []))}
        rules = about.get("rules", "")  # older files have neither
        return SavedResults(about["fingerprint"], about["ks"], ranking, arrays["session"], groupings, rules, weights)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is missing or damaged ({error}); a run has it once its test is done") from None
