"""The README inside a bundle, for the team that serves it."""

import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from twotower.core.errors import UserError
from twotower.core.schema import (
    AGE_DAYS,
    EMBEDDING,
    FEATURES_FILE,
    ITEM_COLUMNS,
    ITEM_ID,
    ITEMS_FILE,
    TOWER_FILE,
    TRAIN_COUNT,
)
from twotower.serving.bundle_format import (
    COSINE,
    CURVE_FILE,
    EMBEDDINGS_FILE,
    GOLDEN_FILE,
    HISTORY_FILE,
    ID_EMBEDDINGS_FILE,
    INDEX_FILE,
    ITEM_TOWER_FILE,
    MANIFEST_FILE,
    TOWER_INT8_FILE,
)

FILES = {
    EMBEDDINGS_FILE: "the items' vectors, float32, row by row as in items.parquet",
    HISTORY_FILE: "the items' vectors in histories",
    ITEMS_FILE: "item_id, embedding, train_count, age_days and the items' features, in the same order",
    INDEX_FILE: "FAISS index over the vectors, inner product",
    TOWER_FILE: "the user tower: vectors of a history's items in, user vector out",
    TOWER_INT8_FILE: "the same with 8-bit weights",
    ITEM_TOWER_FILE: "the item tower: features in, item vector out",
    ID_EMBEDDINGS_FILE: "what the items have learnt beside their features",
    FEATURES_FILE: "how events and features become numbers",
    GOLDEN_FILE: "histories with the trained model's answers",
    MANIFEST_FILE: "what the bundle is, and the SHA-256 of each file",
    CURVE_FILE: "which indexes were tried, and what they find",
}


def measured(path: Path) -> dict[str, float]:
    """What twotower.serving.measure says of the bundle at `path`, in a process without torch."""
    command = [sys.executable, "-m", "twotower.serving.measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the bundle can't be loaded in a process of its own: {done.stderr.strip()}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def bundle_readme(
    name: str,
    facts: Mapping[str, Any],
    figures: Mapping[str, float],
    columns: pa.Table,
    golden: Mapping[str, Any],
    files: Collection[str],
) -> str:
    """Markdown.

    Args:
        name: of the bundle's folder.
        facts: of the manifest.
        figures: what `measured` says.
        columns: [V] the columns of items.parquet but the vectors.
        golden: what GOLDEN_FILE has.
        files: names of those that the bundle has.
    """
    index, history = facts["index"], golden["histories"][0][-3:]
    ids = [event[ITEM_ID] if isinstance(event, dict) else event for event in history]
    features = [column for column in columns.column_names if column not in ITEM_COLUMNS]
    example = next((f'{{"{n}": {_first(columns, n)!r}}}' for n in features if _first(columns, n) is not None), None)
    metric = "cosine similarity (all vectors have length one, so inner product ranks the same)"
    metric = metric if facts["similarity"] == COSINE else "inner product; not cosine, as lengths differ"
    parts = [
        f"# {name}",
        f"{facts['num_items']:,} items, vectors of {facts['dim']} numbers, {metric}. Trained as `{facts['run']}`; "
        f"exported with proofs: {len(golden['histories'])} golden histories get the trained model's answers.",
        "## Answers in ten lines",
        _code("python", _example(name, ids, example)),
        "It needs numpy, faiss-cpu, onnxruntime and pyarrow, no torch: `pip install twotower`, or of its repository "
        "`pip install .`. Opening refuses a bundle that is damaged, mixed from two exports, or newer than the library.",
        _code("", "\n".join([_command("retriever", name, ids[-1]), _command("measure", name)])),
        "## Figures",
        _table(["", "where it was exported"], _figures(facts, figures)),
        f"One thread, one history at a time, with `OMP_NUM_THREADS=1`; `measure` gives those of your machine. The "
        f"index is {index['kind']} (`{index['factory']}`); {CURVE_FILE} shows what else was tried.",
    ]
    if facts["filters"]:
        rows = [[row["filter"], f"{row['allowed']:.1%}", f"{row['recall']:.4f}"] for row in facts["filters"]]
        parts += ["## Filters", _filters(features), _table(["filter", "items it allows", "recall@20"], rows)]
    names = ("exploration", "recall", "coverage", "explored")
    rows = [[f"{row[column]:.3g}" for column in names] for row in facts["exploration"]]
    parts += [
        "## Exploration",
        "`exploration=0.1` lets chance fill a tenth of the places from beyond the best: of two items, the one "
        "with about four times the events, or the days since its first, is half as likely. `seed` makes it "
        "repeatable. Its effect on validation histories, for 20 answers:",
        _table(["exploration", "recall@20 of what came next", "share of items shown", "places explored"], rows),
        "## Items come and go",
        _delta("item_tower" in facts, name, ids[-1]),
        "## Vector databases",
        _databases(facts),
        "## Files",
        _table(["file", "what it is"], [[f"`{file}`", what] for file, what in FILES.items() if file in files]),
        "JSON, Parquet, ONNX and `.npy` without pickle: nothing here is code.",
    ]
    return "\n\n".join(parts) + "\n"


def _example(name: str, ids: Sequence[Any], filters: str | None) -> str:
    more = f", filters={filters}" if filters else ""
    return "\n".join(
        [
            "from twotower.serving.retriever import Retriever",
            "",
            f"retriever = Retriever.load({name!r})  # once; safe to share between threads",
            f"history = {list(ids)!r}  # oldest first, or events: {{'item_id': ..., 'timestamp': ms, ...}}",
            f"answers = retriever.recommend([history], k=10, exclude_seen=True{more})",
            "for item, score in zip(answers.ids[0], answers.scores[0]):",
            "    print(item, score)  # NaN for scores: nothing of the history was known, these are the popular items",
            f"similar = retriever.similar_items([{ids[-1]!r}], k=10)",
            f"nearest = retriever.audience([{ids[-1]!r}], [history], k=1)",
        ]
    )


def _command(module: str, *words: Any) -> str:
    return shlex.join(["python", "-m", f"twotower.serving.{module}", *map(str, words)])


def _first(columns: pa.Table, name: str) -> Any:
    """A value for an example: the first text that an item has; None for numbers."""
    values = columns[name].drop_null()
    return values[0].as_py() if len(values) and pa.types.is_string(values.type) else None


def _figures(facts: Mapping[str, Any], figures: Mapping[str, float]) -> list[list[str]]:
    index, int8 = facts["index"], facts["int8"]
    kept = "in the bundle: `Retriever.load(path, int8=True)`" if int8["kept"] else "left out"
    return [
        ["answer, median", f"{figures['p50_ms']:.2f} ms"],
        ["answer, 99th percentile", f"{figures['p99_ms']:.2f} ms"],
        ["from start to first answer", f"{figures['cold_start_s']:.1f} s"],
        ["memory of the process, at most", f"{figures['peak_memory_mb']:,.0f} MB"],
        ["recall@20 of the index against exact search", f"{index['recall']:.4f} (target {index['target_recall']:g})"],
        ["recall@20 of the next item, float32 tower", f"{int8['float32_label_recall']:.4f}"],
        ["the same with 8-bit weights", f"{int8['label_recall']:.4f}; {kept}"],
    ]


def _filters(features: Sequence[str]) -> str:
    names = ", ".join(f"`{name}`" for name in [*features, AGE_DAYS, TRAIN_COUNT])
    return (
        f"`filters` takes a value, a list of values or a range for each of {names}: "
        '`{"price": {"max": 50}, "age_days": {"max": 30}, "not": {"brand": "x"}}`, and `{"any": [...]}`; `include` and '
        '`exclude` take item ids, `max_per={"brand": 2}` limits how many answers share a value. What the index finds '
        "under filters:"
    )


def _delta(has_item_tower: bool, name: str, item: Any) -> str:
    new = (
        "New items get their vectors from their features; items.parquet of yours needs `item_id` and the features."
        if has_item_tower
        else "This model learns nothing from features, so new items need training; features of old ones can change."
    )
    words = [["upsert", name, "items.parquet"], ["remove", name, item], ["rollback", name], ["versions", name]]
    return new + "\n\n" + _code("", "\n".join(_command("delta", *command) for command in words))


def _databases(facts: Mapping[str, Any]) -> str:
    cosine, dim = facts["similarity"] == COSINE, facts["dim"]
    rows = [
        ["pgvector", f"`vector({dim})`", "`vector_cosine_ops`, `<=>`" if cosine else "`vector_ip_ops`, `<#>`"],
        ["Qdrant", f'`"size": {dim}`', '`"distance": "Cosine"`' if cosine else '`"distance": "Dot"`'],
        ["Milvus", f"`FLOAT_VECTOR, dim={dim}`", '`metric_type="COSINE"`' if cosine else '`metric_type="IP"`'],
        [
            "OpenSearch",
            f'`"type": "knn_vector", "dimension": {dim}`',
            '`"space_type": "cosinesimil"`' if cosine else '`"space_type": "innerproduct"`',
        ],
    ]
    loading = "\n".join(
        [
            "import pyarrow.parquet as pq",
            "",
            f'parts = pq.ParquetFile("{ITEMS_FILE}").iter_batches(10_000, columns=["{ITEM_ID}", "{EMBEDDING}"])',
            "for part in parts:",
            f'    rows = part.to_pylist()  # [{{"{ITEM_ID}": ..., "{EMBEDDING}": [...]}}, ...]: insert or upsert them',
        ]
    )
    return (
        "`items.parquet` loads into any of them. Queries are user vectors: `retriever.encode([history])`. Take the "
        "metric of the model, or the ranking is another one:\n\n"
        + _table(["database", "column", "metric"], rows)
        + "\n\n"
        + _code("python", loading)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
