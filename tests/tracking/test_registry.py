"""What MLflow knows of a bundle: tag, curve, model, version and alias; and the model answers over HTTP."""

import json
import math
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from hostile_requests import JSON_TYPE, wrong_with
from mlflow import MlflowClient
from model_bundle import write_shop_bundle
from test_pyfunc_model import benchmark

from twotower.core.errors import UserError
from twotower.serving.bundle_format import seal, write_manifest
from twotower.serving.retriever import Retriever
from twotower.tracking.lookup import RUN_DIR_TAG, locate
from twotower.tracking.registry import keep_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_shop_bundle(tmp_path_factory.mktemp("bundle") / "shop", str)
    (path / "index.html").write_text("<p>curve</p>")
    manifest = json.loads((path / "manifest.json").read_text())
    metrics = {"test/gone?/mrr": 0.125, "test/recall_at_20": 0.25, "val/mrr": 0.5, "val/empty": math.nan}
    facts = {key: value for key, value in manifest.items() if key not in ("format_version", "files", "checksum")}
    write_manifest(path, seal(path, {**facts, "metrics": metrics, "measured": {"p50_ms": 0.5}}, manifest["files"]))
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run that MLflow knows, in a store of files: a database would take many seconds to make."""
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # else some of MLflow's code would make its default database
    client = MlflowClient(uri)
    known = client.create_run(client.create_experiment("shop"), tags={RUN_DIR_TAG: str((tmp_path / "run").resolve())})
    logger = SimpleNamespace(tracking_uri=uri, experiment_name="shop")
    config = SimpleNamespace(logger=logger, run_dir=str(tmp_path / "run"))
    return SimpleNamespace(config=config, path=tmp_path / "run", client=client, id=known.info.run_id, uri=uri)


@pytest.mark.slow
def test_a_registered_bundle_is_a_model_of_its_run(run: Any, bundle: Path) -> None:
    assert keep_bundle(run, bundle, "shop", "candidate") == "models:/shop@candidate"
    client = run.client
    version = client.get_model_version_by_alias("shop", "candidate")
    assert (version.version, version.run_id) == (1, run.id)
    known = client.get_run(run.id)
    assert known.data.tags["bundle"] == str(bundle.resolve()) and known.info.status == "RUNNING"  # as it was
    (made,) = client.search_logged_models([known.info.experiment_id])
    assert (made.source_run_id, made.status) == (run.id, "READY")
    assert [output.model_id for output in known.outputs.model_outputs] == [made.model_id]
    facts = json.loads((bundle / "manifest.json").read_text())
    expected = {"dim": str(facts["dim"]), "num_items": str(facts["num_items"]), "index": facts["index"]["factory"]}
    for labelled in (version, client.get_logged_model(made.model_id)):
        assert expected.items() <= labelled.tags.items()
    assert version.model_id == made.model_id and f"{facts['num_items']} items" in version.description
    assert "test/recall_at_20 0.25, bundle/p50_ms 0.5." in version.description
    figures = {metric.key: metric.value for metric in client.get_logged_model(made.model_id).metrics}
    assert figures == {"test/recall_at_20": 0.25, "test/gone_/mrr": 0.125, "val/mrr": 0.5, "bundle/p50_ms": 0.5}
    kept = {Path(file.path).name for file in client.list_artifacts(run.id, "bundle")}
    assert kept == {file.name for file in bundle.iterdir()}

    model = mlflow.pyfunc.load_model(version.source)
    (answer,) = model.predict([["103", "105"]], params={"k": 4})
    assert [answer.ids] == Retriever.load(bundle).recommend([["103", "105"]], 4).ids

    assert keep_bundle(run, bundle, "shop", "candidate") == "models:/shop@candidate"
    assert client.get_model_version_by_alias("shop", "candidate").version == 2
    assert client.get_model_version("shop", "1").aliases == []


def test_a_registered_bundle_and_its_run_are_located_by_each_name(run: Any, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "answers.npz").write_text("results")
    run.client.log_artifact(run.id, str(tmp_path / "answers.npz"))
    keep_bundle(run, bundle, "shop", "candidate")
    expected = {file.name: file.read_bytes() for file in bundle.iterdir() if file.is_file()}
    for name in (str(bundle), run.id, "models:/shop@candidate", "models:/shop/1"):
        found = locate(name, run.uri, tmp_path, "bundle")
        assert {file.name: file.read_bytes() for file in found.iterdir() if file.is_file()} == expected
        if name != str(bundle):
            assert (locate(name, run.uri, tmp_path, file="answers.npz") / "answers.npz").read_text() == "results"
    with pytest.raises(UserError, match=f"{'0' * 32} is no folder, and MLflow at"):
        locate("0" * 32, run.uri, tmp_path, "bundle")
    for name in ("nowhere", "models:/shop", "models:/shop/Production"):
        with pytest.raises(UserError, match=f"{name} is no folder; expected a run: "):
            locate(name, run.uri, tmp_path)


def test_without_a_name_the_run_gets_tag_and_curve(run: Any, bundle: Path) -> None:
    assert keep_bundle(run, bundle, None, "candidate") is None
    assert run.client.get_run(run.id).data.tags["bundle"] == str(bundle.resolve())
    assert [file.path for file in run.client.list_artifacts(run.id, "bundle")] == ["bundle/index.html"]
    assert run.client.search_registered_models() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logger": None}, "was trained without MLflow"),
        ({"run_dir": "elsewhere"}, "has no run of elsewhere"),
    ],
)
def test_a_run_that_mlflow_does_not_know(run: Any, bundle: Path, change: dict[str, Any], reason: str) -> None:
    vars(run.config).update(change)
    assert keep_bundle(run, bundle, None, "candidate") is None
    with pytest.raises(UserError, match=f"the bundle is whole, but it can't be registered as shop: .*{reason}"):
        keep_bundle(run, bundle, "shop", "candidate")


def test_a_model_that_can_not_be_kept_is_no_version(run: Any, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", full)
    with pytest.raises(UserError, match=r"can't be registered as shop: MLflow at .*: no space left"):
        keep_bundle(run, bundle, "shop", "candidate")
    assert run.client.search_registered_models() == []
    (made,) = run.client.search_logged_models([run.client.get_run(run.id).info.experiment_id])
    assert made.status == "FAILED"


@pytest.mark.slow
def test_mlflow_serves_it_over_http(run: Any, bundle: Path, tmp_path: Path) -> None:
    keep_bundle(run, bundle, "shop", "candidate")
    served = benchmark("served")
    good = json.dumps({"inputs": [["103", "105"]], "params": {"k": 4}}).encode()
    with served.serve(served.MLFLOW, "models:/shop@candidate", tmp_path / "log") as server:

        def post(body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
            with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
                connection.request("POST", server.route, body, headers)
                reply = connection.getresponse()
                return reply.status, reply.read()

        status, answer = post(good, JSON_TYPE)
        assert status == 200
        expected = Retriever.load(bundle).recommend([["103", "105"]], 4)
        assert [json.loads(answer)["predictions"][0]["ids"]] == expected.ids
        for body, headers in (
            (b"[" * 100_000, JSON_TYPE),
            (b"{}", {}),
            (b'{"inputs": [["103"]], "params": {"kk": 1}}', JSON_TYPE),
            (b'{"inputs": [["103"]], "params": {"filters": "{"}}', JSON_TYPE),
        ):
            refused = post(body, headers)
            assert wrong_with(*refused) is None, refused
        assert post(good, JSON_TYPE) == (200, answer)
