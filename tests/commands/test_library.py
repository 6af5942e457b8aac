"""`import twotower as tt`: from raw events to an answer in 20 lines, again in the same process, and mistakes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import twotower as tt

SNIPPET = """\
import twotower as tt

data = tt.prepare(
    "events.csv",
    items="items.csv",
    columns={"item_id": "sku", "user_id": "customer", "timestamp": "time"},
    overrides=["+preparation.features.items={color: {kind: categorical}}"],
)
settings = ["trainer.max_epochs=2", "model.dim=16", "logger=none"]
run = tt.train(data, overrides=[*settings, "model/item_tower=features"])
other = tt.train(data, overrides=[*settings, "model/user_tower=mean_pool"])
print(tt.compare(run, other).verdicts[0])
print(tt.evaluate(run, "february.csv", overrides=["data.columns.item_id=sku", "data.columns.timestamp=time",
                  "data.columns.user_id=customer", "logger=none"]).metrics["test/recall_at_20"])
bundle = tt.export(run, out="bundle")
retriever = tt.Retriever.load(bundle.path)
answer = retriever.recommend([["sku-01", "sku-02"]], k=5, filters={"color": "red"})
print(answer.ids[0])
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two logs in which item i is followed by i + 1 or i + 2, and the items' colours, in the current folder."""
    for seed, (name, start) in enumerate((("events", 1_767_225_600), ("february", 1_769_904_000))):
        draw = np.random.default_rng(seed)
        rows = []
        for customer in range(200):
            time, item = start + int(draw.integers(0, 20 * 86_400)), int(draw.integers(40))
            for _ in range(6):
                rows.append((f"c{customer}", f"sku-{item:02d}", time))
                time, item = time + int(draw.integers(5, 300)), (item + int(draw.integers(1, 3))) % 40
        pl.DataFrame(rows, ["customer", "sku", "time"], orient="row").write_csv(tmp_path / f"{name}.csv")
    colors = {"sku": [f"sku-{i:02d}" for i in range(40)], "color": ["red", "blue"] * 20}
    pl.DataFrame(colors).write_csv(tmp_path / "items.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Lightning and torch's exporter, as in a notebook
def test_from_raw_events_to_an_answer_in_20_lines(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SNIPPET.splitlines()) <= 20
    names: dict[str, Any] = {}
    exec(SNIPPET, names)  # in this process, which is what a notebook does
    run, bundle = names["run"], names["bundle"]
    assert isinstance(run, tt.TrainedRun) and isinstance(bundle, tt.ExportedBundle)
    assert run.path != names["other"].path
    assert 0 < run.metrics["test/recall_at_20"] <= 1 and bundle.manifest["num_items"] == 40
    assert set(names["answer"].ids[0]) <= {f"sku-{i:02d}" for i in range(0, 40, 2)}
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(names["answer"].ids[0])
    assert any(0 < float(line) <= 1 for line in printed if line.startswith("0."))  # recall@20 in February
    again = tt.export(run, out="again")  # a second time in one process
    assert again.manifest["num_items"] == 40


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, twotower as tt; dir(tt); print(*sys.modules); tt.UserError; tt.Retriever; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    at_first, serving = map(set, map(str.split, done.stdout.splitlines()))
    assert not {"numpy", "torch", "hydra", "polars", "faiss"} & at_first
    assert "faiss" in serving and not {"torch", "hydra", "polars"} & serving


def test_every_name_is_there_and_no_other() -> None:
    assert dir(tt) == sorted(tt.__all__)
    assert all(getattr(tt, name) is not None for name in tt.__all__)
    with pytest.raises(AttributeError, match="predict"):
        tt.predict  # noqa: B018 - reading the attribute is what raises


def test_prepare_takes_any_path_and_names_of_columns(shop: Path) -> None:
    folder = shop / "My Shop (1), a=b"
    folder.mkdir()
    (shop / "events.csv").rename(folder / "e.csv")
    columns = {"item_id": "sku", "user_id": "customer", "timestamp": "time"}
    first = tt.prepare(folder / "e.csv", columns=columns)
    again = tt.prepare(str(folder / "e.csv"), columns=columns)
    assert first.num_items == 40 and again.path == first.path
    assert first.manifest["fingerprint"] == again.manifest["fingerprint"]


def test_an_experiment_of_a_folder_of_one_s_own(shop: Path) -> None:
    (shop / "my conf" / "experiment").mkdir(parents=True)
    (shop / "my conf" / "experiment" / "shop.yaml").write_text(
        "# @package _global_\ndefaults: [{override /data: events}]\n"
        "data: {path: events.csv, columns: {item_id: sku, user_id: customer, timestamp: time}}\n"
    )
    assert tt.prepare(overrides=["experiment=shop"], config_dir="my conf").num_items == 40


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: tt.prepare("nowhere.csv"), "nowhere.csv"),
        (lambda: tt.prepare("events.csv"), "data.columns.item_id=NAME"),
        (lambda: tt.prepare("events.csv", columns={"item": "sku"}), "'data.columns.item_id'"),
        (lambda: tt.prepare("events.csv", overrides=["splitt=temporal"]), "'split'"),
        (lambda: tt.train("events.csv", overrides=["model.dimm=3"]), "'model.dim'"),
        (lambda: tt.train("events.csv", experiment="ottto"), "'otto'"),
        (lambda: tt.train("events.csv", overrides=["sweep=tpe"]), "twotower train -m"),
        (lambda: tt.evaluate("nowhere"), "say which data"),
        (lambda: tt.export("nowhere"), "nowhere"),
        (lambda: tt.compare("nowhere", "there"), "nowhere"),
    ],
)
def test_a_mistake_is_one_error_that_helps(call: Any, expected: str, shop: Path) -> None:
    with pytest.raises(tt.UserError) as refusal:
        call()
    assert expected in str(refusal.value)
    assert not (shop / "runs").exists()
