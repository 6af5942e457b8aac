"""The export as typed, the command that it prints, what it returns, and the ways to name a run."""

import json
import subprocess
from pathlib import Path
from typing import Any

import forked_commands
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from twotower.commands import export as command
from twotower.commands.export import export
from twotower.core.errors import UserError
from twotower.runs.run import load_run
from twotower.serving.retriever import Retriever
from twotower.serving.signature import verify_signature
from twotower.tracking.lookup import locate

UNKNOWN = "0" * 32


def config(run: Any, out: Any = None, tracking_uri: str = "sqlite:///mlflow.db", dim: int | None = None) -> Any:
    return OmegaConf.create(
        {
            "run": str(run),
            "out": out and str(out),
            "dim": dim,
            "tracking_uri": tracking_uri,
            "register": None,
            "sign_key": None,
            "threads": None,
            "events": None,
            "sessions": None,
            "segments": {"number": None, "min_size": 50, "seed": 0},
            "audience": {"items": None, "k": 1000, "min_size": 50},
            "index": {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000},
            "alias": "a",
        }
    )


@pytest.mark.slow
def test_run_to_answer(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run([f"it's {i}" for i in range(30)], "model/user_tower=mean_pool")
    result = forked_commands.run(["export", f"run={run}"], tmp_path)
    assert result.returncode == 0, result.stderr
    *_, following, last = result.stdout.splitlines()
    assert last == f"bundle: bundles/{run.name}"
    assert [file.name for file in tmp_path.iterdir()] == ["bundles"]  # nothing but the bundle

    answer = subprocess.run(
        following.removeprefix("next: "), shell=True, cwd="/", capture_output=True, text=True, check=True
    )
    assert len(answer.stdout.splitlines()) == 11
    assert "popular" not in answer.stdout

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"exists already; .*out=\.\.\."):
        export(config(run))


def test_an_mlflow_run_is_located(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would take many seconds to make
    import mlflow

    client = mlflow.MlflowClient("file:mlruns")
    run_id = client.create_run(client.create_experiment("test")).info.run_id
    run = make_run(list(range(30)), "model/user_tower=mean_pool")
    client.log_artifacts(run_id, str(run))
    scratch = tmp_path / "found"
    scratch.mkdir()
    found = locate(run_id, "file:mlruns", scratch)
    for file in run.rglob("*.*"):
        assert (found / file.relative_to(run)).read_bytes() == file.read_bytes()
    with pytest.raises(UserError, match=f"{UNKNOWN} .*MLflow at file:mlruns"):
        export(config(UNKNOWN, tracking_uri="file:mlruns"))
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("run", "reason"), [(UNKNOWN, "there is no MLflow database"), ("nowhere", "is no folder; expected a run")]
)
def test_unknown_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        export(config(run))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_first_dimensions_serve_alone_and_the_bundle_is_signed(make_run: Any, tmp_path: Path) -> None:
    path = make_run([f"i{i}" for i in range(30)], "model.matryoshka=[4,8]")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "sign.pem"], check=True)
    public = ["openssl", "pkey", "-in", tmp_path / "sign.pem", "-pubout", "-out", tmp_path / "trusted.pem"]
    subprocess.run(public, check=True)
    settings = config(path, tmp_path / "bundle", dim=4)
    settings.sign_key = str(tmp_path / "sign.pem")
    report = export(settings)
    verify_signature(report.path, "manifest.json", tmp_path / "trusted.pem")
    assert report.path == tmp_path / "bundle"
    assert report.manifest == json.loads((report.path / "manifest.json").read_text())
    model = load_run(path).model
    with torch.no_grad():
        items = model.encode_items()[:, :4].numpy()
        users, pointer = model.with_pointer(torch.tensor([[3, 7, 7]]), torch.zeros(1, 3, 0, dtype=torch.long))
        user, weight = users[0, :4].numpy(), pointer[0].exp().tolist()
    cosine = items @ user / np.linalg.norm(items, axis=1) / np.linalg.norm(user)
    cosine[2] += model.pointer.temperature * np.log(weight[0])
    cosine[6] += model.pointer.temperature * np.log(weight[1] + weight[2])
    answer = Retriever.load(tmp_path / "bundle").recommend([["i2", "i6", "i6"]], k=30)
    expected = np.argsort(-cosine)
    assert [f"i{row}" for row in expected] == list(answer.ids[0])
    np.testing.assert_allclose(answer.scores[0], cosine[expected], atol=1e-5)
    with pytest.raises(UserError, match=r"model.matryoshka=\[4, 8\]"):
        export(config(path, tmp_path / "other", dim=5))


@pytest.fixture(scope="module")
def small_run(make_run: Any) -> Path:
    run: Path = make_run([f"i{i}" for i in range(30)])
    return run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index.target_recall": 1.5}, "index.target_recall=1.5"),
        ({"index.families": ["hnsw"]}, "index.families has hnsw"),
        ({"sessions": 0}, "sessions=0; expected a positive integer"),
        ({"segments.number": -2}, "segments.number=-2"),
        ({"segments.number": 3, "segments.min_size": "few"}, "segments.min_size='few'"),
        ({"audience.items": ["i3"], "audience.k": 5}, "audience.k=5 is below audience.min_size=50"),
        ({"audience.items": ["x9"]}, "none of the items x9"),
        ({"segments.number": 3, "events": "nowhere.parquet"}, "events=nowhere.parquet: no such file"),
        ({"sign_key": "nowhere.pem"}, "nowhere.pem can't be read as a private key"),
        ({"register": "shop/a"}, "register='shop/a'; expected a name without"),
        ({"register": "shop", "alias": "v3"}, "alias='v3'"),
        ({"register": "shop"}, "register=shop: .* was trained without MLflow"),
    ],
)
def test_every_setting_is_checked_before_any_work(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "export_bundle", lambda *_: pytest.fail("the work has begun"))
    settings = config(small_run, tmp_path / "bundle")
    for name, value in change.items():
        OmegaConf.update(settings, name, value)
    with pytest.raises(UserError, match=message):
        command.export(settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_is_registered_where_segments_fail(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("too few users")

    monkeypatch.setattr(command, "write_segments", fail)
    monkeypatch.setattr(command, "require_registrable", lambda *_: None)
    monkeypatch.setattr(command, "keep_bundle", lambda *_: pytest.fail("it was registered"))
    settings = config(make_run([f"i{i}" for i in range(30)]), tmp_path / "bundle")
    OmegaConf.update(settings, "segments.number", 2)
    OmegaConf.update(settings, "register", "shop")
    with pytest.raises(UserError, match="too few users"):
        command.export(settings)
