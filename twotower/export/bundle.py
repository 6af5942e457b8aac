"""A trained run becomes a bundle, or nothing: the bundle appears only after its answers are proven.

Shapes: V items, D embedding dim, Q golden histories, K event inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.errors import UserError
from twotower.export.index import brute_force, build_index, index_difference
from twotower.export.onnx import encode_users, export_user_tower, item_vectors, tower_difference
from twotower.files import atomic_directory, read_json
from twotower.run import ENVIRONMENT_FILE, HISTORIES_FILE, History, Run, input_sizes, read_histories
from twotower.schema import CATALOGUE_FILE, FEATURES_FILE, TOWER_FILE
from twotower.serving.bundle import COSINE, DOT, has_unit_length, write_bundle
from twotower.serving.verify import TOLERANCE, verify

GOLDEN_K = 20
TOWER_TOLERANCE = 1e-4  # of a vector's component


@dataclass(frozen=True)
class Report:
    """What was exported, and how close it is to the trained model."""

    path: Path
    similarity: str
    num_items: int
    dim: int
    bytes_by_file: dict[str, int]
    histories: int  # Q
    tower_difference: float  # ONNX against torch: largest difference of a vector's component
    index_difference: float  # index against brute force: largest difference of a score
    answer_difference: float  # Retriever against torch and brute force: largest difference of a score
    example: int | str  # the most popular item


def export_bundle(run: Run, path: Path) -> Report:
    """Write the run's bundle at `path`, verified.

    Raises:
        UserError: `path` exists, the run is damaged, or the exported model differs from the trained one; then
            nothing is left at `path`.
    """
    item_ids, train_count = _read_catalogue(run)
    max_length = int(run.config.model.max_length)
    similarity = COSINE if run.config.model.normalize else DOT
    inputs = input_sizes(run.config, run.data)
    features = _serving_features(run, inputs)
    histories = read_histories(run.path, list(inputs))
    if not histories:
        raise UserError(f"{run.path / HISTORIES_FILE} has no history to prove the export with; train again")
    vectors = item_vectors(run.model).numpy()
    users = encode_users(run.model, histories, max_length)
    for name, values in (("item", vectors), ("user", users)):
        if not np.isfinite(values).all():
            raise UserError(f"the {name} vectors of {run.path} are not all finite: training diverged; train again")
        if similarity == COSINE and not has_unit_length(values):
            raise UserError(f"the {name} vectors of {run.path} have not length one, though model.normalize is true")

    with atomic_directory(path) as directory:
        tower = directory / TOWER_FILE
        export_user_tower(run.model, tower, max_length, len(inputs))
        tower_gap = tower_difference(run.model, tower, histories, len(vectors), inputs, max_length)
        _require("the ONNX user tower differs from the torch one", tower_gap, TOWER_TOLERANCE)
        index = build_index(vectors)
        k = min(GOLDEN_K, len(vectors))
        rows, scores = brute_force(users, vectors, k)
        index_gap = index_difference(index, users, vectors, k)
        largest = max(1.0, float(np.abs(scores).max()))
        _require("the index differs from brute force", index_gap, TOLERANCE * largest)
        ids = np.array(item_ids.to_pylist(), dtype=object)
        golden = {
            "k": k,
            "histories": [_golden_history(history, ids, list(inputs)) for history in histories],
            "ids": ids[rows].tolist(),
            "scores": scores.tolist(),
        }
        facts = {
            "similarity": similarity,
            "dim": vectors.shape[1],
            "num_items": len(vectors),
            "max_length": max_length,
            "inputs": [{"name": name, "size": size} for name, size in inputs.items()],
            **_provenance(run),
        }
        write_bundle(directory, vectors, item_ids, train_count, index, features, golden, facts)
        answer_gap = verify(directory)
        sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    example = ids[np.argmax(train_count)]
    return Report(
        path, similarity, len(vectors), vectors.shape[1], sizes, len(histories),
        tower_gap, index_gap, answer_gap, example,
    )  # fmt: skip


def _serving_features(run: Run, inputs: Mapping[str, int]) -> dict[str, Any]:
    """What the run's FEATURES_FILE says of the model's event inputs; the items' features are in their vectors."""
    features = read_json(run.path / FEATURES_FILE, "a run directory")
    encoders = {name: encoder for name, encoder in features["events"].items() if name in inputs}
    return {key: features[key] for key in ("time_zone", "event_types", "input_types")} | {"events": encoders}


def _golden_history(history: History, ids: npt.NDArray[Any], inputs: Sequence[str]) -> list[Any]:
    """Item ids; with event inputs, {"item_id": id, "codes": {input: code}} for each event."""
    items: list[Any] = ids[history.item_index - 1].tolist()
    if not inputs:
        return items
    codes = [dict(zip(inputs, row, strict=True)) for row in history.codes.tolist()]
    return [{"item_id": item, "codes": row} for item, row in zip(items, codes, strict=True)]


def _read_catalogue(run: Run) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """[V] ids as int64 or string, [V] train_count."""
    file = run.path / CATALOGUE_FILE
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); copy the run again, or train again") from None
    if table.num_rows != run.data["num_items"]:
        raise UserError(f"{file} has {table.num_rows} items, the run's model {run.data['num_items']}; train again")
    ids = table["item_id"].combine_chunks()
    ids = ids.cast(pa.int64() if pa.types.is_integer(ids.type) else pa.string())
    return ids, table["train_count"].to_numpy()


def _provenance(run: Run) -> dict[str, Any]:
    """Where the model comes from, and how good it was: the manifest's part for people."""
    metrics = {key: value for key, value in run.metrics.items() if key.startswith(("val/", "test/"))}
    return {
        "run": run.path.resolve().name,
        "dataset_fingerprint": run.data["fingerprint"],
        "metrics": metrics,
        "versions": read_json(run.path / ENVIRONMENT_FILE, "a run directory"),
    }


def _require(claim: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:
        raise UserError(
            f"{claim} by {difference:.1e}, more than {tolerance:.1e}; nothing was exported. "
            "Please report it with the run's config.yaml"
        )
