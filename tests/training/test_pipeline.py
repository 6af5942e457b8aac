"""Runs on tiny data in this process: each step leaves its files, and is not repeated."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from composed import composed
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from shop_events import make_events, make_shop, write_events

from twotower.commands import train as command
from twotower.commands.train import train
from twotower.core.errors import UserError
from twotower.runs.lock import exclusive_lock
from twotower.runs.run import load_config, load_run, write_config
from twotower.training import pipeline
from twotower.training.fit import configured_callbacks

TINY = ["data.items=60", "data.users=60", "data.sessions=600", "data.days=14", "model.dim=8", "trainer.max_epochs=2"]
TINY += ["positions_per_batch=256", "evaluation.replicates=20", "trainer.accelerator=cpu", "logger=none", "name=tiny"]
Configure = Callable[..., DictConfig]

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture(scope="module")
def configure(shop: Path) -> Configure:
    """The configuration of a run in a folder of the shop."""

    def make(run: str, *overrides: str) -> DictConfig:
        config = composed(*TINY, *overrides)
        config.run_dir, config.prepared_root = str(shop / "runs" / "today" / run), str(shop / "prepared")
        return config

    return make


@pytest.fixture(scope="module")
def trained(configure: Configure) -> Path:
    return train(configure("first"))


def forbidden(*_: Any, **__: Any) -> None:
    raise AssertionError("this step was done before")


@pytest.mark.slow
def test_a_run_is_returned_with_its_files_and_its_model(trained: Path, configure: Configure) -> None:
    assert trained == Path(configure("first").run_dir)
    assert {file.name for file in trained.iterdir()} >= {"config.yaml", "metrics.json", "answers.npz", "report.html"}
    assert {file.name for file in (trained / "checkpoints").iterdir()} == {"best.safetensors", "refit.safetensors"}
    run = load_run(trained)
    fitted = json.loads((trained / "fitted.json").read_text())
    best = fitted["validated"][str(fitted["best_epoch"])]
    assert best["val/ndcg_at_20"] == max(epoch["val/ndcg_at_20"] for epoch in fitted["validated"].values())
    assert run.metrics.items() >= best.items() and 0 < run.metrics["test/recall_at_20"] < 1


def test_a_run_whose_report_is_missing_trains_nothing(
    trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "metrics.json").read_text()
    monkeypatch.setattr(pipeline, "fit", forbidden)
    (trained / "metrics.json").unlink()
    (trained / ".lock").touch()
    assert train(configure("second", f"resume={trained}")) == trained
    after = json.loads((trained / "metrics.json").read_text())
    timed = {name for name in after if "second" in name}
    assert {k: v for k, v in after.items() if k not in timed} == {
        k: v for k, v in json.loads(before).items() if k not in timed
    }
    assert not (trained / ".lock").exists() and not (trained.parent / "second").exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run: {trained}"
    assert shlex.split(lines[-2])[-2:] == ["export", f"run={trained}"]


def test_a_finished_run_is_named_and_a_run_with_other_settings_is_new(
    trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_pipeline", forbidden)
    assert train(configure("third", "resume=auto")) == trained
    assert f"run: {trained}" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        train(configure("fourth", "resume=auto", "seed=1"))
    with pytest.raises(UserError, match="is finished"):
        train(configure("third", f"resume={trained}"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["seed=1"], "seed: was 0, is 1"),
        (["optimizer.learning_rate=0.05", "model.dim=16"], "model.dim: was 8, is 16; optimizer.learning_rate: was"),
        (["model/user_tower=mean_pool"], "model.user_tower._target_: was twotower.model.user_tower.transformer"),
        (["data.sessions=500"], "data.sessions: was 600, is 500"),
    ],
)
def test_a_folder_takes_no_run_of_other_settings(
    change: list[str], named: str, trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run_pipeline", forbidden)
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*")}
    with pytest.raises(UserError, match=r"hydra\.run\.dir=.*delete it") as raised:
        train(configure("first", *change))
    assert named in str(raised.value) and "user_tower.dim" not in str(raised.value)
    with pytest.raises(UserError, match=r"hydra\.run\.dir="):
        train(configure("first", *change, "resume=auto"))
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*")} == before


def test_a_finished_run_is_not_repeated_in_its_folder(
    trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run_pipeline", forbidden)
    for uncounted in ("seed=0", "checkpoint_minutes=1", "trainer.devices=auto"):
        assert train(configure("first", uncounted)) == trained
        assert capsys.readouterr().out.startswith("finished already")


def test_the_same_command_on_changed_files_is_another_run(
    tmp_path: Path, trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = trained / "data.json"
    began = file.read_text()
    monkeypatch.setattr(command, "run_pipeline", forbidden)
    try:
        file.write_text(json.dumps({**json.loads(began), "fingerprint": "0123456789abcdef"}))
        with pytest.raises(UserError, match=r"0123456789abcdef.*content of the files has changed.*another folder"):
            train(configure("first"))
        with pytest.raises(AssertionError, match="this step"):
            train(configure("changed", "resume=auto"))
    finally:
        file.write_text(began)


def test_a_command_that_fails_before_training_leaves_no_folder(configure: Configure) -> None:
    for number, (change, message) in enumerate(
        [
            (["model.dim=7"], "heads"),
            (["evaluation.min_history=99"], "no query"),
            (["model.horizon=sesion"], "did you mean 'session'"),
            (["evaluation.horizon=0"], "horizon=0; .* days above 0"),
            (["resume=nowhere"], "nowhere"),
            (["evaluate=nowhere"], "nowhere"),
            (["data.seed=77", "preparation.memory_gib=0.1"], "memory_gib"),
        ]
    ):
        config = configure(f"mistake-{number}", *change)
        Path(config.run_dir).mkdir(parents=True)  # as Hydra does
        with pytest.raises((UserError, InstantiationException), match=message):
            train(config)
        assert not Path(config.run_dir).exists()


def test_an_evaluation_never_takes_a_run_s_folder(trained: Path, configure: Configure) -> None:
    with pytest.raises(UserError, match="holds a run"):
        train(configure("first", f"evaluate={trained}"))
    assert load_run(trained).metrics["best_epoch"] >= 0


def test_a_run_is_locked_once_it_can_be_resumed(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("fresh")
    folder = Path(config.run_dir)

    def begin_only(*_: Any, begin: Callable[[], None], **__: Any) -> None:
        assert not [*folder.glob("*")] and not (folder / ".lock").exists(), "a kill leaves no lock that nobody removes"
        begin()
        with pytest.raises(UserError, match="another process is at work"), exclusive_lock(folder):
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "fit", begin_only)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert (folder / ".lock").exists() and load_config(folder).seed == config.seed


def test_of_two_commands_that_begin_in_one_folder_one_goes_on(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("shared")

    def begin_late(*_: Any, begin: Callable[[], None], **__: Any) -> None:
        with exclusive_lock(Path(config.run_dir)):
            begin()

    monkeypatch.setattr(pipeline, "fit", begin_late)
    with pytest.raises(UserError, match="another process is at work"):
        train(config)


def test_an_interrupted_run_prints_the_line_that_resumes_it(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(config: DictConfig, *_: Any) -> None:
        write_config(Path(config.run_dir), OmegaConf.to_yaml(config, resolve=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_pipeline", interrupt)
    config = configure("My Shop (1)")
    with pytest.raises(KeyboardInterrupt):
        train(config)
    line = capsys.readouterr().out.splitlines()[-2].partition("next: ")[2]
    assert shlex.split(line)[:3] == ["cd", str(Path.cwd()), "&&"]
    assert shlex.split(line)[-1] == f"resume='{config.run_dir}'"


@pytest.mark.slow
def test_a_run_on_the_same_data_prepares_nothing(
    trained: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.stat().st_mtime_ns for file in (trained.parents[2] / "prepared").rglob("*")}
    path = train(configure("fifth", "refit=false", "evaluation.baselines=false", "trainer.max_epochs=1"))
    assert {file: file.stat().st_mtime_ns for file in (trained.parents[2] / "prepared").rglob("*")} == before
    assert {file.name for file in (path / "checkpoints").iterdir()} == {"best.safetensors"}


def test_the_metrics_that_pick_the_epoch_are_required(configure: Configure) -> None:
    with pytest.raises(UserError, match=r"evaluation\.ks=\[1, 10\] lacks 20"):
        train(configure("sixth", "evaluation.ks=[1,10]"))
    with pytest.raises(UserError, match=r"takes -m: .* train -m"):
        train(configure("seventh", "sweep=tpe"))
    with pytest.raises(UserError, match=r"no query with a history of 99"):
        train(configure("eighth", "evaluation.min_history=99"))


@pytest.mark.slow
def test_a_run_is_evaluated_again_and_on_data_of_other_items(
    trained: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    path = train(configure("again", f"evaluate={trained}"))
    again = json.loads((path / "metrics.json").read_text())
    tested = {name for name in metrics if name.startswith(("test/", "baseline/")) and "second" not in name}
    assert {name: again[name] for name in tested} == pytest.approx({name: metrics[name] for name in tested}, abs=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"evaluation: {path}" and shlex.split(lines[-2])[-3:] == ["compare", str(trained), str(path)]
    other = train(configure("other", f"evaluate={trained}", "data.seed=5", "data.items=80"))
    assert json.loads((other / "metrics.json").read_text())["test/queries"] > 0


@pytest.mark.slow
def test_a_horizon_is_learnt_and_measured_and_may_be_measured_alone(trained: Path, configure: Configure) -> None:
    def within(path: Path) -> dict[str, float]:
        metrics = json.loads((path / "metrics.json").read_text())
        return {k: v for k, v in metrics.items() if "/horizon/" in k and not k.startswith("val/")}

    path = train(configure("ahead", "model.horizon=3"))
    names = {f"{of}horizon/{name}_at_20" for of in ("test/", "baseline/stan/") for name in ("recall", "purchase/ndcg")}
    assert within(path).keys() >= names and 0 < within(path)["test/horizon/recall_at_20"] < 1
    assert load_run(path).metrics["val/horizon/ndcg_at_20"] > 0
    assert within(train(configure("ahead-again", f"evaluate={path}"))) == pytest.approx(within(path), abs=1e-6)
    assert "Within the horizon" in (path / "report.html").read_text()
    assert not within(trained) and "Within the horizon" not in (trained / "report.html").read_text()
    beside = within(train(configure("beside", f"evaluate={trained}", "evaluation.horizon=3")))
    assert beside.keys() == within(path).keys()
    assert {n: v for n, v in beside.items() if "stan" in n} == pytest.approx(
        {n: v for n, v in within(path).items() if "stan" in n}, abs=1e-6
    )


@pytest.mark.slow
def test_a_bundle_is_evaluated_on_events_of_its_items(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_shop(tmp_path_factory, features=False)
    events = write_events(tmp_path / "events.parquet", make_events(bundle.ids, [f"user-{n}" for n in range(300)]))
    settings = [f"prepared_root={tmp_path}", "logger=none", f"evaluate={bundle.path}", "data=events"]
    config = composed(*settings, f"data.path={events}", "evaluation.replicates=0", "accept=[few_queries]")
    config.run_dir = str(tmp_path / "evaluation")
    path = train(config)
    metrics = json.loads((path / "metrics.json").read_text())
    assert 0 < metrics["test/recall_at_20"] < 1 and metrics["baseline/popularity/recall_at_20"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"evaluation: {path}" and not any("compare" in line for line in lines)


def test_null_switches_a_callback_off() -> None:
    stopping = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/ndcg_at_20"}
    for settings, number in (({"early_stopping": stopping}, 1), ({"early_stopping": None}, 0)):
        assert len(configured_callbacks(OmegaConf.create(settings), refit=False, interactive=False)) == number
