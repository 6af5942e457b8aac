"""Warm start on data that has changed: what both models know, both encode alike; the rest begins as documented."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from composed import composed
from omegaconf import DictConfig

from twotower.commands.train import train
from twotower.core.errors import UserError
from twotower.core.schema import Prepared, read_item_features
from twotower.features.encoder import encode_single
from twotower.runs.build import build_model
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.run import Run, lineage, load_run, run_of_bundle
from twotower.training import pipeline
from twotower.training.prepare import prepare
from twotower.training.warm_start import WarmStart, place_new_items

Configure = Callable[..., DictConfig]
TINY = ["data=events", "model.dim=8", "trainer.max_epochs=1", "positions_per_batch=256", "evaluation.replicates=0"]
TINY += ["trainer.accelerator=cpu", "logger=none", "name=tiny", "evaluation.baselines=false", "model/objective=by_type"]
TINY += ["model/item_tower=features", "model.inputs=[event_type,hour,device]"]
FEATURES = ["+preparation.features.items.brand={kind: categorical}", "+preparation.features.items.tags={kind: multi}"]
FEATURES += ["+preparation.features.items.price={kind: numeric, standardise: true}"]
FEATURES += ["+preparation.features.events.device={kind: categorical}"]

pytestmark = pytest.mark.usefixtures("quiet")


def write_shop(folder: Path, first: int, items: int, types: list[str], devices: list[str]) -> None:
    """Events and items `first` .. `first` + `items` of a shop; equal items have equal features in all shops."""
    folder.mkdir()
    random = np.random.default_rng(first)
    sessions = 150
    rows = [
        {
            "session_id": s,
            "item_id": f"sku {first + int(random.integers(items))}",
            "event_type": types[int(random.integers(len(types)))],
            "device": devices[int(random.integers(len(devices)))],
            "timestamp": 1_700_000_000_000 + s * 3_600_000 + place * 60_000,
        }
        for s in range(sessions)
        for place in range(int(random.integers(2, 9)))
    ]
    pl.DataFrame(rows).write_parquet(folder / "events.parquet")
    numbers = range(first, first + items)
    table = {
        "item_id": [f"sku {n}" for n in numbers],
        "brand": [f"brand {n // 4}" for n in numbers],
        "tags": [[f"tag {n % 5}", f"tag {n % 7 + 5}"] for n in numbers],
        "price": [float(n % 9) if n % 10 else None for n in numbers],
    }
    pl.DataFrame(table).write_parquet(folder / "items.parquet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder / "yesterday", 0, 30, ["cart", "view"], ["desktop", "phone"])
    write_shop(folder / "today", 6, 30, ["cart", "purchase", "view"], ["phone", "tablet"])
    return folder


@pytest.fixture(scope="module")
def configure(shop: Path) -> Configure:
    def make(day: str, run: str, *overrides: str) -> DictConfig:
        files = [f"data.path={shop / day / 'events.parquet'}", f"data.items={shop / day / 'items.parquet'}"]
        config = composed(*TINY, *FEATURES, *files, *overrides)
        config.run_dir, config.prepared_root = str(shop / "runs" / "now" / run), str(shop / "prepared")
        return config

    return make


@pytest.fixture(scope="module")
def yesterday(configure: Configure) -> Run:
    return load_run(train(configure("yesterday", "old", "refit=false")))


def begun(configure: Configure, yesterday: Run, *overrides: str) -> tuple[Run, Prepared]:
    """A model for today's data that begins from yesterday's, and is not trained."""
    config = configure("today", "begun", *overrides)
    path = Path(config.run_dir)
    shutil.rmtree(path, ignore_errors=True)
    (path / "checkpoints").mkdir(parents=True)
    prepared = prepare(config.data, None)
    model = build_model(config.model, prepared.manifest, read_item_features(prepared.path))
    random = torch.get_rng_state()
    WarmStart(model, str(yesterday.path), config.model, prepared, path).load(prepared.training_mask(True))
    assert torch.equal(torch.get_rng_state(), random), "draws are those of a run that is resumed"
    return Run(path, config, prepared.manifest, {}, model.eval()), prepared


def ids_of(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(path / "catalogue.parquet")["item_id"].to_pylist()
    return ids


def test_what_both_know_both_encode_alike(configure: Configure, yesterday: Run) -> None:
    today, prepared = begun(configure, yesterday)
    old_ids, new_ids = ids_of(yesterday.path), ids_of(prepared.path)
    both = sorted(set(old_ids) & set(new_ids))
    assert 10 < len(both) < len(new_ids)
    in_old, in_new = ([ids.index(name) + 1 for name in both] for ids in (old_ids, new_ids))
    for tower in (yesterday.model.item_tower, today.model.item_tower):
        tower.warm.fill_(True)
    with torch.no_grad():
        for run in (yesterday, today):
            run.model.item_tower.linear.weight.zero_()  # prices have other moments: tests/features/test_matching.py
    old, new = (m.model.item_tower(torch.tensor(i)) for m, i in ((yesterday, in_old), (today, in_new)))
    torch.testing.assert_close(old, new)
    features = [json.loads((path / "features.json").read_text()) for path in (yesterday.path, prepared.path)]
    for objective in (None, "cart", "view"):
        users = []
        for run, facts, items in zip((yesterday, today), features, (in_old, in_new), strict=True):
            types = dict(zip(facts["event_types"], facts["input_types"], strict=True))
            device = encode_single(facts["events"]["device"], ["phone", "phone", None]).tolist()
            inputs = [[types["view"], 5, device[0]], [types["cart"], 20, device[1]], [types["view"], 1, device[2]]]
            asked = 0 if objective is None else 1 + facts["event_types"].index(objective)
            history = torch.tensor([items[:3]]), torch.tensor([inputs]), torch.tensor([asked])
            users.append(run.model.with_pointer(*history))
        torch.testing.assert_close(users[0][0], users[1][0])
        torch.testing.assert_close(users[0][1], users[1][1])


def test_the_report_counts_what_is_kept_new_and_gone(configure: Configure, yesterday: Run) -> None:
    today, prepared = begun(configure, yesterday)
    told = json.loads((today.path / "warm_start.json").read_text())
    old, new = set(ids_of(yesterday.path)), set(ids_of(prepared.path))
    assert told["tables"]["items"] == {"kept": len(old & new), "new": len(new - old), "gone": len(old - new)}
    assert told["tables"]["event types"] == {"kept": 3, "new": 1, "gone": 0}, "unknown, cart and view; purchase"
    assert told["tables"]["values of device"] == {"kept": 3, "new": 1, "gone": 1}, "null, others and phone"
    assert told["tables"]["values of brand"]["new"] == 1 and told["tables"]["values of hour"]["kept"] == 25
    assert told["data_fingerprint"] == yesterday.data["fingerprint"] and told["before"] is None


def test_new_items_begin_where_their_neighbours_are(configure: Configure, make_prepared: Any) -> None:
    prepared = make_prepared([[1, 4, 2], [4], [2, 5], [3, 4, 4, 1]], train=[3, 1, 2, 3], num_items=6)
    table = torch.nn.Embedding(7, 2, padding_idx=0)
    tower = torch.nn.Module()
    tower.embedding = table
    before = table.weight.detach().clone()
    is_new = np.array([True, False, False, False, True, True, True])
    place_new_items(tower, is_new, prepared, prepared.training_mask(False))
    expected = before.clone()
    expected[4] = (before[1] + before[2] + before[3]) / 3  # the last session's end is not for training
    expected[5] = before[2]
    torch.testing.assert_close(table.weight.detach(), expected)


@pytest.mark.slow
def test_a_run_goes_on_from_the_same_start_when_its_source_has_gone(
    configure: Configure, yesterday: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(yesterday.path, tmp_path / "source")
    config = configure("today", "killed", f"warm_start={source}", "optimizer.learning_rate=1e-9")
    path = Path(config.run_dir)
    initial = path / "checkpoints" / "initial.safetensors"

    def refit(*_: Any, **__: Any) -> None:
        shutil.rmtree(source)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "refit", refit)
        train(config)
    start = read_checkpoint(initial)["state_dict"]
    assert train(configure("today", "again", f"resume={path}")) == path
    assert {file.name for file in (path / "checkpoints").iterdir()} == {"best.safetensors", "refit.safetensors"}
    for name, weight in load_run(path).model.state_dict().items():
        if weight.is_floating_point() and name != "item_tower.embedding.weight":  # whose new rows follow from the data
            torch.testing.assert_close(weight, start[f"model.{name}"], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["model.dim=16"], r"has the shape .* here and .*model\.dim: was 8, is 16"),
        (["model.normalize=false"], r"has model\.normalize=True; take the same here"),
        (["model/item_tower=id", "model.item_tower.hash_buckets=5"], "hash_buckets=null, or train from the start"),
    ],
)
def test_what_can_not_fit_is_refused(configure: Configure, yesterday: Run, changed: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        begun(configure, yesterday, *changed)


def test_parts_that_are_new_begin_anew_and_parts_that_are_gone_are_left(configure: Configure, yesterday: Run) -> None:
    today, _ = begun(
        configure,
        yesterday,
        "model/objective=none",
        "model.inputs=[device,weekday]",
        "model.tied=false",
        "model/residual=none",
    )
    told = json.loads((today.path / "warm_start.json").read_text())
    assert told["fresh weights"] == ["event_inputs.embeddings.1.weight"]
    untied = today.model.item_towers()
    assert torch.equal(untied[0].embedding.weight, untied[1].embedding.weight)


@pytest.mark.slow
def test_data_without_a_common_item_and_no_run_are_refused(configure: Configure, yesterday: Run, shop: Path) -> None:
    write_shop(shop / "elsewhere", 500, 20, ["view", "cart"], ["phone"])
    config = configure("elsewhere", "elsewhere", f"warm_start={yesterday.path}")
    with pytest.raises(UserError, match="no item in common"):
        train(config)
    with pytest.raises(UserError, match="nowhere is no folder"):
        train(configure("today", "from-nowhere", "warm_start=nowhere"))
    assert not (shop / "runs" / "now" / "from-nowhere").exists(), "no run has begun"


@pytest.mark.parametrize(("beside", "same"), [(True, True), (True, False), (False, True)])
def test_a_bundle_stands_for_its_run_where_that_is_there(
    configure: Configure, yesterday: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool, same: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / ("old" if beside else "runs/2025-01-01/old")
    shutil.copytree(yesterday.path, place)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "user_tower.onnx").touch()
    fingerprint = yesterday.data["fingerprint"] if same else "of other data"
    manifest = {"run": "old", "dataset_fingerprint": fingerprint}
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    assert run_of_bundle(tmp_path / "bundle") == (
        place.relative_to(tmp_path) if not beside else place if same else None
    )
    bundle = replace(yesterday, path=tmp_path / "bundle")
    if same:
        today, _ = begun(configure, bundle)
        assert json.loads((today.path / "warm_start.json").read_text())["source"] == str(bundle.path)
    else:
        with pytest.raises(UserError, match=r"a bundle, which has no weights to train, and its run is neither beside"):
            begun(configure, bundle)


@pytest.mark.slow
def test_fingerprints_of_all_before_are_kept(configure: Configure, yesterday: Run) -> None:
    second = train(configure("today", "second", f"warm_start={yesterday.path}", "refit=false"))
    third = train(configure("today", "third", f"warm_start={second}", "refit=false", "seed=1"))
    told = json.loads((third / "warm_start.json").read_text())
    assert told["before"]["data_fingerprint"] == yesterday.data["fingerprint"]
    assert told["data_fingerprint"] == load_run(second).data["fingerprint"]
    assert lineage(third) == [
        load_run(third).data["fingerprint"],
        told["data_fingerprint"],
        yesterday.data["fingerprint"],
    ]
    assert lineage(yesterday.path) == [yesterday.data["fingerprint"]]
