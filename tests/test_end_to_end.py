"""The whole path as its user types it: raw events, a run, a bundle, an answer. Slow: real processes."""

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import polars as pl
import pytest
import torch
from forked_commands import run
from omegaconf import OmegaConf
from torch import Tensor

from twotower.runs.checkpoint import read_checkpoint, write_checkpoint
from twotower.runs.run import load_run
from twotower.serving.retriever import Retriever

SAME = ("of all queries: equal to B", "of all queries: no different from B")
SMALL = ["data.items=300", "data.users=300", "data.sessions=4000", "data.days=20", "trainer.max_epochs=4"]
SMALL += ["positions_per_batch=512", "model.dim=32"]


def call(folder: Path, *words: str) -> list[str]:
    """The lines that a command prints."""
    done = run(words, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def run_path(folder: Path) -> Path:
    last = call(folder, "train", *SMALL, "refit=true")[-1]
    assert last.startswith("run: ")
    return Path(last.removeprefix("run: "))


@pytest.fixture(scope="module")
def bundle_path(folder: Path, run_path: Path) -> Path:
    last = call(folder, "export", f"run={run_path}")[-1]
    assert last.startswith("bundle: ")
    return folder / last.removeprefix("bundle: ")


@pytest.mark.slow
def test_a_run_leaves_its_results_and_beats_popularity(run_path: Path) -> None:
    metrics = json.loads((run_path / "metrics.json").read_text())
    assert metrics["test/recall_at_20"] > metrics["baseline/popularity/recall_at_20"] > 0
    assert metrics["test/recall_at_20"] < metrics["ceiling/recall_at_20"] < 1
    assert {"baseline/item_knn/ndcg_at_20", "baseline/session_repeat/mrr_at_20", "val/ndcg_at_20"} <= set(metrics)
    assert {"test/cart/recall_at_20", "test/view/recall_at_20"} <= set(metrics)
    assert metrics["train/seconds"] > 0 and metrics["train/positions_per_second"] > 0
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.slow
def test_mlflow_keeps_the_run_with_its_files_and_parameters(folder: Path, run_path: Path) -> None:
    code = (
        "import mlflow, json; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
        "r = c.search_runs([c.get_experiment_by_name('twotower').experiment_id])[-1];"
        "print(json.dumps([r.info.run_id, r.info.status, r.data.params, r.data.metrics,"
        "[a.path for a in c.list_artifacts(r.info.run_id)]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    run_id, status, parameters, metrics, files = json.loads(done.stdout)
    assert status == "FINISHED"
    assert parameters["model.dim"] == "32"
    assert metrics["test/recall_at_20"] == json.loads((run_path / "metrics.json").read_text())["test/recall_at_20"]
    expected = {"config.yaml", "metrics.json", "data.json", "catalogue.parquet", "environment.json", "checkpoints"}
    expected |= {"card.html", "audit.json", "features.json", "item_features.npz"}
    expected |= {"assessment.json", "answers.npz", "report.html"}
    assert expected <= set(files)
    same = call(folder, "compare", run_id, str(run_path))
    assert same[-1] == "A: mrr@20 of all queries: equal to B"
    printed = call(folder, "export", f"run={run_id}", "out=from_mlflow", "register=shop", "alias=next")
    assert (folder / printed[-1].removeprefix("bundle: ") / "manifest.json").is_file()
    assert "mlflow: models:/shop@next" in printed
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version_by_alias("shop", "next")
    assert version.run_id == run_id and client.get_run(run_id).data.tags["bundle"] == str(folder / "from_mlflow")
    kept = {file.path.rpartition("/")[2] for file in client.list_artifacts(run_id, "bundle")}
    assert kept == {file.name for file in (folder / "from_mlflow").iterdir()}


@pytest.mark.slow
def test_a_run_and_its_bundle_are_tested_again_on_its_own_data_and_on_other_data(
    folder: Path, run_path: Path, bundle_path: Path
) -> None:
    before = json.loads((run_path / "metrics.json").read_text())
    tested = {key for key in before if key.startswith(("test/", "baseline/")) and "second" not in key}
    for model, tolerance in ((run_path, 1e-6), (bundle_path, 1e-3)):
        again = call(folder, "train", *SMALL, f"evaluate={model}")[-1]
        path = folder / again.removeprefix("evaluation: ")
        after = json.loads((path / "metrics.json").read_text())
        assert {key: after[key] for key in tested} == pytest.approx({key: before[key] for key in tested}, abs=tolerance)
        assert "Item vectors" in (path / "report.html").read_text()
        assert call(folder, "compare", str(run_path), str(path))[-1].endswith(SAME)

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("twotower")
    assert experiment
    parts = {part.data.tags.get("evaluates"): part for part in client.search_runs([experiment.experiment_id])}
    trained = parts[None].info.run_id
    assert parts[str(run_path)].data.tags["mlflow.parentRunId"] == trained
    assert parts[str(bundle_path)].data.metrics["test/recall_at_20"] > 0
    assert parts[str(bundle_path)].info.status == parts[str(run_path)].info.status == "FINISHED"

    raw = next((folder / "prepared").glob("*-raw/events"))
    other = pl.concat([pl.read_parquet(file) for file in sorted(raw.glob("*.parquet"))])
    other = other.filter(pl.col("session_id").hash() % 2 == 0).sort("item_id", "session_id")
    unknown = pl.when(pl.int_range(pl.len()) % 9 == 0).then(pl.lit("new")).otherwise("item_id")
    other = other.with_columns(unknown.alias("item_id"))
    other.write_parquet(folder / "other.parquet")
    on_other = ("train", "data=events", "data.path=other.parquet", "logger=none")
    found = []
    for model in (run_path, bundle_path):
        found.append(folder / call(folder, *on_other, f"evaluate={model}")[-1].removeprefix("evaluation: "))
    of_run, of_bundle = (json.loads((path / "metrics.json").read_text()) for path in found)
    assert of_run["test/recall_at_20"] > of_run["baseline/popularity/recall_at_20"] > 0
    same = {key for key in of_run if key.startswith("test/") and "second" not in key}
    assert {key: of_bundle[key] for key in same} == pytest.approx({key: of_run[key] for key in same}, abs=1e-3)
    assert call(folder, "compare", *map(str, found))[-1].endswith(SAME)


def planted(run_path: Path, name: str, vectors: Callable[[Tensor], Tensor], normalize: bool) -> Path:
    """A copy of a run whose items have other vectors [V, D], made from their training counts [V], and no pointer."""
    copy = run_path.parent / name
    shutil.copytree(run_path, copy)
    file = copy / "checkpoints" / "refit.safetensors"
    content = read_checkpoint(file)
    table = content["state_dict"]["model.item_tower.embedding.weight"]
    counts = torch.tensor(pl.read_parquet(copy / "catalogue.parquet")["train_count"].to_list())
    table[1:] = vectors(counts).expand(len(counts), table.shape[1])
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("model.pointer.")}
    write_checkpoint(file, content)
    config = OmegaConf.load(copy / "config.yaml")
    config.model.pointer = None
    config.model.normalize = config.model.item_tower.normalize = normalize
    OmegaConf.save(config, copy / "config.yaml")
    return copy


@pytest.mark.slow
def test_planted_sickness_is_called_by_its_name(folder: Path, run_path: Path) -> None:
    torch.manual_seed(0)
    direction = torch.randn(32)
    collapsed = planted(folder / run_path, "collapsed", lambda n: direction + 0.01 * torch.randn(len(n), 32), True)
    popular = planted(folder / run_path, "popular", lambda n: 20 * n.log1p()[:, None] * direction, False)
    said = {}
    for sick in (collapsed, popular):
        lines = call(folder, "train", *SMALL, f"evaluate={sick}", "logger=none")
        page = (folder / lines[-1].removeprefix("evaluation: ") / "report.html").read_text()
        said[sick.name] = " ".join(lines)
        assert re.findall(r"Not well: (\w+ ?\w*):", page) == re.findall(r"not well: (\w+ ?\w*):", said[sick.name])
        assert re.search(r"Recall@20 of all queries: [^;]*worse than (all \d+ baselines|[^;]*v_sknn)", page)
    assert "not well: collapse: the item vectors use" in said["collapsed"]
    assert "not well: collapse: two users' lists have" in said["collapsed"]
    assert "popularity only" not in said["collapsed"]
    assert "not well: popularity only: two users' lists have 100% of their items in common" in said["popular"]


@pytest.mark.slow
def test_the_resolved_configuration_rebuilds_the_trained_model(run_path: Path) -> None:
    loaded = load_run(run_path)
    saved = read_checkpoint(run_path / "checkpoints" / "refit.safetensors")["state_dict"]
    rebuilt = loaded.model.state_dict()
    assert {f"model.{name}" for name in rebuilt} == {name for name in saved if name.startswith("model.")}
    assert all(torch.equal(value, saved[f"model.{name}"]) for name, value in rebuilt.items())


@pytest.mark.slow
def test_the_bundle_answers_as_the_trained_model(run_path: Path, bundle_path: Path) -> None:
    retriever = Retriever.load(bundle_path)
    history = [f"sku-{number:05d}" for number in (1, 2, 3)]
    answer = retriever.recommend([history], k=5)
    model = load_run(run_path).model
    import pyarrow.parquet as pq

    ids = pq.read_table(run_path / "catalogue.parquet")["item_id"].to_pylist()
    known = torch.tensor([[ids.index(item) + 1 for item in history if item in ids]])
    with torch.no_grad():
        none = torch.zeros(*known.shape, 0, dtype=torch.long)
        users, pointer = model.with_pointer(known, none)
        scores = (users @ model.encode_items().T)[0]
    for row, logit in zip(known[0] - 1, pointer[0], strict=True):  # each item once
        scores[row] += logit / math.log(len(ids))  # the temperature is 1 / ln(items)
    best = scores.topk(5)
    assert answer.ids[0] == [ids[i] for i in best.indices.tolist()]
    assert torch.allclose(torch.tensor(answer.scores[0]), best.values, atol=1e-4)


@pytest.mark.slow
def test_no_id_of_a_user_or_a_session_leaves_preparation(folder: Path, run_path: Path) -> None:
    """Searched for in every file that a run with features, its export and MLflow leave."""
    raw = sorted((folder / "prepared").glob("*-raw/events/*.parquet"))
    events = pl.concat([pl.read_parquet(file) for file in raw])
    for name in ("user_id", "session_id"):
        events = events.with_columns(pl.format(name.split("_")[0] + "-{}@example.org", name).alias(name))
    home = folder / "private"
    home.mkdir()
    events.with_columns(device=pl.col("item_id").hash() % 3).write_parquet(home / "log.parquet")
    (home / "erase.txt").write_text("user-1@example.org\n")
    settings = [
        "data=events",
        "data.path=log.parquet",
        "preparation.min_users_per_item=3",
        "preparation.erase=erase.txt",
    ]
    settings += ["+preparation.features.events={device: {kind: categorical}}", "model.inputs=[event_type,gap,device]"]
    settings += ["model/user_tower=mean_pool"]  # quickly converted to ONNX
    last = call(home, "train", *settings, "target_weights={remove: -1}", "model.dim=16", "trainer.max_epochs=1")[-1]
    call(home, "export", last.replace("run: ", "run="))
    (home / "log.parquet").unlink()
    (home / "erase.txt").unlink()
    files = [file for file in home.rglob("*") if file.is_file()]
    assert {"manifest.json", "card.html", "best.safetensors", "mlflow.db", "user_tower.onnx"} <= {
        file.name for file in files
    }
    for file in files:
        assert b"@example" not in file.read_bytes(), file
    manifest = json.loads(next(home.glob("prepared/*/manifest.json")).read_text())
    assert (
        manifest["rows"]["dropped"]["erased at the user's request"]
        == events.filter(user_id="user-1@example.org").height
    )
