"""The ONNX user tower at every batch size and length, against the torch original."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from twotower.exporting.parity import user_tower_difference
from twotower.exporting.user_tower import export_user_tower
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.id import IdItemTower
from twotower.model.residual import WeightedSum
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.gru import GRUTower
from twotower.model.user_tower.linear_recurrence import LinearRecurrenceTower
from twotower.model.user_tower.transformer import TransformerTower
from twotower.runs.histories import History

SIZES = {"event_type": 3, "gap": 9, "time": 10**11}
NO_CODES = np.empty((2, 0), np.int64)


def tiny(tower: nn.Module, sizes: dict[str, int] | None = None) -> TwoTower:
    torch.manual_seed(0)
    inputs = EventInputs(sizes or {}, 8)
    for embedding in inputs.embeddings:
        nn.init.normal_(embedding.weight)
    residual = WeightedSum(8, 30)
    for parameter in [*tower.parameters(), *residual.parameters()]:  # some start at zero, and would not be seen
        nn.init.normal_(parameter, std=0.3)
    return TwoTower(IdItemTower(20, 8, normalize=True), inputs, tower, residual, True)


def table_of(model: TwoTower) -> np.ndarray[Any, Any]:
    """[V, H] the items' vectors in histories."""
    with torch.no_grad():
        return model.encode_history_items().numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "longest", "sizes"),
    [
        pytest.param(GRUTower(8, 2, 0.5), 9, SIZES, marks=pytest.mark.slow),
        (GRUTower(8, 1, 0.5), 9, {}),
        pytest.param(LinearRecurrenceTower(8, 2, 0.5), 9, SIZES, marks=pytest.mark.slow),
        pytest.param(LinearRecurrenceTower(8, 1, 0.5), 1, {"gap": 9}, marks=pytest.mark.slow),
        pytest.param(TransformerTower(8, 1, 2, 0.5, 9, False, False, False), 9, {}, marks=pytest.mark.slow),
        pytest.param(TransformerTower(8, 2, 2, 0.5, 9, True, True, True), 9, SIZES, marks=pytest.mark.slow),
        pytest.param(TransformerTower(8, 1, 1, 0.5, 1, True, True, True), 1, {"gap": 9}, marks=pytest.mark.slow),
    ],
    ids=[
        "gru of two layers, three inputs",
        "gru, no inputs",
        "linear recurrence, three inputs",
        "recurrence of one item, one input",
        "plain transformer, no inputs",
        "transformer, three inputs",
        "transformer of one item, one input",
    ],
)
def test_every_shape(tmp_path: Path, tower: nn.Module, longest: int, sizes: dict[str, int]) -> None:
    model = tiny(tower, sizes).train()
    export_user_tower(model, tmp_path / "tower.onnx", 8, longest, len(sizes))
    assert model.training and all(module.training for module in model.modules())  # untouched
    session = onnxruntime.InferenceSession(str(tmp_path / "tower.onnx"), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    model.eval()
    vectors_of = np.concatenate([np.zeros((1, 8), np.float32), table_of(model)])  # by item_index
    for batch in (1, 2, 5):
        for length in range(1, longest + 1):
            histories = random.integers(1, 21, (batch, length))
            histories[np.arange(length) >= random.integers(1, length + 1, batch)[:, None]] = 0  # PAD
            codes = random.integers(0, list(sizes.values()), (batch, length, len(sizes)))
            feed = {"history_vectors": vectors_of[histories], "newest": (histories > 0).sum(axis=1) - 1}
            feed |= {"event_inputs": codes} if sizes else {}
            (vectors,) = session.run(["user_vector"], feed)
            with torch.no_grad():
                expected = model(torch.from_numpy(histories), torch.from_numpy(codes)).numpy()
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
def test_histories_have_their_own_item_vectors_where_the_model_gives_them_some(tmp_path: Path) -> None:
    model = tiny(GRUTower(8, 1, 0.5))
    model.residual, model.history_tower = None, IdItemTower(20, 8, normalize=True)
    export_user_tower(model, tmp_path / "tower.onnx", 8, 5, 0)
    histories = [History(np.array([3, 20, 1]), np.empty((3, 0), np.int64))]
    assert user_tower_difference(model, tmp_path / "tower.onnx", histories, table_of(model), {}, 5) < 1e-5
    model.history_tower = None
    assert (
        user_tower_difference(model, tmp_path / "tower.onnx", histories, table_of(model), {}, 5) < 1e-5
    )  # holds no items
    model.history_tower = IdItemTower(20, 8, normalize=True)
    other = model.encode_items().detach().numpy()
    assert user_tower_difference(model, tmp_path / "tower.onnx", histories, other, {}, 5) > 0.01


@pytest.mark.slow
def test_only_the_first_dimensions_come_out_where_only_they_are_served(tmp_path: Path) -> None:
    model = tiny(GRUTower(8, 1, 0.0))
    model.served_dim = 3
    export_user_tower(model, tmp_path / "tower.onnx", 8, 5, 0)
    session = onnxruntime.InferenceSession(str(tmp_path / "tower.onnx"), providers=["CPUExecutionProvider"])
    feed = {"history_vectors": table_of(model)[None, :4], "newest": np.array([3])}
    (vectors,) = session.run(["user_vector"], feed)
    model.served_dim = None
    whole = model(torch.tensor([[1, 2, 3, 4]]), torch.zeros(1, 4, 0)).detach().numpy()[:, :3]
    np.testing.assert_allclose(vectors, whole / np.linalg.norm(whole), atol=1e-5)


@pytest.mark.slow
def test_the_graph_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    model = tiny(GRUTower(8, 1, 0.0), SIZES)
    export_user_tower(model, tmp_path / "small.onnx", 8, 5, 3)
    model.item_tower = IdItemTower(2000, 8, normalize=True)
    export_user_tower(model, tmp_path / "large.onnx", 8, 5, 3)
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "large.onnx").read_bytes()


@pytest.mark.slow
def test_difference_of_another_model_shows(tmp_path: Path) -> None:
    model = tiny(GRUTower(8, 1, 0.0))
    export_user_tower(model, tmp_path / "tower.onnx", dim=8, max_length=9, num_inputs=0)
    known = [History(np.array([1, 2]), NO_CODES)]

    def difference() -> float:
        return user_tower_difference(model, tmp_path / "tower.onnx", known, table_of(model), {}, 9)

    assert difference() < 1e-6
    with torch.no_grad():
        model.user_tower.gru.bias_hh_l0[-1] += 1e-2  # only visible through the reset gate
    assert difference() > 1e-4
    with torch.no_grad():
        model.user_tower.gru.bias_hh_l0[-1] = torch.nan
    assert difference() == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 8])
def test_difference_of_a_single_code_shows(tmp_path: Path, code: int) -> None:
    model = tiny(GRUTower(8, 1, 0.0), SIZES)
    export_user_tower(model, tmp_path / "tower.onnx", 8, 9, len(SIZES))
    known = [History(np.array([1, 2]), np.array([[1, 1, 1], [2, 2, 2]]))]
    assert user_tower_difference(model, tmp_path / "tower.onnx", known, table_of(model), SIZES, 9) < 1e-6
    with torch.no_grad():
        model.event_inputs.embeddings[1].weight[code, 0] += 0.1  # no golden history has it, the random ones do
    assert user_tower_difference(model, tmp_path / "tower.onnx", known, table_of(model), SIZES, 9) > 1e-4


@pytest.mark.slow
def test_difference_of_a_single_bucket_of_time_shows(tmp_path: Path) -> None:
    sizes = {"time": 10**11}
    model = tiny(TransformerTower(8, 1, 1, 0.0, 30, True, True, True), sizes)
    export_user_tower(model, tmp_path / "tower.onnx", 8, 30, 1)
    known = [History(np.array([1]), np.array([[1]]))]  # has no pause, the random ones do
    assert user_tower_difference(model, tmp_path / "tower.onnx", known, table_of(model), sizes, 30) < 1e-5
    for bucket in (1, 19, 37):  # none, 8 to 12 minutes, 3 to 4 days
        with torch.no_grad():
            model.user_tower.time_bias.bias[0, bucket] += 1
        assert user_tower_difference(model, tmp_path / "tower.onnx", known, table_of(model), sizes, 30) > 1e-4
        with torch.no_grad():
            model.user_tower.time_bias.bias[0, bucket] -= 1


def test_gru_that_cannot_be_exported(tmp_path: Path) -> None:
    tower = GRUTower(8, 1, 0.0)
    tower.gru = nn.GRU(8, 8, batch_first=False)
    with pytest.raises(ValueError, match="only a batch-first GRU"):
        export_user_tower(tiny(tower), tmp_path / "tower.onnx", dim=8, max_length=9, num_inputs=0)
