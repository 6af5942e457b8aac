"""The user tower in 8 bits, against the float32 one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from twotower.exporting.int8 import agreement, quantise_tower, tower_results
from twotower.exporting.user_tower import export_user_tower
from twotower.exporting.vectors import encode_users, write_item_vectors
from twotower.runs import run
from twotower.runs.histories import read_histories
from twotower.serving.exact_search import exact_top_k


@pytest.mark.slow
def test_weights_are_bytes_and_most_answers_stay(make_run: Any, tmp_path: Path) -> None:
    loaded = run.load_run(make_run(list(range(60)), "model.dim=32"))
    vectors, table = write_item_vectors(loaded.model, tmp_path)
    source, target = tmp_path / "tower.onnx", tmp_path / "int8.onnx"
    export_user_tower(loaded.model, source, 32, 6, 0)
    quantise_tower(source, target)
    graph = onnx.load(target).graph
    assert {TensorProto.INT8} <= {weight.data_type for weight in graph.initializer}
    assert target.stat().st_size < source.stat().st_size

    histories = read_histories(loaded.path, [])
    exact = exact_top_k(encode_users(loaded.model, histories, 6), vectors, 10)
    same, rows = (tower_results(tower, histories, table, vectors, 10, 6) for tower in (source, target))
    assert same.tolist() == exact[0].tolist() and agreement(same, exact[0]) == 1
    shared = [len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), exact[0].tolist(), strict=True)]
    assert agreement(rows, exact[0]) == pytest.approx(np.mean(shared))
    assert 0.7 < np.mean(shared) < 1  # it does round
