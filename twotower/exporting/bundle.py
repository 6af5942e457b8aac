"""Export a trained run as a bundle, which appears only after its parity with the trained model is verified.

Shapes: V items, D embedding dim, H that of items in histories, Q histories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa

from twotower.core.arrays import Floats, Ints, Mask, evenly
from twotower.core.errors import UserError
from twotower.core.files import atomic_directory, read_json, write_bytes, write_json
from twotower.core.schema import (
    AGE_DAYS,
    FEATURES_FILE,
    ITEM_ID,
    ITEMS_FILE,
    TOWER_FILE,
    TRAIN_COUNT,
    read_item_features,
)
from twotower.data.horizon import NEXT
from twotower.evaluation.intervals import bootstrap_means
from twotower.evaluation.ranked import ranked_settings, rules_in_words
from twotower.exporting import parity
from twotower.exporting.catalogue import read_catalogue
from twotower.exporting.choose_index import choose_index, filter_recall
from twotower.exporting.filter_samples import sample_filters
from twotower.exporting.int8 import agreement, quantise_tower, tower_results
from twotower.exporting.item_tower import export_item_tower
from twotower.exporting.readme import bundle_readme, measured
from twotower.exporting.user_tower import export_user_tower
from twotower.exporting.vectors import encode_users, write_item_vectors
from twotower.model.two_tower import TwoTower
from twotower.report.index_page import index_page
from twotower.runs.build import input_sizes
from twotower.runs.histories import History, read_histories, read_test_queries
from twotower.runs.layout import ENVIRONMENT_FILE, HISTORIES_FILE
from twotower.runs.run import Run, has_learnt_validation, lineage
from twotower.serving import bundle_format as fmt
from twotower.serving.bundle import write_items
from twotower.serving.contract import contract
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.exact_search import exact_top_k
from twotower.serving.exploration import POOL, exploration_effect, novelty
from twotower.serving.golden_answers import origin
from twotower.serving.index import ItemIndex
from twotower.serving.item_tower import ItemEncoder
from twotower.serving.users import Users
from twotower.serving.verify import verify

K = 20
GOLDEN = 64  # golden histories


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how close it is to the trained model."""

    path: Path
    manifest: dict[str, Any]
    bytes_by_file: dict[str, int]
    histories: int  # golden ones
    tower_difference: float  # ONNX against torch: the largest of a user vector's component
    answer_difference: float  # Retriever against torch and exact search: the largest of a score
    example: int | str  # the most popular item


class _Queries(NamedTuple):
    """Stand-ins for requests.

    Those of the validation data choose and accept; the model may have learnt from them. Those of the test data, from
    which it has not, give the figures that are reported.
    """

    histories: list[History]
    users: Users  # Q
    target: Ints  # [Q] row of the next item; -1 where it is not known
    session: Ints  # [Q]


def export_bundle(run: Run, path: Path, index: Mapping[str, Any]) -> ExportReport:
    """Write the run's bundle at `path` and verify it.

    Args:
        run: a trained run.
        path: a new folder.
        index: `families`, `target_recall` and `exact_below` of choose_index.

    Raises:
        UserError: `path` exists, the run is damaged, or the exported model differs from the trained one; then
            nothing is left at `path`.
    """
    items = read_catalogue(run.path, run.data["num_items"])
    max_length = int(run.config.model.max_length)
    similarity = fmt.COSINE if run.config.model.normalize else fmt.DOT
    inputs = input_sizes(run.config.model, run.data)
    histories = read_histories(run.path, list(inputs))
    if not histories:
        raise UserError(f"{run.path / HISTORIES_FILE} has no history to verify the export with; train again")
    checked = [histories[row] for row in evenly(len(histories), GOLDEN)]
    if run.model.query_time:
        checked = parity.asked_later(checked, list(inputs))
    users = encode_users(run.model, checked, max_length)
    parity.require_vectors(f"user vectors of {run.path}", users.vectors, similarity)
    with atomic_directory(path) as directory:
        vectors, history_vectors = write_item_vectors(run.model, directory)
        parity.require_vectors(f"item vectors of {run.path}", vectors, similarity)
        parity.require_vectors(f"item vectors of {run.path}", history_vectors, fmt.DOT)
        tower = directory / TOWER_FILE
        export_user_tower(run.model, tower, history_vectors.shape[1], max_length, len(inputs))
        tower_gap = parity.user_tower_difference(run.model, tower, checked, history_vectors, inputs, max_length)
        parity.require_parity("ONNX user tower", tower_gap)

        queries = _validation(run.model, histories, max_length)
        test = _test(run.model, run.path, list(inputs), max_length)
        chosen, index_facts = _write_index(directory, vectors, queries.users.vectors, index)
        write_items(directory / ITEMS_FILE, items, vectors)
        features = _serving_features(run.path, inputs)
        write_json(directory / FEATURES_FILE, features)
        golden, golden_recall = parity.golden_answers(items[ITEM_ID], checked, users, vectors, list(inputs), chosen)
        golden["origin"] = origin(similarity, directory / FEATURES_FILE)
        write_json(directory / fmt.GOLDEN_FILE, golden)
        facts = {
            "similarity": similarity,
            "dim": vectors.shape[1],
            "num_items": len(vectors),
            "max_length": max_length,
            "inputs": [{"name": name, "size": size} for name, size in inputs.items()],
            "objectives": list(run.data["event_types"]) if run.model.objective is not None else [],
            "query_time": run.model.query_time,
            "requests": contract(EventEncoder(list(inputs), features), items, golden),
            "index": {**index_facts, "golden_recall": golden_recall},
            "filters": filter_recall(chosen, vectors, queries.users.vectors, K, sample_filters(items, K)),
            "exploration": _exploration(chosen, test, items) if test else [],
            "int8": _int8(directory, queries, history_vectors, vectors, max_length, index["target_recall"]),
            "next_item": _next_item(directory, test, chosen, history_vectors, vectors, max_length) if test else None,
            **_item_tower(run, directory, items, features["items"], vectors, history_vectors),
            **_provenance(run),
        }
        fmt.write_manifest(directory, fmt.seal(directory, facts, _files(directory)))
        answer_gap = verify(directory)
        manifest = _add_pages(directory, path.name, facts, golden)
        sizes = {file.name: file.stat().st_size for file in sorted(directory.iterdir())}
    example = items[ITEM_ID][int(np.argmax(items[TRAIN_COUNT].to_numpy()))].as_py()
    return ExportReport(path, manifest, sizes, len(checked), tower_gap, answer_gap, example)


def _write_index(
    directory: Path, vectors: Floats, users: Floats, settings: Mapping[str, Any]
) -> tuple[ItemIndex, dict[str, Any]]:
    choice = choose_index(vectors, users, **settings)
    faiss.write_index(choice.index, str(directory / fmt.INDEX_FILE))
    return ItemIndex(choice.index, vectors, choice.facts["search"], choice.facts["rerank"]), choice.facts


def _add_pages(directory: Path, name: str, facts: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    """Measure the bundle, write its pages for people, and write its final manifest."""
    figures = measured(directory)
    page = index_page(facts["index"], facts["filters"], facts["next_item"], f"{facts['run']}: the index")
    write_bytes(directory / fmt.CURVE_FILE, page.encode())
    readme = bundle_readme(name, facts, figures, golden, {file.name for file in directory.iterdir()})
    write_bytes(directory / fmt.README_FILE, readme.encode())
    manifest = fmt.seal(directory, {**facts, "measured": figures}, _files(directory))
    fmt.write_manifest(directory, manifest)
    return manifest


def _validation(model: TwoTower, histories: Sequence[History], max_length: int) -> _Queries:
    """Histories without their newest event, the target; whole ones without targets where none has two events."""
    long = [history for history in histories if len(history.item_index) > 1]
    if long:
        target = np.array([history.item_index[-1] - 1 for history in long])
        prefixes = [History(history.item_index[:-1], history.codes[:-1]) for history in long]
    else:
        target, prefixes = np.full(len(histories), -1), list(histories)
    return _Queries(prefixes, encode_users(model, prefixes, max_length), target, np.arange(len(target)))


def _test(model: TwoTower, path: Path, inputs: Sequence[str], max_length: int) -> _Queries | None:
    histories, target, session = read_test_queries(path, inputs)
    return _Queries(histories, encode_users(model, histories, max_length), target - 1, session) if histories else None


def _next_item(
    directory: Path, test: _Queries, index: ItemIndex, table: Floats, vectors: Floats, max_length: int
) -> dict[str, Any]:
    """Return recall@20 of the next item with 95 % intervals: by exact search, by the index, and with 8-bit weights."""
    k = min(K, len(vectors))
    rows = {"exact": exact_top_k(test.users, vectors, k)[0], "index": index.search(test.users, k)[1]}
    if (file := directory / fmt.TOWER_INT8_FILE).exists():
        rows["int8"] = tower_results(file, test.histories, table, vectors, k, max_length)
    hits = np.stack([_hits(each, test.target) for each in rows.values()], axis=1)
    means = bootstrap_means(hits, test.session)
    recall = {name: means.of(0, column) for column, name in enumerate(rows)}
    return {"queries": len(hits), "sessions": int(means.sessions[0]), "recall_at_20": recall}


def _hits(rows: Ints, target: Ints) -> Mask:
    hits: Mask = (rows == target[:, None]).any(axis=1)
    return hits


def _exploration(index: ItemIndex, queries: _Queries, items: pa.Table) -> list[dict[str, float]]:
    weight = novelty(items[TRAIN_COUNT].to_numpy(), items[AGE_DAYS].to_numpy())
    k = min(K, len(weight))
    _, ranked = index.search(queries.users, min(POOL * k, len(weight)))
    return exploration_effect(ranked, queries.target, k, weight, seed=0)


def _int8(
    directory: Path, queries: _Queries, table: Floats, vectors: Floats, max_length: int, target_recall: float
) -> dict[str, Any]:
    """Write the 8-bit tower, unless its recall of the next item is below `target_recall` of the float32 tower's.

    Recall of validation queries, which the model may have learnt from: it decides, but is in no figure.
    """
    file = directory / fmt.TOWER_INT8_FILE
    quantise_tower(directory / TOWER_FILE, file)
    exact, _ = exact_top_k(queries.users, vectors, min(K, len(vectors)))
    rows = tower_results(file, queries.histories, table, vectors, exact.shape[1], max_length)
    kept = bool(_hits(rows, queries.target).mean() >= target_recall * _hits(exact, queries.target).mean())
    figures = {"recall": agreement(rows, exact), "megabytes": file.stat().st_size / 1e6, "kept": kept}
    if not kept:
        file.unlink()
    return figures


def _item_tower(
    run: Run,
    directory: Path,
    items: pa.Table,
    encoders: Mapping[str, Any],
    vectors: Floats,
    history_vectors: Floats,
) -> dict[str, Any]:
    """Write and verify the item tower, where the model has one with features; returns facts for the manifest."""
    known = {n: e for n, e in encoders.items() if e["kind"] == "vector" or n in items.column_names}
    facts = export_item_tower(run.model, directory, read_item_features(run.path), known)
    if facts:
        encoder = ItemEncoder(directory / fmt.ITEM_TOWER_FILE, known, facts["item_tower"])
        id_embeddings = np.load(directory / fmt.ID_EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False)
        gap = parity.item_tower_difference(encoder, items, id_embeddings, vectors, history_vectors)
        parity.require_parity("ONNX item tower", gap)
    return facts


def _files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir() if file.name != fmt.MANIFEST_FILE)


def _serving_features(run_path: Path, inputs: Mapping[str, int]) -> dict[str, Any]:
    """The parts of a run's FEATURES_FILE for the model's event inputs and the items."""
    features = read_json(run_path / FEATURES_FILE, "a run directory")
    encoders = {name: encoder for name, encoder in features["events"].items() if name in inputs}
    clock = {key: features[key] for key in ("time_zone", "event_types", "input_types", "values") if key in features}
    return {**clock, "events": encoders, "items": features["items"]}


def _provenance(run: Run) -> dict[str, Any]:
    """Where the model comes from and how good it was, for the manifest's readers."""
    metrics = {key: value for key, value in run.metrics.items() if key.startswith(("val/", "test/"))}
    return {
        "run": run.path.resolve().name,
        "dataset_fingerprint": run.data["fingerprint"],
        "lineage": lineage(run.path),  # of that and of the data before, which warm starts have learnt from
        "refit": has_learnt_validation(run.path),
        "metrics": metrics,
        "horizon": run.config.model.get("horizon", NEXT),  # what the model learnt to predict
        "ranked": rules_in_words(**ranked_settings(run.config.evaluation)),  # by the metrics; empty: all items
        "versions": read_json(run.path / ENVIRONMENT_FILE, "a run directory"),
    }
