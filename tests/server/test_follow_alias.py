"""A registry's alias, followed: what it names answers."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.server.follow_alias import AliasFollower
from twotower.server.locations import rollback
from twotower.serving.bundle_format import MANIFEST_FILE
from twotower.tracking.registry import save_model


@pytest.mark.slow
def test_an_alias_that_moves_moves_the_location(make_bundle: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("shop")
    names = []
    for seed in range(2):
        bundle = make_bundle([1, 2, 3], seed=seed)
        save_model(bundle, tmp_path / f"model-{seed}")
        client.create_model_version("shop", str(tmp_path / f"model-{seed}"))
        names.append(read_json(bundle / MANIFEST_FILE, "a bundle")["checksum"])
    client.set_registered_model_alias("shop", "champion", "1")
    location = tmp_path / "champion.json"
    follower = AliasFollower("models:/shop@champion", uri, location, tmp_path / "downloads")

    def answering() -> str:
        return read_json(Path(read_json(location, "")["bundle"]) / MANIFEST_FILE, "")["checksum"]

    assert follower.look() and answering() == names[0]
    assert not follower.look()
    client.set_registered_model_alias("shop", "champion", "2")
    assert follower.look() and answering() == names[1]
    rollback(location)
    assert answering() == names[0]
    assert not follower.look()  # until the alias moves again
    with pytest.raises(UserError, match="has the alias other; it has: champion"):
        AliasFollower("models:/shop@other", uri, location, tmp_path / "downloads").look()
