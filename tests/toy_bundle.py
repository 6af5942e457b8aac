"""A bundle made by hand, without torch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from bundle_files import finish_bundle
from serving_oracle import DIM, MAX_LENGTH, NOTHING, naive_answers, toy_tables, toy_tower

from twotower.serving import bundle_format as fmt

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Write a bundle of random vectors for these ids and counts."""

    def make(
        ids: Sequence[int | str],
        counts: Sequence[int] | None = None,
        ages: Sequence[int] | None = None,
        seed: int = 0,
        similarity: str = fmt.DOT,
        inputs: Mapping[str, int] | None = None,  # the event inputs' sizes
        features: Mapping[str, Any] = NOTHING,
        columns: Mapping[str, Any] | None = None,  # values of item features
    ) -> Path:
        directory: Path = tmp_path_factory.mktemp("bundle")
        vectors = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
        if similarity == fmt.COSINE:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        inputs = inputs or {}
        tables = toy_tables(inputs, seed)
        onnx.save(toy_tower(DIM, tables), directory / fmt.TOWER_FILE)
        np.save(directory / fmt.EMBEDDINGS_FILE, vectors)
        histories = [[min(item, len(ids)) for item in history] for history in ([1], [2, 3], [3, 1, 2, 2])]
        codes = [[[(h + t) % n for n in inputs.values()] for t in range(len(h_))] for h, h_ in enumerate(histories)]
        k = min(3, len(ids))
        answers = [naive_answers(vectors, h, k, c, tables) for h, c in zip(histories, codes, strict=True)]
        known = [[ids[i - 1] for i in h] for h in histories]
        if inputs:
            known = [
                [{"item_id": i, "codes": dict(zip(inputs, row, strict=True))} for i, row in zip(*pair, strict=True)]
                for pair in zip(known, codes, strict=True)
            ]
        golden = {
            "k": k,
            "histories": known,
            "ids": [[ids[i - 1] for i in found] for found, _ in answers],
            "scores": [scores.tolist() for _, scores in answers],
        }
        sizes = [{"name": name, "size": size} for name, size in inputs.items()]
        train_count = np.array(counts if counts is not None else [1] * len(ids))
        learnt = {"train_count": train_count, "age_days": np.array(ages if ages is not None else [0] * len(ids))}
        table = pa.table({"item_id": pa.array(ids), **learnt, **(columns or {})})
        facts = {"similarity": similarity, "max_length": MAX_LENGTH, "inputs": sizes}
        finish_bundle(directory, table, vectors, features, golden, facts)
        return directory

    return make
