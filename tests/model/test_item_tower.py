"""The item tower with features, against a loop over items, features and codes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.errors import UserError
from twotower.model.item_tower import FeatureItemTower, IdItemTower
from twotower.schema import PAD

ITEMS, DIM = 17, 6
BAGS = {"genre": 7, "brand": 4, "title": 30}


def random_features(seed: int) -> dict[str, np.ndarray]:
    """Three bags (one of them a single code an item) and two kinds of numbers."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name, size in BAGS.items():
        length = np.ones(ITEMS, int) if name == "brand" else random.integers(1, 6, ITEMS)
        codes = random.integers(0, size, length.sum())
        codes[random.integers(len(codes))] = size - 1
        arrays[f"{name}.codes"] = codes.astype(np.int32)
        arrays[f"{name}.offsets"] = np.concatenate([[0], np.cumsum(length)])
    arrays["price.values"] = random.normal(size=(ITEMS, 2)).astype(np.float32)
    arrays["vector.values"] = random.normal(size=(ITEMS, 3)).astype(np.float32)
    return arrays


def by_loop(tower: FeatureItemTower, arrays: dict[str, np.ndarray], item: int) -> Tensor:
    """One item's vector; the tables of the features lie in the order of their names."""
    vector = tower.embedding.weight[item].clone()
    first = 0
    for name in sorted(BAGS):
        codes, offsets = arrays[f"{name}.codes"], arrays[f"{name}.offsets"]
        bag = [int(c) for c in codes[offsets[item - 1] : offsets[item]]]
        for code in bag:
            vector = vector + tower.bags.weight[first + code] / len(bag)
        first += BAGS[name]
    numbers = [float(x) for name in ("price", "vector") for x in arrays[f"{name}.values"][item - 1]]
    for i, number in enumerate(numbers):
        vector = vector + number * tower.linear.weight[:, i]
    return F.normalize(vector, dim=0) if tower.normalize else vector


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_vectors_and_gradients_equal_a_loop(normalize: bool, seed: int) -> None:
    torch.manual_seed(seed)
    arrays = random_features(seed)
    tower = FeatureItemTower(ITEMS, DIM, normalize, arrays)
    ids = torch.randint(1, ITEMS + 1, (3, 5))
    expected = torch.stack([by_loop(tower, arrays, i) for i in ids.flatten().tolist()]).view(3, 5, DIM)
    vectors = tower(ids)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn(3, 5, DIM)
    ours, theirs = (torch.autograd.grad((v * direction).sum(), list(tower.parameters())) for v in (vectors, expected))
    assert len(ours) == 3
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_the_order_of_the_arrays_changes_nothing() -> None:
    arrays = random_features(0)
    towers = []
    for names in (list(arrays), list(arrays)[::-1]):
        torch.manual_seed(0)
        towers.append(FeatureItemTower(ITEMS, DIM, True, {name: arrays[name] for name in names}))
    ids = torch.arange(ITEMS + 1)
    assert torch.equal(towers[0](ids), towers[1](ids))


@pytest.mark.parametrize("part", ["codes", "values"])
def test_either_form_alone_will_do(part: str) -> None:
    arrays = {n: a for n, a in random_features(1).items() if n.endswith(("codes", "offsets")) == (part == "codes")}
    torch.manual_seed(0)
    tower = FeatureItemTower(ITEMS, DIM, False, arrays)
    ids = torch.arange(1, ITEMS + 1)
    assert tower(ids).shape == (ITEMS, DIM)
    assert (tower(ids) - tower.embedding(ids)).norm(dim=1).gt(1e-3).all()
    assert len(list(tower.parameters())) == 2


@pytest.mark.parametrize("normalize", [True, False])
def test_padding_is_the_zero_vector_and_stays_it(normalize: bool) -> None:
    tower = FeatureItemTower(ITEMS, DIM, normalize, random_features(2))
    vectors = tower(torch.tensor([[PAD, 3, PAD], [PAD, PAD, PAD]]))
    vectors.sum().backward()
    assert not vectors[0, 0].any()
    assert not vectors[1].any()
    assert vectors[0, 1].any()
    assert not tower.embedding.weight.grad[PAD].any()
    assert tower(torch.empty(0, 4, dtype=torch.long)).shape == (0, 4, DIM)


def test_the_data_is_no_part_of_the_checkpoint() -> None:
    tower = FeatureItemTower(ITEMS, DIM, True, random_features(0))
    assert set(tower.state_dict()) == {"embedding.weight", "bags.weight", "linear.weight"}
    moved = tower.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}, "but goes where the model goes"


def test_items_of_equal_features_and_ids_without_history_are_one(make_tower) -> None:
    """What the features say is all that distinguishes items whose own vectors say nothing."""
    arrays = random_features(0)
    arrays["genre.codes"], arrays["genre.offsets"] = np.arange(ITEMS) // 2 % 7, np.arange(ITEMS + 1)
    tower = FeatureItemTower(ITEMS, DIM, True, {n: arrays[n] for n in ("genre.codes", "genre.offsets")})
    torch.nn.init.zeros_(tower.embedding.weight)
    vectors = tower(torch.arange(1, 15))
    torch.testing.assert_close(vectors[::2], vectors[1::2])
    assert (vectors[0] - vectors[2]).norm() > 0.1


def test_every_tower_is_told_of_the_features_and_one_needs_some() -> None:
    assert len(list(IdItemTower(5, 4, True, item_features=random_features(0)).buffers())) == 0
    with pytest.raises(UserError, match=r"preparation\.features\.items"):
        FeatureItemTower(5, 4, True, {})
