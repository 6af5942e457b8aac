"""TwoTowerModule: steps by hand, and that towers learn what the data allows and nothing else."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from twotower.core.schema import Prepared
from twotower.data.loader import query_loader, training_loader
from twotower.model.negatives import MixtureNegatives

HELD_OUT = 2  # the last events of each session validate


def split(make_prepared, sessions: list[list[int]], num_items: int, **kwargs) -> Prepared:
    return make_prepared(sessions, [max(0, len(s) - HELD_OUT) for s in sessions], num_items=num_items, **kwargs)


def walks(successor: np.ndarray, sessions: int, length: int, seed: int) -> list[list[int]]:
    """Sessions that follow `successor` (1-based items) from a random start."""
    random = np.random.default_rng(seed)
    result = []
    for _ in range(sessions):
        session = [int(random.integers(1, len(successor) + 1))]
        while len(session) < length:
            session.append(int(successor[session[-1] - 1]))
        result.append(session)
    return result


def learn(make_module, make_trainer, prepared: Prepared, tower: str, epochs: int, **kwargs) -> dict[str, float]:
    """Train and return the last validation's metrics."""
    how = {"inputs": kwargs.pop("inputs", ()), "target_weights": kwargs.pop("target_weights", None)}
    loader = training_loader(prepared, 8, 128, seed=0, **how)
    module = make_module(loader, tower, epochs, **kwargs)
    trainer = make_trainer(epochs)
    trainer.fit(module, loader, query_loader(prepared, "validation", 8, 256, **how))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "normalize", "uniform"),
    [("transformer", True, 0), ("gru", False, 12)],
)
def test_a_fixed_successor_is_learnt(make_prepared, make_module, make_trainer, tower, normalize, uniform) -> None:
    successor = np.random.default_rng(0).permutation(30) + 1
    prepared = split(make_prepared, walks(successor, 250, 9, seed=1), 30)
    metrics = learn(make_module, make_trainer, prepared, tower, 8, normalize=normalize, uniform=uniform)
    assert metrics["val/recall_at_1"] >= 0.99


@pytest.mark.parametrize("tower", ["transformer", "gru", "mean_pool"])
def test_random_targets_are_not_foreseen(make_prepared, make_module, make_trainer, tower: str) -> None:
    """The control: what a tower that sees its target would be caught at."""
    random = np.random.default_rng(2)
    sessions = random.integers(1, 31, size=(250, 9)).tolist()
    prepared = split(make_prepared, sessions, 30)
    metrics = learn(make_module, make_trainer, prepared, tower, 4)
    chance, queries = 1 / 30, 250 * HELD_OUT
    assert metrics["val/recall_at_1"] < chance + 5 * math.sqrt(chance * (1 - chance) / queries)


def test_a_bag_of_items_tells_the_mean_tower_the_cluster(make_prepared, make_module, make_trainer) -> None:
    random = np.random.default_rng(3)
    clusters = random.permutation(40).reshape(5, 8) + 1
    sessions = [random.choice(clusters[random.integers(5)], size=9).tolist() for _ in range(250)]
    prepared = split(make_prepared, sessions, 40)
    metrics = learn(make_module, make_trainer, prepared, "mean_pool", 6, ks=(1, 8))
    assert metrics["val/recall_at_8"] >= 0.99
    assert metrics["val/recall_at_1"] < 0.3  # one of eight at random


QUERIES = (([1], 2), ([1, 2], 3), ([1, 2, 3], 4), ([5], 1), ([2], 2), ([2, 2], 6))  # of the sessions below
SESSIONS = [[1, 2, 3, 4], [5, 1], [2, 2, 6]]


@pytest.mark.parametrize(("features", "tied"), [(False, True), (True, True), (False, False)])
def test_a_training_step_is_the_mean_cross_entropy_over_all_positions(
    make_prepared, make_module, monkeypatch, features: bool, tied: bool
) -> None:
    arrays = {"a.codes": np.array([1, 2, 0, 1, 1, 3, 3, 2]), "a.offsets": np.array([0, 1, 2, 3, 4, 5, 7, 8])}
    prepared = make_prepared(SESSIONS, num_items=7, item_features=arrays)
    loader = training_loader(prepared, 3, 100, seed=0)
    module = make_module(loader, "gru", 1, features=features, tied=tied)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    (batch,) = list(loader)
    losses = []
    for history, target in QUERIES:
        user = module.model(torch.tensor([history]), torch.zeros(1, len(history), 0, dtype=torch.long))
        scores = user @ module.model.encode_items().T / module.temperature
        losses.append(F.cross_entropy(scores, torch.tensor([target - 1])).item())
    assert module.training_step(batch, 0).item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_matryoshka_step_is_the_mean_over_the_sizes(make_prepared, make_module, monkeypatch, normalize: bool) -> None:
    """Each size by hand: vectors cut, of length one again where they were before, all items scored."""
    loader = training_loader(make_prepared(SESSIONS, num_items=7), 3, 100, seed=0)
    module = make_module(loader, "gru", 1, dim=6, normalize=normalize, matryoshka=[2, 3])
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    (batch,) = list(loader)
    losses = []
    for history, target in QUERIES:
        user = module.model(torch.tensor([history]), torch.zeros(1, len(history), 0, dtype=torch.long))
        for dim in (2, 3, 6):
            cut = [vectors[:, :dim] for vectors in (user, module.model.encode_items())]
            scores = F.cosine_similarity(*cut)[None] if normalize else cut[0] @ cut[1].T
            losses.append(F.cross_entropy(scores / module.temperature, torch.tensor([target - 1])).item())
    assert module.training_step(batch, 0).item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_validation_ranks_by_each_size(make_prepared, make_module, make_trainer, normalize: bool) -> None:
    random = np.random.default_rng(5)
    sessions = random.integers(1, 21, size=(40, 6)).tolist()
    prepared = split(make_prepared, sessions, 20)
    module = make_module(
        training_loader(prepared, 8, 64, seed=0), "gru", 1, normalize=normalize, ks=(20,), matryoshka=[2, 4]
    )
    loader = query_loader(prepared, "validation", 8, 100)
    (metrics,) = make_trainer(1).validate(module, loader, verbose=False)
    assert make_trainer(1).validate(module, loader, verbose=False) == [pytest.approx(metrics)], "sums start anew"
    module.eval()
    gains = {2: [], 4: [], 16: []}
    with torch.no_grad():
        for session in sessions:
            for position in (4, 5):
                history = torch.tensor([session[:position]])
                user = module.model(history, torch.zeros(1, position, 0, dtype=torch.long))
                for dim, values in gains.items():
                    cut = [vectors[:, :dim] for vectors in (user, module.model.encode_items())]
                    scores = F.cosine_similarity(*cut) if normalize else (cut[0] @ cut[1].T)[0]
                    values.append(1 / (1 + int((scores > scores[session[position] - 1]).sum())))
    assert metrics["val/mrr_at_20"] == pytest.approx(np.mean(gains[16]))
    assert metrics["val/mrr_at_20_dim_2"] == pytest.approx(np.mean(gains[2]))
    assert metrics["val/mrr_at_20_dim_4"] == pytest.approx(np.mean(gains[4]))
    assert len({round(np.mean(values), 6) for values in gains.values()}) == 3, "the sizes differ, so none stands in"


@pytest.mark.slow
def test_metrics_by_type_of_lists_that_were_asked_for(make_prepared, make_module, make_trainer) -> None:
    """One event in three is a purchase, of the item just seen; a view is never of it: only who asks can know which."""
    random = np.random.default_rng(0)
    sessions, types = [], []
    for _ in range(400):
        items = [int(random.integers(1, 31))]
        kinds = [0]
        while len(items) < 9:
            kinds.append(int(random.random() < 1 / 3))
            other = (items[-1] + int(random.integers(1, 30)) - 1) % 30 + 1
            items.append(items[-1] if kinds[-1] else other)
        sessions.append(items)
        types.append(kinds)
    ends = [len(s) - 2 for s in sessions]
    prepared = make_prepared(sessions, train=ends, num_items=30, types=types, event_types=["view", "purchase"])
    loader, validation = training_loader(prepared, 8, 64, seed=0), query_loader(prepared, "validation", 8, 256)
    module, trainer = make_module(loader, "gru", 8, ks=(1,), asks=True), make_trainer(8)
    trainer.fit(module, loader, validation)
    (metrics,) = trainer.validate(module, validation, verbose=False)
    assert metrics["val/purchase/recall_at_1_asked"] > 0.95
    assert metrics["val/view/recall_at_1_asked"] < 0.1
    assert "val/recall_at_1_asked" not in metrics


def timed_sessions(target_delay) -> tuple[list[list[int]], list[list[int]]]:
    """Sessions of five events and a target, with their times in milliseconds; only the target's depend on the delay."""
    random = np.random.default_rng(1)
    sessions = [random.integers(1, 12, 6).tolist() for _ in range(20)]
    times = [1_700_000_000_000 + np.exp2(random.uniform(10, 28, 5)).astype(int).cumsum() for _ in sessions]
    return sessions, [[*row.tolist(), int(row[-1]) + target_delay(i)] for i, row in enumerate(times)]


def test_headline_ranks_know_nothing_of_the_target_time(make_prepared, make_module, make_trainer) -> None:
    """Metrics at the target's time, apart, are those of one forward pass a query at that time."""
    found = []
    for delay in (lambda i: 1000, lambda i: 10**6 * 3**i):
        sessions, times = timed_sessions(delay)
        prepared = make_prepared(sessions, train=[5] * 20, num_items=12, timestamps=times)
        module = make_module(
            training_loader(prepared, 8, 64, seed=0, inputs=["time"]), "timed_transformer", 1, query_time=True, ks=(20,)
        )
        torch.manual_seed(5)
        for parameter in module.model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        loader = query_loader(prepared, "validation", 8, 40, inputs=["time"])
        trainer = make_trainer(1)
        (metrics,) = trainer.validate(module, loader, verbose=False)
        assert trainer.validate(module, loader, verbose=False) == [pytest.approx(metrics)], "sums start anew"
        found.append(metrics)
        module.eval()
        gains = {"": [], "_at_time": []}
        for session, row in zip(sessions, times, strict=True):
            items, seconds = torch.tensor([session[:5]]), torch.tensor([[[time // 1000] for time in row[:5]]])
            for name, now in (("", None), ("_at_time", torch.tensor([row[5] // 1000]))):
                with torch.no_grad():
                    (user,), (logits,) = module.model.with_pointer(items, seconds, now=now)
                    scores = (module.model.encode_items() @ user).double() / module.temperature
                for item in set(session[:5]):
                    scores[item - 1] += logits[items[0] == item].double().exp().sum().log()
                gains[name].append(1 / (1 + int((scores > scores[session[5] - 1]).sum())))
        for name, values in gains.items():
            assert metrics[f"val/mrr_at_20{name}"] == pytest.approx(np.mean(values))
    headline = [{name: value for name, value in each.items() if not name.endswith("_at_time")} for each in found]
    assert headline[0] == headline[1] and len(headline[0]) == 3
    assert found[0]["val/mrr_at_20_at_time"] != found[1]["val/mrr_at_20_at_time"]


def test_a_step_trains_what_the_time_of_the_query_changes(make_prepared, make_module, monkeypatch) -> None:
    """Half of the positions are asked at once: their loss is that of a step that knows no time of a target."""
    sessions, times = timed_sessions(lambda i: 10**7)
    prepared = make_prepared(sessions, num_items=12, timestamps=times)
    loader = training_loader(prepared, 8, 1000, seed=0, inputs=["time"])
    module = make_module(loader, "timed_transformer", 1, query_time=True)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    (batch,) = list(loader)
    told = []
    encode = module.model.encode_positions
    monkeypatch.setattr(module.model, "encode_positions", lambda *args: told.append(args[-1]) or encode(*args))
    module.training_step(batch, 0).backward()
    assert module.model.pointer.age.bias.grad.abs().sum() > 0
    (now,) = told
    is_known = now != 0
    assert torch.equal(now[is_known], batch.target_time[is_known])
    assert 0.3 < float(is_known[batch.target != 0].float().mean()) < 0.7


def test_the_whole_catalogue_is_encoded_as_the_distinct_items_are(make_prepared, make_module, monkeypatch) -> None:
    """Negatives are all items: the step that takes them as they come gives the gradients of one that looks each up."""
    arrays = {"a.codes": np.arange(7), "a.offsets": np.arange(8), "b.values": np.ones((7, 2), np.float32)}
    loader = training_loader(make_prepared(SESSIONS, num_items=7, item_features=arrays), 3, 100, seed=0)
    module = make_module(loader, "gru", 1, features=True)
    (batch,) = list(loader)
    target, negative = batch.target[batch.target != 0], torch.arange(1, 8)
    gradients = []
    for num_items in (7, 8):  # with eight items, seven are some of them
        module.zero_grad()
        monkeypatch.setattr(module.model.item_tower, "num_items", num_items)
        history, targets, negatives = module._vectors(batch.item_index, target, negative)
        for vectors, ids in ((history, batch.item_index), (targets, target), (negatives, negative)):
            torch.testing.assert_close(vectors, module.model.item_tower(ids))
        (history.cumsum(1).sin().sum() + targets.cos().sum() + negatives.exp().sum()).backward()
        gradients.append([p.grad.clone() for p in module.model.item_tower.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
        assert one.any()


def test_a_step_weighs_its_targets_and_pushes_the_negative_ones_down(make_prepared, make_module, monkeypatch) -> None:
    """By hand, from probabilities: views weigh 1, buys 3, what is removed is unlikely with weight 2, a look nothing."""
    types = [[0, 1, 2, 3], [0, 2], [1, 0, 1]]
    hours = [[3, 1, 2, 0], [0, 3], [2, 2, 1]]
    names = ("view", "buy", "remove", "look")
    prepared = make_prepared(SESSIONS, num_items=7, types=types, event_types=names, inputs={"hour": hours})
    weights = {"buy": 3, "remove": -2, "look": 0}
    loader = training_loader(prepared, 3, 100, seed=0, inputs=["hour"], target_weights=weights)
    module = make_module(loader, "gru", 1)
    torch.nn.init.normal_(module.model.event_inputs.embeddings[0].weight)
    monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
    (batch,) = list(loader)
    codes = [hours[0][:1], hours[0][:2], hours[0][:3], hours[1][:1], hours[2][:1], hours[2][:2]]
    kinds = [1, 2, 3, 2, 0, 1]
    total, size = 0.0, 0.0
    for (history, target), code, kind in zip(QUERIES, codes, kinds, strict=True):
        user = module.model(torch.tensor([history]), torch.tensor([code])[:, :, None])
        share = (user @ module.model.encode_items().T / module.temperature).softmax(1)[0, target - 1].item()
        total += {0: -math.log(share), 1: -3 * math.log(share), 2: -2 * math.log(1 - share), 3: 0.0}[kind]
        size += (1, 3, 2, 0)[kind]
    assert module.training_step(batch, 0).item() == pytest.approx(total / size, rel=1e-5)


def test_negatives_are_drawn_by_targets_of_either_sign(make_prepared, make_module) -> None:
    """What log_q is made of: the share of each item among all that a step's targets can be."""
    prepared = make_prepared([[1, 2, 3, 3]] * 4, types=[[0, 0, 1, 2]] * 4, event_types=("view", "remove", "look"))
    loader = training_loader(prepared, 5, 100, seed=0, target_weights={"remove": -1, "look": 0})
    assert loader.target_counts().tolist() == [0, 0, 4, 4]
    (batch,) = list(loader)
    assert batch.target[batch.target_weight != 0].bincount().tolist() == [0, 0, 4, 4]
    log_miss = make_module(loader, "gru", 1, uniform=1).negatives.log_miss
    assert log_miss.exp().tolist() == pytest.approx([1, 1, 0.5, 0.5])


@pytest.mark.slow
@pytest.mark.parametrize("uniform", [0, 15])
def test_a_removed_item_is_pushed_down_as_far_as_its_weight_says(
    make_prepared, make_module, make_trainer, uniform: int
) -> None:
    """After item 1 come in equal parts a view of 2, a view of 3 and a removal of 3, whose weight is w.

    With p the probability of 3 and 1 - p that of 2, the loss -log(1 - p) - log(p) + w log(1 - p) of a negative w is
    least at p = 1 / (2 - w), and -log(1 - p) - log(p) - w log(p) of a positive one at p = (1 + w) / (2 + w).
    """
    others = np.random.default_rng(0).integers(4, 21, size=(450, 2)).tolist()
    sessions = [[*pair, 1, (2, 3, 3)[i % 3]] for i, pair in enumerate(others)]
    types = [[0, 0, 0, (0, 0, 1)[i % 3]] for i in range(450)]
    prepared = make_prepared(sessions, [4] * 449 + [3], num_items=20, types=types, event_types=("view", "remove"))
    for weight, expected in ((1, 2 / 3), (0, 1 / 2), (-1, 1 / 3), (-3, 1 / 5)):
        loader = training_loader(prepared, 8, 128, seed=0, target_weights={"remove": weight})
        module = make_module(loader, "gru", 8, uniform=uniform)
        make_trainer(8).fit(module, loader, query_loader(prepared, "validation", 8, 128))
        module.eval()
        with torch.no_grad():
            user = module.model(torch.tensor([[5, 1]]), torch.zeros(1, 2, 0, dtype=torch.long))
            scores = (user @ module.model.encode_items().T / module.temperature)[0]
        assert scores.softmax(0)[2].item() == pytest.approx(expected, abs=0.07), weight
    assert isinstance(module.negatives, MixtureNegatives) == bool(uniform)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["transformer", "gru"])
def test_an_event_input_tells_what_the_items_can_not(make_prepared, make_module, make_trainer, tower: str) -> None:
    """The next item is drawn; the code of the event before it says which."""
    random = np.random.default_rng(6)
    sessions = random.integers(1, 13, size=(300, 9))
    codes = np.concatenate([sessions[:, 1:], np.zeros((300, 1), int)], axis=1)
    inputs = {"noise": random.integers(0, 5, size=(300, 9)).tolist(), "next": codes.tolist()}
    prepared = split(make_prepared, sessions.tolist(), 12, inputs=inputs)
    blind = learn(make_module, make_trainer, prepared, tower, 2)
    assert blind["val/recall_at_1"] < 0.25
    informed = learn(make_module, make_trainer, prepared, tower, 8, inputs=["noise", "next"])
    assert informed["val/recall_at_1"] >= 0.98


@pytest.mark.slow
def test_features_tell_of_items_that_were_never_seen(make_prepared, make_module, make_trainer) -> None:
    """Each session stays in one of four categories; the targets of validation occur in no training event."""
    random = np.random.default_rng(7)
    category = random.permutation(np.arange(80) % 4)
    seen, fresh = np.flatnonzero(np.arange(80) % 5), np.flatnonzero(np.arange(80) % 5 == 0)
    sessions = []
    for i in range(400):
        own = category == i % 4
        session = (
            random.choice(seen[own[seen]], size=6).tolist() + random.choice(fresh[own[fresh]], size=HELD_OUT).tolist()
        )
        sessions.append([item + 1 for item in session])
    arrays = {"category.codes": category + 1, "category.offsets": np.arange(81)}
    prepared = split(make_prepared, sessions, 80, item_features=arrays)
    by_id = learn(make_module, make_trainer, prepared, "mean_pool", 5, ks=(20,))
    by_feature = learn(make_module, make_trainer, prepared, "mean_pool", 5, ks=(20,), features=True)
    assert by_id["val/recall_at_20"] < 0.3
    assert by_feature["val/recall_at_20"] > by_id["val/recall_at_20"] + 0.3


def test_a_step_without_targets_costs_nothing_and_moves_nothing(make_prepared, make_module, monkeypatch) -> None:
    """What a rank with no row of a batch computes, so that all ranks take the same steps."""
    arrays = {"a.codes": np.arange(7), "a.offsets": np.arange(8), "b.values": np.ones((7, 2), np.float32)}
    sessions = [[1, 2, 3, 4], [5, 1]]
    prepared = make_prepared(sessions, num_items=7, inputs={"hour": sessions}, item_features=arrays)
    loader = training_loader(prepared, 3, 100, seed=0, inputs=["hour"])
    for uniform in (0, 3):
        module = make_module(loader, "transformer", 1, uniform=uniform, features=uniform > 0)
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        (batch,) = list(loader)
        nothing = {"target": torch.zeros_like(batch.target), "target_weight": torch.zeros_like(batch.target_weight)}
        loss = module.training_step(batch._replace(**nothing), 0)
        loss.backward()
        assert loss.item() == 0.0
        for name, parameter in module.model.named_parameters():
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


@pytest.mark.parametrize(
    ("normalize", "inputs", "tied"), [(True, [], True), (False, ["a", "b"], True), (True, [], False)]
)
def test_validation_ranks_each_query_as_serving_would(
    make_prepared, make_module, make_trainer, normalize: bool, inputs: list[str], tied: bool
) -> None:
    """Each query alone, its last events through the model, all items sorted; what is removed is no query."""
    random = np.random.default_rng(4)
    sessions = [random.integers(1, 21, size=random.integers(1, 14)).tolist() for _ in range(40)]
    types = [[i % 4 for i in s] for s in sessions]
    codes = {name: [[(i * n) % 7 for i in s] for s in sessions] for n, name in ((3, "a"), (2, "b"))}
    names = ("view", "buy", "remove", "look")
    prepared = split(make_prepared, sessions, 20, types=types, event_types=names, inputs=codes)
    max_length, k = 4, 5
    how = {"inputs": inputs, "target_weights": {"remove": -1, "look": 0, "view": 0.1}}
    loader = training_loader(prepared, max_length, 64, seed=0, **how)
    module = make_module(loader, "transformer", 1, normalize=normalize, ks=(k,), dropout=0.5, tied=tied)
    for embedding in module.model.event_inputs.embeddings:
        torch.nn.init.normal_(embedding.weight)
    trainer = make_trainer(1)
    (metrics,) = trainer.validate(module, query_loader(prepared, "validation", max_length, 30, **how), verbose=False)
    (again,) = trainer.validate(module, query_loader(prepared, "validation", max_length, 300, **how), verbose=False)
    assert again == pytest.approx(metrics, abs=1e-6), "sums start anew, and batches make no difference"

    module.eval()
    hits: dict[int, list[bool]] = {0: [], 1: [], 2: [], 3: []}
    with torch.no_grad():
        for s, (session, kinds) in enumerate(zip(sessions, types, strict=True)):
            for position in range(max(1, len(session) - HELD_OUT), len(session)):
                first = max(0, position - max_length)
                history = torch.tensor([session[first:position]])
                known = [[codes[name][s][p] for name in inputs] for p in range(first, position)]
                user = module.model(history, torch.tensor(known, dtype=torch.long)[None])
                scores = (user @ module.model.encode_items().T)[0].tolist()
                ranking = sorted(range(1, 21), key=lambda item, scores=scores: -scores[item - 1])
                hits[kinds[position]].append(session[position] in ranking[:k])
    assert metrics[f"val/recall_at_{k}"] == pytest.approx(np.mean(hits[0] + hits[1]), abs=1e-6)
    assert metrics[f"val/view/recall_at_{k}"] == pytest.approx(np.mean(hits[0]), abs=1e-6)
    assert metrics[f"val/buy/recall_at_{k}"] == pytest.approx(np.mean(hits[1]), abs=1e-6)
    assert hits[2]
    assert hits[3]
    assert not {name for name in metrics if "remove" in name or "look" in name}
