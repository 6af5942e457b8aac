"""A trained run becomes a bundle, or nothing: the bundle appears only after its answers are proven.

Shapes: V items, D embedding dim, H that of items in histories, Q histories, K event inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import atomic_directory, read_json, write_bytes, write_json
from twotower.core.schema import (
    AGE_DAYS,
    CATALOGUE_FILE,
    FEATURES_FILE,
    ITEM_ID,
    ITEMS_FILE,
    TOWER_FILE,
    TRAIN_COUNT,
    read_item_features,
)
from twotower.export.choose_index import choose_index, filter_recall
from twotower.export.filter_samples import sample_filters
from twotower.export.int8 import quantise_tower, tower_recall
from twotower.export.item_tower import export_item_tower, item_tower_difference
from twotower.export.readme import bundle_readme, measured
from twotower.export.user_tower import export_user_tower, tower_difference
from twotower.export.vectors import encode_users, write_item_vectors
from twotower.report.index_page import index_page
from twotower.runs.build import input_sizes
from twotower.runs.histories import History, read_histories
from twotower.runs.layout import ENVIRONMENT_FILE, HISTORIES_FILE
from twotower.runs.run import Run
from twotower.serving.bundle import has_unit_length, write_items
from twotower.serving.bundle_format import (
    COSINE,
    CURVE_FILE,
    DOT,
    GOLDEN_FILE,
    ID_EMBEDDINGS_FILE,
    INDEX_FILE,
    ITEM_TOWER_FILE,
    MANIFEST_FILE,
    README_FILE,
    TOWER_INT8_FILE,
    seal,
    write_manifest,
)
from twotower.serving.exact_search import exact_top_k
from twotower.serving.exploration import POOL, exploration_effect, novelty
from twotower.serving.golden_answers import origin
from twotower.serving.index import ItemIndex
from twotower.serving.item_tower import ItemEncoder
from twotower.serving.retriever import Recommendations
from twotower.serving.verify import compare, verify

K = 20
GOLDEN = 64  # histories that go along
TOWER_TOLERANCE = 1e-4  # of a vector's component
PARTS = 2**16  # vectors looked at at once
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how close it is to the trained model."""

    path: Path
    manifest: dict[str, Any]
    bytes_by_file: dict[str, int]
    histories: int  # golden ones
    tower_difference: float  # ONNX against torch: largest difference of a vector's component
    answer_difference: float  # Retriever against torch and brute force: largest difference of a score
    example: int | str  # the most popular item


class _Queries(NamedTuple):
    """What stands for the requests to come: validation histories without their newest event."""

    histories: list[History]
    users: Floats  # [Q, D]
    target: npt.NDArray[np.int64]  # [Q] row of the newest event's item; -1 where the history is that event


def export_bundle(run: Run, path: Path, index: Mapping[str, Any]) -> ExportReport:
    """Write the run's bundle at `path`, verified.

    Args:
        run: trained.
        path: where to.
        index: which indexes are tried, and what they must find: see export.index.choose_index.

    Raises:
        UserError: `path` exists, the run is damaged, or the exported model differs from the trained one; then
            nothing is left at `path`.
    """
    columns = _read_catalogue(run)
    max_length = int(run.config.model.max_length)
    inputs = input_sizes(run.config.model, run.data)
    features = read_json(run.path / FEATURES_FILE, "a run directory")
    histories = read_histories(run.path, list(inputs))
    if not histories:
        raise UserError(f"{run.path / HISTORIES_FILE} has no history to prove the export with; train again")
    golden_histories = _evenly(histories, GOLDEN)
    similarity = COSINE if run.config.model.normalize else DOT
    users = encode_users(run.model, golden_histories, max_length)
    _require_vectors(run, "user", users, similarity)

    with atomic_directory(path) as directory:
        vectors, history_vectors = write_item_vectors(run.model, directory)
        _require_vectors(run, "item", vectors, similarity)
        _require_vectors(run, "item", history_vectors, DOT)
        tower = directory / TOWER_FILE
        export_user_tower(run.model, tower, history_vectors.shape[1], max_length, len(inputs))
        tower_gap = tower_difference(run.model, tower, golden_histories, history_vectors, inputs, max_length)
        _require("the ONNX user tower differs from the torch one", tower_gap)

        queries = _queries(run, histories, max_length)
        choice = choose_index(vectors, queries.users, queries.target, index)
        faiss.write_index(choice.index, str(directory / INDEX_FILE))
        chosen = ItemIndex(choice.index, vectors, choice.facts["search"], choice.facts["rerank"])
        write_items(directory / ITEMS_FILE, columns, vectors)
        serving_features = _serving_features(features, inputs)
        write_json(directory / FEATURES_FILE, serving_features)
        golden, golden_recall = _golden(columns, golden_histories, users, vectors, list(inputs), chosen)
        golden["origin"] = origin(similarity, directory / FEATURES_FILE)
        write_json(directory / GOLDEN_FILE, golden)
        train_count, age_days = (columns[name].to_numpy() for name in (TRAIN_COUNT, AGE_DAYS))
        facts = {
            "similarity": similarity,
            "dim": vectors.shape[1],
            "num_items": len(vectors),
            "max_length": max_length,
            "inputs": [{"name": name, "size": size} for name, size in inputs.items()],
            "index": {**choice.facts, "golden_recall": golden_recall},
            "filters": filter_recall(chosen, vectors, queries.users, K, sample_filters(columns, K)),
            "exploration": _exploration(chosen, queries, novelty(train_count, age_days)),
            "int8": _int8(directory, queries, history_vectors, vectors, max_length, index["target_recall"]),
            **_item_tower(run, directory, columns, serving_features["items"], vectors, history_vectors),
            **_provenance(run),
        }
        write_manifest(directory, seal(directory, facts, _files(directory)))
        answer_gap = verify(directory)
        figures = measured(directory)
        page = index_page(facts["index"], facts["filters"], f"{facts['run']}: the index")
        write_bytes(directory / CURVE_FILE, page.encode())
        files = {file.name for file in directory.iterdir()}
        readme = bundle_readme(path.name, facts, figures, columns, golden, files)
        write_bytes(directory / README_FILE, readme.encode())
        manifest = seal(directory, {**facts, "measured": figures}, _files(directory))
        write_manifest(directory, manifest)
        sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    example = columns[ITEM_ID][int(np.argmax(train_count))].as_py()
    return ExportReport(path, manifest, sizes, len(golden_histories), tower_gap, answer_gap, example)


def _evenly(histories: Sequence[History], most: int) -> list[History]:
    rows = np.unique(np.linspace(0, len(histories) - 1, min(most, len(histories))).astype(int))
    return [histories[row] for row in rows]


def _queries(run: Run, histories: Sequence[History], max_length: int) -> _Queries:
    """Histories of one event stay as they are: with nothing before it, there is no request."""
    long = [history for history in histories if len(history.item_index) > 1]
    if long:
        target = np.array([history.item_index[-1] - 1 for history in long])
        known = [History(history.item_index[:-1], history.codes[:-1]) for history in long]
    else:
        target, known = np.full(len(histories), -1), list(histories)
    return _Queries(known, encode_users(run.model, known, max_length), target)


def _golden(
    columns: pa.Table,
    histories: Sequence[History],
    users: Floats,
    vectors: Floats,
    inputs: Sequence[str],
    index: ItemIndex,
) -> tuple[dict[str, Any], float]:
    """Histories with the trained model's own answers, by scoring all items, and the share of them that `index` finds.

    Raises UserError where it finds other scores than it should.
    """
    rows, scores = exact_top_k(users, vectors, min(K, len(vectors)))
    found_scores, found = index.search(users, rows.shape[1])
    compared = compare(Recommendations(found.tolist(), found_scores), Recommendations(rows.tolist(), scores))
    if compared.is_wrong.any():
        raise UserError(
            f"the index gives {int(compared.is_wrong.sum())} histories other scores than brute force; nothing was "
            "exported. Please report it with the run's config.yaml"
        )
    ids = columns[ITEM_ID].combine_chunks()
    golden = {
        "k": rows.shape[1],
        "histories": [_golden_history(history, ids, inputs) for history in histories],
        "ids": [ids.take(pa.array(row)).to_pylist() for row in rows],
        "scores": scores.tolist(),
    }
    return golden, float(compared.found.mean())


def _golden_history(history: History, ids: pa.Array, inputs: Sequence[str]) -> list[Any]:
    """Item ids; with event inputs, {"item_id": id, "codes": {input: code}} for each event."""
    items: list[Any] = ids.take(pa.array(history.item_index - 1)).to_pylist()
    if not inputs:
        return items
    codes = [dict(zip(inputs, row, strict=True)) for row in history.codes.tolist()]
    return [{ITEM_ID: item, "codes": row} for item, row in zip(items, codes, strict=True)]


def _exploration(index: ItemIndex, queries: _Queries, weight: npt.NDArray[np.float64]) -> list[dict[str, float]]:
    k = min(K, len(weight))
    _, ranked = index.search(queries.users, min(POOL * k, len(weight)))
    return exploration_effect(ranked, queries.target, k, weight, seed=0)


def _int8(
    directory: Path, queries: _Queries, table: Floats, vectors: Floats, max_length: int, target_recall: float
) -> dict[str, Any]:
    """Write the tower with 8-bit weights, unless it finds what came next less often than `target_recall` asks for."""
    file = directory / TOWER_INT8_FILE
    quantise_tower(directory / TOWER_FILE, file)
    exact = exact_top_k(queries.users, vectors, min(K, len(vectors)))
    figures = tower_recall(file, queries.histories, table, vectors, exact, queries.target, max_length)
    figures["kept"] = figures["label_recall"] >= target_recall * figures["float32_label_recall"]
    if not figures["kept"]:
        file.unlink()
    return figures


def _item_tower(
    run: Run,
    directory: Path,
    columns: pa.Table,
    encoders: Mapping[str, Any],
    vectors: Floats,
    history_vectors: Floats,
) -> dict[str, Any]:
    """Write and prove the item tower, where the model has one that learns from features."""
    known = {n: e for n, e in encoders.items() if e["kind"] == "vector" or n in columns.column_names}
    facts = export_item_tower(run.model, directory, read_item_features(run.path), known)
    if facts:
        encoder = ItemEncoder(directory / ITEM_TOWER_FILE, known, facts["item_tower"])
        own = np.load(directory / ID_EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False)
        gap = item_tower_difference(encoder, columns, own, vectors, history_vectors)
        _require("the ONNX item tower differs from the torch one", gap)
    return facts


def _files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir() if file.name != MANIFEST_FILE)


def _serving_features(features: Mapping[str, Any], inputs: Mapping[str, int]) -> dict[str, Any]:
    """What a run's FEATURES_FILE says of the model's event inputs and of items."""
    encoders = {name: encoder for name, encoder in features["events"].items() if name in inputs}
    clock = {key: features[key] for key in ("time_zone", "event_types", "input_types")}
    return {**clock, "events": encoders, "items": features["items"]}


def _read_catalogue(run: Run) -> pa.Table:
    """[V] the catalogue with ids as int64 or string."""
    file = run.path / CATALOGUE_FILE
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is missing or damaged ({error}); copy the run again, or train again") from None
    if table.num_rows != run.data["num_items"]:
        raise UserError(f"{file} has {table.num_rows} items, the run's model {run.data['num_items']}; train again")
    plain = {pa.large_string(): pa.string(), pa.large_list(pa.large_string()): pa.list_(pa.string())}
    types = [plain.get(field.type, field.type) for field in table.schema]
    table = table.cast(pa.schema([pa.field(n, t) for n, t in zip(table.column_names, types, strict=True)]))
    ids = table[ITEM_ID]
    id_type = pa.int64() if pa.types.is_integer(ids.type) else pa.string()
    columns = {ITEM_ID: ids.cast(id_type).combine_chunks(), TRAIN_COUNT: table[TRAIN_COUNT].cast(pa.int64())}
    is_known = AGE_DAYS in table.column_names  # not in older runs
    columns[AGE_DAYS] = table[AGE_DAYS].cast(pa.int64()) if is_known else pa.nulls(len(ids), pa.int64())
    return pa.table(columns | {name: table[name] for name in table.column_names if name not in columns})


def _provenance(run: Run) -> dict[str, Any]:
    """Where the model comes from, and how good it was: the manifest's part for people."""
    metrics = {key: value for key, value in run.metrics.items() if key.startswith(("val/", "test/"))}
    return {
        "run": run.path.resolve().name,
        "dataset_fingerprint": run.data["fingerprint"],
        "metrics": metrics,
        "versions": read_json(run.path / ENVIRONMENT_FILE, "a run directory"),
    }


def _require_vectors(run: Run, name: str, vectors: Floats, similarity: str) -> None:
    for start in range(0, len(vectors), PARTS):
        if not np.isfinite(vectors[start : start + PARTS]).all():
            raise UserError(f"the {name} vectors of {run.path} are not all finite: training diverged; train again")
    if similarity == COSINE and not has_unit_length(vectors):
        raise UserError(f"the {name} vectors of {run.path} have not length one, though model.normalize is true")


def _require(claim: str, difference: float) -> None:
    if not difference <= TOWER_TOLERANCE:
        raise UserError(
            f"{claim} by {difference:.1e}, more than {TOWER_TOLERANCE:.1e}; nothing was exported. "
            "Please report it with the run's config.yaml"
        )
