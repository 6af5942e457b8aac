"""The files of a bundle that do not come from torch, and its manifest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from twotower.core.files import write_json
from twotower.serving.bundle import write_items
from twotower.serving.bundle_format import seal, write_manifest
from twotower.serving.golden_answers import origin
from twotower.serving.index import build_index


def finish_bundle(
    directory: Path,
    columns: pa.Table,
    vectors: np.ndarray[Any, Any],
    features: Mapping[str, Any],
    golden: Mapping[str, Any],
    facts: Mapping[str, Any],
    factory: str = "Flat",
) -> None:
    """Beside the towers and the vectors, which are there already; `facts` lacks what these arguments say."""
    write_items(directory / "items.parquet", columns, vectors)
    faiss.write_index(build_index(vectors, factory), str(directory / "index.faiss"))
    write_json(directory / "features.json", dict(features))
    of = origin(facts["similarity"], directory / "features.json")
    write_json(directory / "golden.json", {**golden, "origin": of})
    found = {"kind": "any", "factory": factory, "search": {}, "rerank": 1, "recall": 1.0, "golden_recall": 1.0}
    facts = {"dataset_fingerprint": "none", "num_items": len(vectors), "dim": vectors.shape[1], "index": found, **facts}
    write_manifest(directory, seal(directory, facts, sorted(file.name for file in directory.iterdir())))
