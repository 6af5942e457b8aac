"""The README inside a bundle: its example runs as it stands."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markdown_it import MarkdownIt

from twotower.exporting.bundle import export_bundle
from twotower.exporting.readme import bundle_readme
from twotower.report.index_page import index_page
from twotower.runs import run
from twotower.serving.contract import contract
from twotower.serving.event_encoder import EventEncoder
from twotower.serving.http_request import refusal
from twotower.serving.retriever import Retriever

INDEX = {"families": ["exact"], "target_recall": 0.99, "exact_below": 200_000}
FEATURES = {"time_zone": "UTC", "event_types": ["view"], "input_types": [1]}
KIND = {"kind": "categorical", "out_of_vocabulary": 1}
MEASURED = dict.fromkeys(["p50_ms", "p99_ms", "cold_start_s", "peak_memory_mb"], 1.0)
TRIED = {"factory": "Flat", "kind": "exact", "search": {}, "rerank": 1, "recall": 1.0, "label_recall": 1.0}
TRIED |= {"p50_ms": 1.0, "p99_ms": 1.0, "bytes_per_item": 1.0, "build_s": 1.0}
INDEX_FACTS = {**TRIED, "tried": [TRIED], "target_recall": 0.99, "reason": "it is exact"}
FACTS = {
    "num_items": 2, "dim": 3, "similarity": "dot", "exploration": [], "index": INDEX_FACTS,
    "int8": {"float32_label_recall": 1.0, "label_recall": 1.0, "kept": False}, "ranked": "",
    "next_item": None, "metrics": {}, "objectives": [], "query_time": False,
}  # fmt: skip
QUOTED = [f'it\'s | "{i}" ½' for i in range(30)]


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in ("cosine", "dot")])
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


HOSTILE = ["<script>x</script>", "a|b", "`", "``x`", " y ", "line\nline", "\u202e商品", "*b* _i_ [l](http://x)", "&lt;"]


def cells(markdown: str) -> list[list[str]]:
    """The texts of all tables' cells, as a Markdown parser reads them."""
    rows: list[list[str]] = []
    for token in MarkdownIt().enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append("")
        elif token.type == "inline" and rows and not rows[-1][-1]:
            rows[-1][-1] = "".join(child.content for child in token.children or [])
        assert token.type != "html_block"
    return rows


@pytest.mark.parametrize("text", HOSTILE)
def test_names_stay_in_their_cells(text: str) -> None:
    shown = text.replace("\n", "\\n").replace("\u202e", "\\u202e")
    columns = {"item_id": [text, "b"], "train_count": [1, 2], "age_days": [0, None], "brand": [text, text], "z": [1, 2]}
    encoder = EventEncoder(["kind"], {**FEATURES, "events": {"kind": {**KIND, "column": text, "vocabulary": [text]}}})
    golden = {"histories": [[text]]}
    requests = contract(encoder, pa.table(columns), golden)
    facts = {**FACTS, "requests": requests, "run": text, "filters": [{"filter": text, "allowed": 0.5, "recall": 1.0}]}
    markdown = bundle_readme(text, facts, MEASURED, golden, {"README.md"})
    rows = cells(markdown)
    assert [shown, "text", shown, "kind"] in rows
    assert ["brand", "text", shown] in rows
    assert [shown, "50.0%", "1.0000"] in rows
    assert ["z", "number", "from 1 to 2"] in rows and ["age_days", "number", "from 0 to 0"] in rows
    title = next(token for token in MarkdownIt().parse(markdown) if token.type == "inline")
    assert [child.content for child in title.children or []] == [shown]
    request = re.search(r"```json\n(.*)\n```", markdown)
    assert request and json.loads(request[1])["inputs"] == requests["example"]["histories"]
    page = index_page(INDEX_FACTS, [{**facts["filters"][0], "p50_ms": 1.0}], None, text)
    assert text not in HOSTILE[:1] or text not in page
    assert html.escape(text, quote=False) in page.replace("&#34;", '"').replace("&#39;", "'")


def test_its_request_is_answered_by_a_strict_retriever_and_says_what_training_had(exported: Path) -> None:
    facts = json.loads((exported / "manifest.json").read_text())["requests"]
    retriever = Retriever.load(exported, strict=True)
    assert len(retriever.recommend(**facts["example"]).ids[0]) > 0 and retriever.unknown == {}
    text = (exported / "README.md").read_text()
    request = re.search(r"```json\n(.*)\n```", text)
    assert request and refusal(request[1].encode(), "application/json") is None
    assert facts["events"]["event_type"]["values"] == ["cart", "purchase", "view"]
    assert ["event_type", "text", "cart, purchase, view", "not used"] in cells(text)


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
    golden = json.loads((exported / "golden.json").read_text())
    text = bundle_readme("shop", facts, facts["measured"], golden, {"items.parquet"})
    assert ("0.5000 ±0.0000" in text, "0.2500 ±0.0000" in text) == (next_item is not None,) * 2
    assert "8-bit user tower, exact search" not in text and "left out" in text and "Its effect" not in text
