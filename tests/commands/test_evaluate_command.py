"""Evaluating a bundle whose items a delta has changed, in this process. Shapes: V items of the bundle."""

import shutil
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from item_catalogue import arrays_of, fitted, joined, raw_items
from model_bundle import raw_table
from shop_events import ITEMS, Shop, make_shop

from twotower.commands import evaluate as command
from twotower.core.files import read_json, write_json
from twotower.core.schema import FEATURES_FILE, ITEM_FEATURES_FILE, Prepared, open_prepared, write_prepared
from twotower.evaluation import evaluate_run
from twotower.runs.config_folder import CONF
from twotower.serving.bundle import open_bundle
from twotower.serving.bundle_format import MANIFEST_FILE, read_manifest, seal, write_manifest
from twotower.serving.updates.delta import remove, upsert
from twotower.training import evaluate_and_report

REMOVED = 3  # item_index in the data
Evaluated = tuple[Prepared, evaluate_run.Evaluation, dict[str, Any], str]


@pytest.fixture
def shop(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Shop:
    original = make_shop(tmp_path_factory)
    shutil.copytree(original.path, tmp_path / "bundle")
    return original._replace(path=tmp_path / "bundle")


@pytest.fixture
def data(make_prepared: Any, shop: Shop) -> Prepared:
    """Events of the shop's items, which lie in the order of the bundle, with their features."""
    random = np.random.default_rng(0)
    sessions = [random.integers(1, ITEMS + 1, 8).tolist() for _ in range(60)]
    prepared = make_prepared(sessions, [4] * 60, [1] * 60, ITEMS)
    pq.write_table(pa.table({"item_id": shop.ids, "train_count": [1] * ITEMS}), prepared.path / "catalogue.parquet")
    encoders = fitted(shop.raw)
    write_json(prepared.path / FEATURES_FILE, {**read_json(prepared.path / FEATURES_FILE, ""), "items": encoders})
    prices = np.array([np.nan if p is None else p for p in shop.raw["price"]], dtype=np.float32)
    np.savez(prepared.path / ITEM_FEATURES_FILE, **arrays_of(encoders, shop.raw) | {"price.price": prices})
    facts = {
        k: v for k, v in prepared.manifest.items() if k not in ("format_version", "fingerprint", "files", "sha256")
    }
    write_prepared(prepared.path, facts)
    return open_prepared(prepared.path)


def trained_on(bundle: Path, fingerprint: str) -> None:
    manifest = read_manifest(bundle)
    facts = {k: v for k, v in manifest.items() if k not in ("format_version", "files", "checksum")}
    write_manifest(bundle, seal(bundle, {**facts, "dataset_fingerprint": fingerprint}, manifest["files"]))


def evaluated(data: Prepared, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    """What the command evaluates and writes; the report is for real."""
    seen: list[Any] = []

    def spy(prepared: Prepared, *rest: Any) -> evaluate_run.Evaluation:
        seen.extend((prepared, evaluate_run.evaluate_results(prepared, *rest)))
        return seen[1]

    monkeypatch.setattr(command, "prepare", lambda *_: data)
    monkeypatch.setattr(evaluate_and_report, "evaluate_results", spy)
    out = tmp_path / "evaluation"
    settings = [f"evaluate={bundle}", f"run_dir={out}", "name=delta", "data=prepared", f"data.path={data.path}"]
    settings += ["logger=none", "evaluation.replicates=20"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert command.evaluate(hydra.compose("train", settings)) == out
    return seen[0], seen[1], read_json(out / "metrics.json", ""), (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("same_data", [True, False])
def test_items_that_a_delta_added_have_no_training_events(
    shop: Shop, data: Prepared, same_data: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(shop.path, data.manifest["fingerprint"] if same_data else "of other data")
    more = raw_items(2, 7)
    del more["picture"]
    upsert(shop.path, raw_table(more, ["new-1", "new-2"]))
    prepared, evaluation, metrics, _ = evaluated(data, shop.path, tmp_path, monkeypatch)
    expected = np.bincount(data.item_index[data.training_mask(True)], minlength=ITEMS + 3)
    assert evaluation.counts.tolist() == expected.tolist() and evaluation.counts[-2:].tolist() == [0, 0]
    assert prepared.num_items == ITEMS + 2 and metrics["test/queries"] == 60 * 3
    whole = joined({name: shop.raw[name] for name in more}, more)
    (brand,) = (feature for feature in evaluation.features if feature.name == "brand")
    assert [None if g == "unknown" else g for g in (brand.groups[c] for c in brand.code[1:])] == whole["brand"]
    assert all(len(feature.code) == ITEMS + 3 for feature in evaluation.features)
    price = np.array([p or 0 for p in whole["price"]])[evaluation.facts.target - 1]
    recall = ((evaluation.saved.ranking.better < 20) * price).sum() / price.sum()
    assert metrics["test/revenue_recall_at_20"] == pytest.approx(recall)


@pytest.mark.slow
def test_events_of_an_item_that_a_delta_removed_are_left_out(
    shop: Shop, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(shop.path, data.manifest["fingerprint"])
    remove(shop.path, [shop.ids[REMOVED - 1]])
    prepared, evaluation, _, page = evaluated(data, shop.path, tmp_path, monkeypatch)
    before = np.bincount(data.item_index[data.training_mask(True)], minlength=ITEMS + 1)
    assert evaluation.counts.tolist() == np.delete(before, REMOVED).tolist()
    ids = open_bundle(shop.path).item_ids.to_pylist()
    kept = data.item_index[data.item_index != REMOVED]
    assert [ids[i - 1] for i in prepared.item_index] == [shop.ids[i - 1] for i in kept]
    assert f"[{shop.ids[REMOVED - 1]}]" not in page and any(f"[{item}]" in page for item in ids)


@pytest.mark.slow
def test_the_data_itself_is_evaluated_where_the_items_are_the_same(
    shop: Shop, data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(shop.path, data.manifest["fingerprint"])
    prepared, evaluation, _, _ = evaluated(data, shop.path, tmp_path, monkeypatch)
    assert prepared is data and len(evaluation.counts) == ITEMS + 1
    assert (shop.path / MANIFEST_FILE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, False, None])
def test_baselines_learn_from_what_the_bundle_s_model_learnt_from(
    shop: Shop, data: Prepared, refit: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(shop.path)
    facts = {k: v for k, v in manifest.items() if k not in ("format_version", "files", "checksum", "refit")}
    said = {} if refit is None else {"refit": refit}  # None: a bundle of an older version
    fingerprint = data.manifest["fingerprint"]
    write_manifest(shop.path, seal(shop.path, {**facts, **said, "dataset_fingerprint": fingerprint}, manifest["files"]))
    _, evaluation, _, _ = evaluated(data, shop.path, tmp_path, monkeypatch)
    learnt = data.item_index[data.training_mask(refit is not False)]
    assert evaluation.counts.tolist() == np.bincount(learnt, minlength=ITEMS + 1).tolist()
