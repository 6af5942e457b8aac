"""Every YAML under conf/ composes, and what it names can be built."""

from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composed import composed
from hydra.utils import instantiate
from omegaconf import OmegaConf

from twotower.model.negatives import Negatives
from twotower.model.scoring import Scores
from twotower.model.two_tower import TwoTower
from twotower.runs.build import build_model
from twotower.runs.checkpoint import read_checkpoint
from twotower.training.fit import fit

CONF = Path(__file__).parent.parent / "conf"
GROUPS = sorted(
    (file.relative_to(CONF).parent.as_posix(), file.stem) for file in CONF.rglob("*.yaml") if file.parent != CONF
)
NEEDS = {"data": ["data.path=somewhere"], "experiment": ["data.path=somewhere"], "sweep/pruner": ["sweep=tpe"]}
OF_OTHERS = {"index": "export", "gate": "promote"}  # groups of other commands than train
GENERATED = {("data", "marketplace"), ("experiment", "marketplace")}  # which need no path


def data(num_items: int) -> dict[str, Any]:
    """What of a prepared manifest a model is built from."""
    return {"num_items": num_items, "inputs": {"event_type": 2, "gap": 64}}


# Choices of these go one by one, as they set what other groups choose; those of all other groups go together.
ALONE = ("data", "experiment", "sweep", "sweep/pruner")
OTHERS = sorted({group for group, _ in GROUPS} - {*ALONE, *OF_OTHERS})
COLUMNS = [[f"{group}={choice}" for group, choice in GROUPS if group == other] for other in OTHERS]
ROWS = [[word for word in row if word] for row in zip_longest(*COLUMNS)]


@pytest.mark.parametrize("overrides", ROWS, ids=",".join)
def test_choices_of_groups_compose_together(overrides: list[str]) -> None:
    assert OmegaConf.to_container(composed(*overrides), resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("group", "choice"), [g for g in GROUPS if g[0] in (*ALONE, *OF_OTHERS)])
def test_every_choice_composes_and_resolves(group: str, choice: str) -> None:
    needs = [] if (group, choice) in GENERATED else NEEDS.get(group, [])
    config = composed(f"{group}={choice}", *needs, name=OF_OTHERS.get(group, "train"))
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.slow
@pytest.mark.parametrize("tower", [c for g, c in GROUPS if g == "model/user_tower"])
@pytest.mark.parametrize("normalize", ["true", "false"])
def test_every_user_tower_builds_and_encodes(tower: str, normalize: str) -> None:
    config = composed(f"model/user_tower={tower}", f"model.normalize={normalize}", "model.inputs=[gap]")
    model = build_model(config.model, data(7), {})
    assert isinstance(model, TwoTower)
    assert model(torch.tensor([[1, 7, 3], [2, 0, 0]]), torch.zeros(2, 3, 1, dtype=torch.long)).shape == (2, 64)
    assert model.encode_items().shape == (7, 64)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "model/negatives"])
def test_every_sampler_builds_and_samples(choice: str) -> None:
    config = composed(f"model/negatives={choice}")
    sampler = instantiate(config.model.negatives, target_counts=torch.tensor([0, 3, 0, 5]))
    assert isinstance(sampler(torch.tensor([1, 3])), Negatives)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "model/loss"])
def test_every_loss_builds_and_scores(choice: str) -> None:
    loss = instantiate(composed(f"model/loss={choice}").model.loss)
    user, negative = torch.zeros(2, 4), torch.zeros(3, 4)
    scores = Scores(user, user, negative, torch.zeros(3), torch.tensor([-1, 2]), torch.ones(2), 0.1)
    assert loss(scores).shape == (2,)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "optimizer"])
def test_every_optimizer_builds(choice: str) -> None:
    config = composed(f"optimizer={choice}")
    optimizer, scheduler = instantiate(config.optimizer)(build_model(config.model, data(3), {}), total_steps=10)
    assert optimizer.param_groups and scheduler.get_last_lr()


@pytest.mark.parametrize(("group", "choice"), [g for g in GROUPS if g[0] in ("callbacks", "split")])
def test_callbacks_and_splits_build(group: str, choice: str) -> None:
    assert instantiate(composed(f"{group}={choice}")[group])


@pytest.mark.slow
def test_the_trainer_and_the_logger_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes many seconds to create
    assert instantiate(composed().trainer, logger=False, default_root_dir=tmp_path).max_epochs > 0
    logger = instantiate(composed().logger, tracking_uri=(tmp_path / "mlruns").as_uri())
    logger.open_run()
    assert logger.run_id


def test_an_experiment_holds_overrides_only() -> None:
    for file in (CONF / "experiment").glob("*.yaml"):
        experiment = OmegaConf.load(file)
        known = composed()
        unknown = set(map(str, experiment)) - {"defaults", *map(str, known)}
        assert not unknown, f"{file.name}: {unknown}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning")  # as train.py does
@pytest.mark.parametrize("recipe", [c for g, c in GROUPS if g == "experiment"])
def test_every_recipe_trains(recipe: str, make_prepared: Any, tmp_path: Path) -> None:
    """Its towers, negatives, loss and optimiser go together, with the features that it declares."""
    overrides = [] if ("experiment", recipe) in GENERATED else NEEDS["experiment"]
    config = composed(f"experiment={recipe}", "trainer.accelerator=cpu", *overrides)
    declared = config.preparation.features["items"]  # each item has one code of each
    features = {f"{name}.codes": np.arange(30) % 4 for name in declared}
    features |= {f"{name}.offsets": np.arange(31) for name in declared}
    sessions = [[1, 2, 3, 30], [4, 5], [6, 7, 8]]
    inputs = {name: [[1] * len(session) for session in sessions] for name in config.model.inputs}
    types = {"types": [[0, 1, 0, 1], [0, 1], [1, 0, 1]], "event_types": ["buy", "view"]}
    prepared = make_prepared(sessions, num_items=30, inputs=inputs, item_features=features, **types)
    progress = fit(config, prepared, None, tmp_path / "last.safetensors", refit_epochs=2)
    assert set(config.model.inputs) <= {"event_type", "gap", "hour", "weekday", *config.preparation.features.events}
    assert progress.positions == 2 * 6
    weights = read_checkpoint(tmp_path / "last.safetensors")["state_dict"].values()
    assert all(weight.isfinite().all() for weight in weights if isinstance(weight, torch.Tensor))
    assert config.model.item_tower._target_.endswith("FeatureItemTower") == bool(declared), "declared for nothing"


def test_the_documented_kubernetes_job_starts_a_run_that_composes() -> None:
    pages = [CONF.parent / "README.md", *sorted((CONF.parent / "docs").rglob("*.md"))]
    text = next(text for page in pages if "PyTorchJob" in (text := page.read_text(encoding="utf-8")))
    job = yaml.safe_load(next(part for part in text.split("```yaml\n") if "PyTorchJob" in part).split("```")[0])
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        torchrun, script, *overrides = replica["template"]["spec"]["containers"][0]["command"]
        assert (torchrun, Path(script).name) == ("torchrun", "train.py")
        config = composed(*(override for override in overrides if not override.startswith("hydra.")))
        assert config.trainer.strategy == "ddp" and config.resume == "auto" and config.data.path == "events.parquet"
