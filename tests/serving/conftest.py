"""A bundle made by hand, without torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import onnx
import pyarrow as pa
import pytest
from serving_oracle import DIM, MAX_LENGTH, naive_answers, toy_tower

from twotower.serving import bundle as fmt

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> MakeBundle:
    """Write a bundle of random vectors for these ids and counts."""

    def make(
        ids: Sequence[int | str],
        counts: Sequence[int] | None = None,
        seed: int = 0,
        similarity: str = fmt.DOT,
    ) -> Path:
        directory: Path = tmp_path_factory.mktemp("bundle")
        vectors = np.random.default_rng(seed).normal(size=(len(ids), DIM)).astype(np.float32)
        if similarity == fmt.COSINE:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        onnx.save(toy_tower(vectors), directory / fmt.TOWER_FILE)
        index = faiss.IndexFlatIP(DIM)
        index.add(vectors)
        histories = [[1], [2, 3], [3, 1, 2, 2]]
        answers = [naive_answers(vectors, h, 3) for h in histories]
        golden = {
            "k": 3,
            "histories": [[ids[i - 1] for i in h] for h in histories],
            "ids": [[ids[i - 1] for i in found] for found, _ in answers],
            "scores": [scores.tolist() for _, scores in answers],
        }
        facts = {"similarity": similarity, "dim": DIM, "num_items": len(ids), "max_length": MAX_LENGTH}
        train_count = np.array(counts if counts is not None else [1] * len(ids))
        fmt.write_bundle(directory, vectors, pa.array(ids), train_count, index, golden, facts)
        return directory

    return make
