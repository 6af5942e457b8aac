"""The item tower with features, against a loop over items, features and codes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.core.errors import UserError
from twotower.core.schema import PAD
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.item_tower.hashing import hashed_rows
from twotower.model.item_tower.id import IdItemTower

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
    tower = FeatureItemTower(ITEMS, DIM, normalize, arrays, None, 0.0)
    ids = torch.randint(1, ITEMS + 1, (3, 5))
    expected = torch.stack([by_loop(tower, arrays, i) for i in ids.flatten().tolist()]).view(3, 5, DIM)
    vectors = tower(ids)
    torch.testing.assert_close(vectors, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn(3, 5, DIM)
    computed, reference = (
        torch.autograd.grad((v * direction).sum(), list(tower.parameters())) for v in (vectors, expected)
    )
    assert len(computed) == 3
    for one, other in zip(computed, reference, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_order_of_the_arrays_changes_nothing() -> None:
    arrays = random_features(0)
    towers = []
    for names in (list(arrays), list(arrays)[::-1]):
        torch.manual_seed(0)
        towers.append(FeatureItemTower(ITEMS, DIM, True, {name: arrays[name] for name in names}, None, 0.0))
    ids = torch.arange(ITEMS + 1)
    assert torch.equal(towers[0](ids), towers[1](ids))


@pytest.mark.parametrize("part", ["codes", "values"])
def test_either_form_alone_will_do(part: str) -> None:
    arrays = {n: a for n, a in random_features(1).items() if n.endswith(("codes", "offsets")) == (part == "codes")}
    torch.manual_seed(0)
    tower = FeatureItemTower(ITEMS, DIM, False, arrays, None, 0.0)
    ids = torch.arange(1, ITEMS + 1)
    assert tower(ids).shape == (ITEMS, DIM)
    assert (tower(ids) - tower.embedding(ids)).norm(dim=1).gt(1e-3).all()
    assert len(list(tower.parameters())) == 2


@pytest.mark.parametrize("normalize", [True, False])
def test_padding_is_the_zero_vector_and_stays_it(normalize: bool) -> None:
    tower = FeatureItemTower(ITEMS, DIM, normalize, random_features(2), None, 0.0)
    vectors = tower(torch.tensor([[PAD, 3, PAD], [PAD, PAD, PAD]]))
    vectors.sum().backward()
    assert not vectors[0, 0].any()
    assert not vectors[1].any()
    assert vectors[0, 1].any()
    assert not tower.embedding.weight.grad[PAD].any()
    assert tower(torch.empty(0, 4, dtype=torch.long)).shape == (0, 4, DIM)


def test_the_data_is_no_part_of_the_checkpoint() -> None:
    tower = FeatureItemTower(ITEMS, DIM, True, random_features(0), None, 0.0)
    assert set(tower.state_dict()) == {"embedding.weight", "bags.weight", "linear.weight", "warm"}
    moved = tower.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}, "but goes where the model goes"


def test_items_of_equal_features_and_ids_without_history_are_one(make_tower) -> None:
    """What the features say is all that distinguishes items whose own vectors say nothing."""
    arrays = random_features(0)
    arrays["genre.codes"], arrays["genre.offsets"] = np.arange(ITEMS) // 2 % 7, np.arange(ITEMS + 1)
    tower = FeatureItemTower(ITEMS, DIM, True, {n: arrays[n] for n in ("genre.codes", "genre.offsets")}, None, 0.0)
    torch.nn.init.zeros_(tower.embedding.weight)
    vectors = tower(torch.arange(1, 15))
    torch.testing.assert_close(vectors[::2], vectors[1::2])
    assert (vectors[0] - vectors[2]).norm() > 0.1


def test_every_tower_is_told_of_the_features_and_one_needs_some() -> None:
    assert len(list(IdItemTower(5, 4, True, item_features=random_features(0)).buffers())) == 0
    with pytest.raises(UserError, match=r"preparation\.features\.items"):
        FeatureItemTower(5, 4, True, {}, None, 0.0)


def test_vectors_without_own_part_are_those_of_the_features_alone() -> None:
    """Dropped in training about as often as told, in evaluation never; and nothing flows into the own vector."""
    arrays = random_features(3)
    tower = FeatureItemTower(ITEMS, DIM, False, arrays, hash_buckets=None, id_dropout=0.3)
    ids = torch.arange(1, ITEMS + 1)
    whole = torch.stack([by_loop(tower, arrays, i) for i in ids.tolist()])
    alone = whole - tower.embedding.weight[1:]
    dropped = 0
    for seed in range(200):
        torch.manual_seed(seed)
        tower.zero_grad()
        vectors = tower(ids)
        is_alone = torch.isclose(vectors, alone, atol=1e-5).all(dim=1)
        expected = torch.where(is_alone[:, None], alone, whole)
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
        vectors.sum().backward()
        assert tower.embedding.weight.grad[1:].any(dim=1).tolist() == (~is_alone).tolist()
        dropped += int(is_alone.sum())
    draws = 200 * ITEMS
    assert abs(dropped / draws - 0.3) < 4 * (0.3 * 0.7 / draws) ** 0.5
    torch.testing.assert_close(tower.eval()(ids), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("hash_buckets", [None, 9])
def test_cold_items_have_the_vectors_of_their_features_alone(training: bool, hash_buckets: int | None) -> None:
    """Whatever stands in the table, and in a copy that has but the checkpoint, too."""
    arrays = random_features(4)
    towers = [
        FeatureItemTower(ITEMS, DIM, True, arrays, hash_buckets, id_dropout=0.0).train(training) for _ in range(2)
    ]
    counts = torch.arange(ITEMS + 1) % 3  # items 3, 6, 9, ... are cold
    towers[0].begin_training(counts)
    towers[1].load_state_dict(towers[0].state_dict())
    ids = torch.arange(1, ITEMS + 1)
    cold = ids % 3 == 0
    for tower in towers:
        before = tower(ids)
        with torch.no_grad():
            tower.embedding.weight[1:] += torch.randn(len(tower.embedding.weight) - 1, DIM)
        after = tower(ids)
        assert torch.equal(before[cold], after[cold])
        assert (before[~cold] - after[~cold]).norm(dim=1).gt(1e-3).all()
        direction = torch.randn(int(cold.sum()), DIM)
        (own,) = torch.autograd.grad((tower(ids[cold]) * direction).sum(), [tower.embedding.weight])
        assert not own.any()


@pytest.mark.parametrize("share", [-0.1, 1.0, 3])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="id_dropout"):
        FeatureItemTower(ITEMS, DIM, True, random_features(0), hash_buckets=None, id_dropout=share)


def splitmix64(counter: int) -> int:
    """In Python's own integers."""
    x = (counter + 0x9E3779B97F4A7C15) % 2**64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_the_hash_is_the_published_one_and_stays_what_it_is() -> None:
    """Its first output from seed 0 is known; a stored model depends on these rows."""
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    rows = hashed_rows(1000, 37)
    assert rows.shape == (1001, 2)
    assert rows[0].tolist() == [PAD, PAD]
    for item in range(1, 1001):
        assert rows[item].tolist() == [splitmix64(2 * item + k) % 37 + 1 for k in range(2)]


def test_hashes_fill_the_table_evenly_and_collide_independently() -> None:
    items, buckets = 100_000, 500
    rows = hashed_rows(items, buckets)[1:]
    for column in rows.T:
        counts = np.bincount(column, minlength=buckets + 1)
        assert counts[0] == 0
        assert len(counts) == buckets + 1
        chi_square = ((counts[1:] - items / buckets) ** 2 / (items / buckets)).sum()
        assert abs(chi_square - (buckets - 1)) < 5 * (2 * (buckets - 1)) ** 0.5
    for first, second in ((0, 1), (1, 0)):  # of the pairs that share one row, as many as of any share the other, too
        order = np.argsort(rows[:, first], kind="stable")
        pairs = rows[order[:-1], first] == rows[order[1:], first]
        both = (rows[order[:-1], second] == rows[order[1:], second])[pairs].sum()
        expected = pairs.sum() / buckets
        assert abs(both - expected) < 5 * expected**0.5
    assert abs((rows[:, 0] == rows[:, 1]).sum() - items / buckets) < 5 * (items / buckets) ** 0.5


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_a_hashed_vector_is_the_sum_of_its_two_rows(normalize: bool, sparse: bool) -> None:
    torch.manual_seed(0)
    tower = IdItemTower(50, DIM, normalize, hash_buckets=7)
    tower.embedding.sparse = sparse
    assert sum(p.numel() for p in tower.parameters()) == 8 * DIM
    ids = torch.tensor([[1, 50, PAD], [17, 17, 3]])
    rows = [
        [[0, 0] if i == PAD else [splitmix64(2 * i + k) % 7 + 1 for k in range(2)] for i in r] for r in ids.tolist()
    ]
    expected = tower.embedding.weight[torch.tensor(rows)].sum(dim=2)
    expected = F.normalize(expected, dim=-1) if normalize else expected
    vectors = tower(ids)
    torch.testing.assert_close(vectors, expected)
    assert not vectors[0, 2].any()
    direction = torch.randn(2, 3, DIM)
    computed, reference = (
        torch.autograd.grad((v * direction).sum(), [tower.embedding.weight])[0] for v in (vectors, expected)
    )
    assert computed.is_sparse == sparse
    torch.testing.assert_close(computed.to_dense()[1:], reference[1:])
    assert not computed.to_dense()[PAD].any()
    if sparse:
        assert PAD not in computed.coalesce().indices()


def test_hashed_vectors_begin_about_as_long_as_others() -> None:
    torch.manual_seed(0)
    for buckets in (None, 400):
        vectors = IdItemTower(500, 64, False, hash_buckets=buckets)(torch.arange(1, 501))
        assert vectors.norm(dim=1).square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("buckets", [0, -1, 5, 9])
def test_a_table_that_saves_nothing_is_refused(buckets: int) -> None:
    with pytest.raises(UserError, match="hash_buckets"):
        IdItemTower(5, 4, True, hash_buckets=buckets)
