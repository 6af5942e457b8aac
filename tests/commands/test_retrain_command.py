"""Nights of a shop: a first champion, a better one, a worse one that is refused, and one step back."""

import json
from pathlib import Path

import pytest
from forked_commands import run
from mlflow import MlflowClient

SMALL = ["data.items=200", "data.users=200", "data.sessions=1500", "data.days=20", "data.oracle=false", "model.dim=16"]
SMALL += ["evaluation.replicates=100", "evaluation.baselines=false", "gate.margin=0.3", "gate.max_growth=99"]
CHAMPION = "champion=models:/shop@champion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nights")


def retrain(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Exit status and printed lines of one night."""
    done = run(["retrain", "shop", *SMALL, *words], folder)
    return done.returncode, (done.stdout + done.stderr).strip().splitlines()


def champion(folder: Path) -> str:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return str(client.get_registered_model("shop").aliases["champion"])


@pytest.mark.slow
def test_nights_in_their_order(folder: Path) -> None:
    first = ["preparation.until=2025-01-17", "trainer.max_epochs=2"]
    status, lines = retrain(folder, *first)
    assert status == 0 and "promoted: models:/shop@champion is version 1" in lines, lines
    assert sum("rows read" in line for line in lines) == 1  # the data is prepared once
    assert not any(line.startswith("next: ") or "not found" in line for line in lines)  # the night exports by itself
    status, lines = retrain(folder, *first)
    assert status == 0 and lines[-1].endswith("promoted: models:/shop@champion is version 1")
    assert lines[-1].startswith("nothing new since ") and len(list((folder / "retrained/shop").iterdir())) == 1

    status, lines = retrain(folder, "preparation.until=2025-01-19", "warm_epochs=2")
    assert status == 0 and "promoted: models:/shop@champion is version 2" in lines, lines
    assert any(line.endswith("INFO warm start from models:/shop/1") for line in lines)
    assert any(line.startswith("one step back: ") for line in lines) and champion(folder) == "2"

    # A model that has hardly learnt anything.
    status, lines = retrain(folder, "optimizer.learning_rate=1e-7", "warm_start=null", "trainer.max_epochs=1")
    assert status == 3 and champion(folder) == "2", lines
    refused = next(line for line in lines if line.startswith("refused, version 2 stays: "))
    assert "recall@20 of all queries" in refused
    page = next(line for line in lines if line.startswith("page: ")).removeprefix("page: ")
    decision = json.loads((folder / page).with_name("decision.json").read_text())
    assert decision["promoted"] is False and decision["champion"]["version"] == "2"
    assert "version 3 in the place of version 2" in (folder / page).read_text()
    tags = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_model_version("shop", "3").tags
    assert tags["champion.gate"] == "refused" and "recall@20" in tags["champion.reasons"]

    status, lines = retrain(folder, "optimizer.learning_rate=1e-7", "warm_start=null", "trainer.max_epochs=1")
    assert status == 3 and lines[-1].endswith(refused)
    done = run(["promote", "models:/shop/3", CHAMPION, "gate.margin=0.3", 'force="a test, of course"'], folder)
    assert done.returncode == 0 and "version 3, forced: a test, of course" in done.stdout, done.stderr
    done = run(["rollback", "models:/shop@champion", "--reason", "it was a test"], folder)
    assert done.stdout == "models:/shop@champion is version 2 again; it was version 3\n" and champion(folder) == "2"


def test_mistakes_get_one_message(tmp_path: Path) -> None:
    for words, message in (
        (["retrain"], "which model? twotower retrain NAME data=..."),
        (["retrain", *SMALL], "which model? twotower retrain NAME data=..."),
        (["retrain", "a/b", *SMALL], "register='a/b'; expected a name without / : @"),
        (["retrain", "shop", "logger=none", *SMALL], "retrain keeps each model in MLflow's registry"),
        (["promote", "models:/shop/1", CHAMPION], "there is no MLflow database sqlite:///mlflow.db"),
        (["promote", "models:/shop/1", CHAMPION, "gate.margin=2"], "gate.margin=2; expected a number from 0"),
        (["promote", "models:/shop/1", CHAMPION, "force=''"], 'force="" gives no reason'),
        (["rollback", "models:/shop@champion"], "there is no MLflow database sqlite:///mlflow.db"),
    ):
        done = run(words, tmp_path)
        assert done.returncode == 2 and f"error: {message}" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
