"""The README inside a bundle: its example runs as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from twotower.exporting.bundle import export_bundle
from twotower.exporting.readme import bundle_readme
from twotower.runs import run
from twotower.serving.retriever import Retriever

INDEX = {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000}
QUOTED = [f'it\'s | "{i}" ½' for i in range(30)]


@pytest.fixture(scope="module", params=["cosine", "dot"])
def exported(request: Any, make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    normalize = f"model.normalize={str(request.param == 'cosine').lower()}"
    loaded = run.load_run(make_run(QUOTED, "model/user_tower=mean_pool", normalize))
    return export_bundle(loaded, tmp_path_factory.mktemp("exported") / "a bundle", INDEX).path


def test_its_example_answers(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    code = re.search(r"```python\n(from .*?)```", text, re.DOTALL)
    assert code and len(code[1].splitlines()) <= 10
    env = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code[1]], cwd=exported.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    history = re.search(r"history = (\[.*?\])  #", code[1])
    assert history
    ids = Retriever.load(exported).recommend([eval(history[1])], k=10, exclude_seen=True).ids[0]
    assert [line.rsplit(" ", 1)[0] for line in done.stdout.splitlines()] == ids


def test_its_loading_reads_all_vectors(exported: Path) -> None:
    code = re.search(r"```python\n(import pyarrow.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code
    show = code[1] + "\n    print(len(rows), *rows[3]['embedding'])"
    done = subprocess.run([sys.executable, "-c", show], cwd=exported, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, *vector = done.stdout.split()
    table = pq.read_table(exported / "items.parquet")
    assert int(count) == 30
    assert [float(x) for x in vector] == table["embedding"][3].as_py()


def test_its_figures_and_its_metric_are_the_manifests(exported: Path) -> None:
    text = (exported / "README.md").read_text()
    facts = json.loads((exported / "manifest.json").read_text())
    assert f"{facts['measured']['p50_ms']:.2f} ms" in text
    assert facts["next_item"]["queries"] > 30 and facts["ranked"] == ""
    for mean, low, high in facts["next_item"]["recall_at_20"].values():
        assert (f"{mean:.4f} ±{(high - low) / 2:.4f}" if high else "too few sessions") in text
    assert f"{facts['next_item']['queries']:,} queries of the test" in text
    is_cosine = facts["similarity"] == "cosine"
    assert ("vector_cosine_ops" in text, "vector_ip_ops" in text) == (is_cosine, not is_cosine)
    assert ('"innerproduct"' in text, '"cosinesimil"' in text) == (not is_cosine, is_cosine)
    for name in facts["files"]:
        assert name == "README.md" or f"`{name}`" in text


@pytest.mark.parametrize("next_item", [None, {"queries": 9, "recall_at_20": {"exact": [0.5] * 3, "index": [0.25] * 3}}])
def test_what_was_not_measured_is_not_in_it(exported: Path, next_item: dict[str, Any] | None) -> None:
    """Without test queries there is no recall of the next item; where the 8-bit tower is left out, it has none."""
    facts = json.loads((exported / "manifest.json").read_text())
    facts |= {"next_item": next_item, "exploration": [], "int8": {**facts["int8"], "kept": False}}
    columns = pq.read_table(exported / "items.parquet").drop_columns("embedding")
    golden = json.loads((exported / "golden.json").read_text())
    text = bundle_readme("shop", facts, facts["measured"], columns, golden, {"items.parquet"})
    assert ("0.5000 ±0.0000" in text, "0.2500 ±0.0000" in text) == (next_item is not None,) * 2
    assert "8-bit user tower, exact search" not in text and "left out" in text and "Its effect" not in text
