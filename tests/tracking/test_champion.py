"""The champion's alias: it moves with its reasons, back again step by step, and never over another's promotion."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient

from twotower.core.errors import UserError
from twotower.tracking.champion import TAG_LENGTH, Registered, Registry, champion_version
from twotower.tracking.lookup import RUN_DIR_TAG, locate
from twotower.tracking.registry import require_registrable

CHAMPION = "models:/shop@champion"
Shop = Callable[[int], tuple[Registry, MlflowClient]]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A registry, in a store of files, that has so many versions of the model "shop"."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    def make(versions: int) -> tuple[Registry, MlflowClient]:
        client = MlflowClient(uri)
        client.create_registered_model("shop")
        for number in range(versions):
            client.create_model_version("shop", (tmp_path / f"bundle-{number}").as_uri())
        return Registry(uri), client

    return make


def test_it_moves_forward_and_back_step_by_step(shop: Shop) -> None:
    registry, client = shop(3)
    for number in "123":
        candidate, champion = registry.find(f"models:/shop/{number}"), registry.find(CHAMPION)
        registry.promote(candidate, champion, {"gate": "passed", "reasons": "x" * 9999})
        assert registry.find(CHAMPION) == Registered("shop", "champion", number)
    tags = client.get_model_version("shop", "3").tags
    assert tags == {"champion.gate": "passed", "champion.reasons": "x" * TAG_LENGTH, "champion.previous": "2"}
    for number in "21":
        assert registry.roll_back(registry.find(CHAMPION), "returns went up").version == number
        assert registry.find(CHAMPION).version == number
    assert client.get_model_version("shop", "3").tags["champion.rolled_back"].endswith("UTC: returns went up")
    with pytest.raises(UserError, match="is version 1, which was not promoted over another"):
        registry.roll_back(registry.find(CHAMPION), "once more")


def test_a_champion_that_was_replaced_meanwhile_is_not_overruled(shop: Shop) -> None:
    registry, _ = shop(2)
    seen = registry.find(CHAMPION)
    assert seen.version is None
    registry.promote(registry.find("models:/shop/1"), seen, {"gate": "passed"})
    with pytest.raises(UserError, match=r"was moved to version 1 meanwhile, .* compared with version None"):
        registry.promote(registry.find("models:/shop/2"), seen, {"gate": "passed"})
    assert registry.find(CHAMPION).version == "1"


def test_what_is_not_there_is_named(shop: Shop, tmp_path: Path) -> None:
    registry, client = shop(1)
    for address in ("shop", "models:/shop", "runs/1", "models:/shop@"):
        with pytest.raises(UserError, match=f"{address} is no registered model; expected models:/NAME@ALIAS"):
            registry.find(address)
    for address, message in (
        ("models:/shpo@champion", "no model is registered as shpo; did you mean 'shop'?; the registry has: shop"),
        ("models:/zzz/1", "no model is registered as zzz; the registry has: shop"),
        ("models:/shop/7", "shop has no version 7; the newest that it has: 1"),
    ):
        for look in (registry.find, lambda name: locate(name, registry.tracking_uri, tmp_path)):
            with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
                look(address)
    client.set_registered_model_alias("shop", "champion", "1")
    message = re.escape("no version of shop has the alias champoin; did you mean 'champion'?; it has: champion")
    with pytest.raises(UserError, match=f"^{message}$"):
        registry.roll_back(registry.find("models:/shop@champoin"), "returns went up")
    with pytest.raises(UserError, match=f"^{message}$"):
        locate("models:/shop@champoin", registry.tracking_uri, tmp_path)
    client.delete_registered_model_alias("shop", "champion")
    with pytest.raises(UserError, match="there is no MLflow database"):
        Registry(f"sqlite:///{tmp_path}/none.db")
    assert champion_version(f"sqlite:///{tmp_path}/none.db", "shop", "champion") is None
    assert champion_version(registry.tracking_uri, "shoes", "champion") is None
    assert champion_version(registry.tracking_uri, "shop", "champion") is None


def test_an_export_does_not_take_a_promoted_alias(shop: Shop, tmp_path: Path) -> None:
    registry, client = shop(2)
    client.create_run(client.create_experiment("shop"), tags={RUN_DIR_TAG: str((tmp_path / "run").resolve())})
    logger = SimpleNamespace(tracking_uri=registry.tracking_uri, experiment_name="shop")
    config = SimpleNamespace(logger=logger, run_dir=str(tmp_path / "run"))
    run: object = SimpleNamespace(config=config, path=tmp_path / "run")
    require_registrable(run, "shop", "champion")
    registry.promote(registry.find("models:/shop/1"), registry.find(CHAMPION), {"gate": "passed"})
    require_registrable(run, "shop", "candidate")
    with pytest.raises(UserError, match="a promotion has given it to version 1 of shop; register the new one as a"):
        require_registrable(run, "shop", "champion")
