"""`twotower init` on shops of several shapes: what it recognises, and a file that composes and prepares the events."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from twotower.commands.main import main
from twotower.runs.config_folder import CONF

ROWS, ITEMS = 4000, 60
IDS = [f"Schuh-{i:03d}ü" for i in range(ITEMS)]


def events(item: str, time: str, user: str, kind: str | None, session: str | None = None) -> pl.DataFrame:
    """A log of four weeks under the given column names; `time` counts seconds."""
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {
        item: [IDS[i] for i in draw.integers(0, ITEMS, ROWS)],
        time: np.sort(1_767_225_600 + draw.integers(0, 28 * 86_400, ROWS)),
        user: draw.integers(510_000_000, 510_000_080, ROWS),  # which would look like seconds since 1970, too
    }
    if kind:
        columns[kind] = draw.choice(["view", "add to cart", "purchase"], ROWS)
    if session:
        columns[session] = draw.integers(0, 400, ROWS)
    return pl.DataFrame(columns)


def items(key: str) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    return pl.DataFrame(
        {
            key: IDS,
            "Preis": draw.lognormal(3, 1, ITEMS).round(2),
            "brand id": draw.integers(0, 9, ITEMS),
            "genres": [f"{a}|{b}" for a, b in draw.choice(list("abcdef"), (ITEMS, 2))],
            "größe": draw.integers(30, 48, ITEMS),
            "title": [f"Ein schöner Schuh, der {i}." for i in range(ITEMS)],
            "наш": draw.choice(["x", "y"], ITEMS),
            "url": [f"http://x/{i}" for i in range(ITEMS)],
            "shop": ["one"] * ITEMS,
            "added": ["2026-01-01", "2026-02-01"] * (ITEMS // 2),
        }
    )


FEATURES = {
    "Preis": {"kind": "price"},
    "brand_id": {"kind": "categorical", "column": "brand id"},
    "genres": {"kind": "multi", "separator": "|"},
    "groe": {"kind": "numeric", "column": "größe", "buckets": 10},
    "title": {"kind": "text"},
    "feature_6": {"kind": "categorical", "column": "наш"},
}


def written(folder: Path, *arguments: str) -> Any:
    """The composed training configuration of what `twotower init` writes."""
    assert main(["init", "shop", *arguments]) == 0
    overrides = ["experiment=shop", f"hydra.searchpath=['file://{folder}/conf']", f"prepared_root='{folder}/prepared'"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[*overrides, "run_dir=x", "+cli=null"])


def test_csv_with_odd_names_and_an_item_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    events("Artikelnummer", "Zeit", "Kunde", "was").write_csv("Log (1), ä=b.csv", separator=";")
    items("Artikelnummer").write_csv("items.csv", separator=";")
    config = written(tmp_path, "Log (1), ä=b.csv", "--items", "items.csv")
    named = {name: column for name, column in config.data.columns.items() if column != "auto"}
    assert named == {"item_id": "Artikelnummer", "timestamp": "Zeit", "user_id": "Kunde", "event_type": "was"}
    assert OmegaConf.to_container(config.preparation.features["items"]) == FEATURES
    text = (tmp_path / "conf/experiment/shop.yaml").read_text()
    assert all(f"# {name} is left out" in text for name in ("url", "shop", "added"))
    assert list(config.model.inputs) == ["event_type"]
    prepared = instantiate(config.data)
    assert prepared.num_items > ITEMS / 2 and set(prepared.manifest["item_features"]) == set(FEATURES)
    out = capsys.readouterr().out
    assert "add to cart 1," in out
    assert out.splitlines()[-1].endswith(f"train --config-dir {tmp_path}/conf experiment=shop")
    assert main(["init", "shop", "Log (1), ä=b.csv"]) == 2  # the file is there already
    assert "shop.yaml" in capsys.readouterr().err


def test_parquet_with_an_item_column_that_only_the_table_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = events("was_es_war", "wann", "uid_x", None, session="visit_id").drop("uid_x")
    log.with_columns(wann=pl.from_epoch("wann")).write_parquet("log.parquet")
    table = items("was_es_war").select("was_es_war", "Preis")
    table.with_columns(vec=pl.lit([0.5, 1.0]), tags=pl.lit(["a", "b"])).write_parquet("items.parquet")
    config = written(tmp_path, "log.parquet", "--items", "items.parquet")
    named = {name: column for name, column in config.data.columns.items() if column != "auto"}
    assert named == {"item_id": "was_es_war", "timestamp": "wann", "session_id": "visit_id"}
    kinds = {name: spec["kind"] for name, spec in config.preparation.features["items"].items()}
    assert kinds == {"Preis": "price", "vec": "vector", "tags": "multi"}
    assert list(config.model.inputs) == []
    assert instantiate(config.data).num_items > ITEMS / 2


def test_json_lines_without_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    events("product_id", "event_time", "user_id", "event_type", "user_session").write_ndjson("log.jsonl")
    config = written(tmp_path, "log.jsonl", "--column", "session_id=user_session")
    assert config.data.columns.session_id == "user_session" and config.data.columns.user_id == "user_id"
    assert config.model.item_tower._target_.endswith("IdItemTower")
    assert instantiate(config.data).num_items > ITEMS / 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["shop", "nowhere.csv"], "EVENTS=nowhere.csv"),
        (["my shop", "log.csv"], "'my shop'"),
        (["shop", "log.csv"], "--column item_id=NAME"),
        (["shop", "log.csv", "--column", "item_id=wrd"], "'word'"),
        (["shop", "log.csv", "--column", "item=word"], "'item_id'"),
        (["shop", "log.csv", "--column", "word"], "COLUMN=NAME"),
        (["shop", "log.csv", "--column", "item_id=word", "--items", "items.csv"], "rename it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_says_what_to_do(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    events("word", "time", "user", None).write_csv("log.csv")
    items("other").write_csv("items.csv")
    assert main(["init", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "conf").exists()


def test_columns_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = events("sku", "ts", "customer", None).with_columns(pl.lit("knapp").alias("vorgang"), pl.lit(1.5).alias("x y"))
    log.write_parquet(tmp_path / "e.parquet")
    assert main(["init", "shop", str(tmp_path / "e.parquet"), "--config-dir", str(tmp_path / "conf")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("not used"))
    assert "vorgang" in line and "x y" in line and "--column event_type=" in line
    assert '# not used of the events: vorgang, "x y"' in (tmp_path / "conf/experiment/shop.yaml").read_text()
