"""Erased rows are gone, all others are as they were, byte by byte; what descends from the files is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import polars.testing
import pyarrow.parquet as pq
import pytest
import torch
from composed import composed

from twotower.commands.main import main
from twotower.commands.train import train
from twotower.core.errors import UserError
from twotower.core.files import write_json
from twotower.core.values import TextForm
from twotower.lifecycle.erasure import erase_rows
from twotower.lifecycle.lineage import BUNDLE, PREPARED, RUN, STORE, Descendant, descendants
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.layout import checkpoint_of
from twotower.training.prepare import prepare

CSV = 'item_id,"user_id",note\r\na,12,plain\r\nb,"12.0","two\nlines, one ""quote"""\r\nc,13,é\r\nd,,\r\ne,012,x'
KEPT = 'item_id,"user_id",note\r\nc,13,é\r\nd,,\r\ne,012,x'
JSON = '{"user_id": 12, "x": 1}\n{"user_id":13}\n\n{"user_id": "12"}\n{"x": 2}\n{"user_id": null}\n'
KEPT_JSON = '{"user_id":13}\n\n{"x": 2}\n{"user_id": null}\n'


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("end", "text", "kept"), [("csv", CSV, KEPT), ("jsonl", JSON, KEPT_JSON)])
def test_texts_keep_the_bytes_of_other_rows(tmp_path: Path, end: str, text: str, kept: str, zipped: bool) -> None:
    file = tmp_path / (f"events.{end}.gz" if zipped else f"events.{end}")
    file.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    file.chmod(0o640)
    before = file.read_bytes()
    looked = erase_rows(file, "user_id", {"12"}, TextForm(), write=False)
    assert looked.found == 2 and file.read_bytes() == before and looked.before == looked.after == ""
    erased = erase_rows(file, "user_id", {"12"}, TextForm(), write=True)
    left = gzip.decompress(file.read_bytes()) if zipped else file.read_bytes()
    assert left.decode() == kept and erased.found == 2 and erased.after != erased.before
    assert file.stat().st_mode & 0o777 == 0o640 and list(tmp_path.iterdir()) == [file]
    again = erase_rows(file, "user_id", {"12"}, TextForm(), write=True)
    assert again.found == 0 and again.after == ""


@pytest.mark.parametrize("users", [[1, 2, None, 2, 3], ["ä", "b", None, "b", "12"], [1.0, 2.0, None, 2.0, 3.0]])
def test_parquet_keeps_types_compression_and_order(tmp_path: Path, users: list[object]) -> None:
    file = tmp_path / "events.parquet"
    frame = pl.DataFrame({"user_id": users, "tags": [["a"], [], None, ["b"], ["c"]], "n": range(5)})
    frame.write_parquet(file, compression="gzip", row_group_size=2)
    erased = erase_rows(file, "user_id", {"2", "b"}, TextForm(), write=True)
    assert (erased.rows, erased.found) == (5, 2)
    polars.testing.assert_frame_equal(pl.read_parquet(file), frame[[0, 2, 4]])
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "GZIP"


def test_a_failure_leaves_the_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "events.csv"
    file.write_text('user_id,x\n1,2\n2,"open\n')
    with pytest.raises(UserError, match="ends within a quoted field; nothing was changed"):
        erase_rows(file, "user_id", {"1"}, TextForm(), write=True)
    with pytest.raises(UserError, match=r"has no column 'user' .* Name the column of users: --column NAME"):
        erase_rows(file, "user", {"1"}, TextForm(), write=True)
    assert file.read_text() == 'user_id,x\n1,2\n2,"open\n' and list(tmp_path.iterdir()) == [file]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Two files of events in the present folder; returns a function that prepares them and tells the fingerprint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").mkdir()
    rows = [
        (f"u{s % 9}", f"sku-{(s * 7 + p * p) % 12}", 1_700_000_000_000 + s * 3_600_000 + p * 1000)
        for s in range(120)
        for p in range(4)
    ]
    frame = pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row")
    frame[:300].write_parquet("events/1.parquet")
    frame[300:].filter(pl.col("user_id") != "u4").write_parquet("events/2.parquet")

    def fingerprint(where: str = "events") -> str:
        data = composed("data=events", f"data.path={tmp_path}/{where}", f"prepared_root={tmp_path}/prepared").data
        return str(prepare(data, ["few_queries"]).manifest["fingerprint"])

    return fingerprint


def test_the_command_erases_deletes_names_and_proves(
    shop: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt = shop()
    (tmp_path / "without").mkdir()
    for file in ("1.parquet", "2.parquet"):
        pl.read_parquet(f"events/{file}").filter(pl.col("user_id") != "u4").write_parquet(f"without/{file}")
    never_seen = shop("without")
    manifest = next((tmp_path / "prepared").glob("events-*/manifest.json"))
    runs = {
        "old": (json.loads(manifest.read_text()), None),
        "new": ({"fingerprint": "other"}, learnt),
        "not": ({}, "x"),
    }
    for name, (data, began) in runs.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "data.json", {"fingerprint": "z", **data})
        (tmp_path / "runs" / name / "config.yaml").write_text("")
        if began:
            chain = {"data_fingerprint": began, "before": None}
            write_json(tmp_path / "runs" / name / "warm_start.json", chain)
    for name, fingerprint in (("old", learnt), ("not", "x")):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        write_json(tmp_path / "bundles" / name / "manifest.json", {"lineage": [fingerprint, "y"]})
        (tmp_path / "bundles" / name / "user_tower.onnx").write_text("")
    (tmp_path / "store").mkdir()
    write_json(tmp_path / "store" / "store.json", {"files": {str(tmp_path / "events" / "1.parquet"): []}})
    expected = [
        Descendant(STORE, "store"),
        Descendant(PREPARED, str(manifest.parent.relative_to(tmp_path))),
        *(Descendant(RUN, f"runs/{name}") for name in ("new", "old")),
        Descendant(BUNDLE, "bundles/old"),
    ]
    folders = [Path(name) for name in ("prepared", "store", "runs", "bundles")]
    assert sorted(descendants([Path("events/1.parquet")], folders)) == sorted(expected)

    second = Path("events/2.parquet").read_bytes()
    assert main(["erase", "u4", "--events", "events/*.parquet"]) == 0
    text = capsys.readouterr().out
    assert "events/1.parquet: 32 of 300 rows" in text and "nothing was changed; --yes" in text
    assert manifest.exists() and not Path("erasure.json").exists()
    Path("users.txt").write_text("u4\n")
    assert main(["erase", "users.txt", "--events", "events/*.parquet", "--yes"]) == 0
    assert not manifest.exists() and not Path("store").exists() and Path("events/2.parquet").read_bytes() == second
    certificate = json.loads(Path("erasure.json").read_text())
    assert certificate["finished"] and certificate["rows_erased"] == 32 and certificate["rows_found_afterwards"] == 0
    assert [each["name"] for each in certificate["train_again"]] == ["runs/new", "runs/old", "bundles/old"]
    assert "u4" not in Path("erasure.json").read_text()
    assert shop() == never_seen != learnt, "what is trained from now on is what never saw the user"
    assert main(["erase", "u4", "--events", "events/*.parquet", "--yes"]) == 2
    assert "erasure.json exists already; name another" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_training_after_an_erasure_is_one_that_never_saw_the_users(shop: Callable[..., str], tmp_path: Path) -> None:
    """Weights are compared bit for bit; u4 alone has an item, which must leave the vocabulary, too."""
    first = pl.read_parquet("events/1.parquet")
    own = pl.when(pl.col("user_id") == "u4").then(pl.lit("only-u4")).otherwise(pl.col("item_id"))
    first.with_columns(item_id=own).write_parquet("events/1.parquet")
    for folder in ("never", "before"):
        (tmp_path / folder).mkdir()
    for file in ("1.parquet", "2.parquet"):
        seen = pl.read_parquet(f"events/{file}")
        seen.write_parquet(f"before/{file}")
        seen.filter(~pl.col("user_id").is_in(["u2", "u4"])).write_parquet(f"never/{file}")

    def weights(where: str) -> dict[str, torch.Tensor]:
        settings = ["model.dim=8", "trainer.max_epochs=1", "trainer.accelerator=cpu", "positions_per_batch=64"]
        settings += ["threads=1", "logger=none", "evaluation.baselines=false", "evaluation.replicates=0"]
        settings += [f"data.path={tmp_path}/{where}", f"prepared_root={tmp_path}/prepared", "accept=[few_queries]"]
        config = composed("data=events", *settings)
        config.run_dir = f"{tmp_path}/trained/{where}"
        state = read_checkpoint(checkpoint_of(train(config)))["state_dict"]
        return {name: weight for name, weight in state.items() if name.startswith("model.")}

    assert main(["erase", "u2", "u4", "--events", "events/*.parquet", "--yes"]) == 0
    erased, never, before = (weights(where) for where in ("events", "never", "before"))
    assert erased.keys() == never.keys()
    assert all(torch.equal(weight, never[name]) for name, weight in erased.items())
    table = "model.item_tower.embedding.weight"
    assert len(before[table]) == len(never[table]) + 1, "with the users there is an item more"


def test_a_killed_erasure_goes_on_and_names_what_the_first_call_would_have(
    shop: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop()
    manifest = json.loads(next((tmp_path / "prepared").glob("*/manifest.json")).read_text())
    (tmp_path / "runs" / "old").mkdir(parents=True)
    write_json(tmp_path / "runs" / "old" / "data.json", manifest)
    (tmp_path / "runs" / "old" / "config.yaml").write_text("")
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name.startswith(".1.parquet"):
            replace(self, target)
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    assert main(["erase", "u4", "--events", "events/*.parquet", "--yes"]) == 130
    monkeypatch.setattr(Path, "replace", replace)
    assert not json.loads(Path("erasure.json").read_text())["finished"]
    assert main(["erase", "u4", "--events", "events/*.parquet", "--yes"]) == 0  # no file holds a row any more
    certificate = json.loads(Path("erasure.json").read_text())
    assert certificate["finished"] and [each["name"] for each in certificate["train_again"]] == ["runs/old"]
    assert certificate["deleted"] == [] and "events/1.parquet" in certificate["files"][0]["path"]
