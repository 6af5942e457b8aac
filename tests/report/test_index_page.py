"""The page on what was tried."""

import re
from html import unescape
from typing import Any

import pytest

from twotower.report.index_page import index_page


def row(kind: str, factory: str, recall: float, **more: Any) -> dict[str, Any]:
    base = {"kind": kind, "factory": factory, "search": {}, "rerank": 1, "recall": recall}
    return {**base, "p50_ms": 1.5, "p99_ms": 2.5, "bytes_per_item": 256.0, "build_s": 0.5, **more}


TRIED = [
    row("exact", "Flat", 1.0),
    row("ivf", "IVF8,SQ8", 0.9, search={"nprobe": 1}, p50_ms=0.25),
    row("ivf", "IVF8,SQ8", 0.991, search={"nprobe": 2}, p50_ms=0.375, bytes_per_item=1325.4),
    row("ivf", "IVF8,SQ8", 0.95, search={"nprobe": 2}, rerank=4, p50_ms=0.5),
]
FACTS = {
    "kind": "ivf", "factory": "IVF8,SQ8", "search": {"nprobe": 2}, "rerank": 1, "target_recall": 0.99,
    "recall": 0.991, "reason": "the fastest of <4> tried", "tried": TRIED,
}  # fmt: skip
FILTERS = [{"filter": "brand = A&B", "allowed": 0.125, "recall": 0.875, "p50_ms": 0.75}]

NEXT = {"queries": 1024, "recall_at_20": {"exact": [0.26, 0.2, 0.3], "index": [0.25, 0.2, 0.3]}}


def text(page: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)))


def test_page_says_what_was_chosen_and_shows_all() -> None:
    page = index_page(FACTS, FILTERS, NEXT, "shop & more: the index")
    shown = text(page)
    assert "<title>shop &amp; more: the index</title>" in page
    assert "Chosen: the fastest of <4> tried." in shown
    for words in (
        "ivf IVF8,SQ8",
        "0.9910 recall@20 against exact search",
        "0.2500 ±0.0500 recall@20 of the next item",
        "Recall of the next item: of 1,024 test queries",
        "0.375 ms a query",
        "1,325 bytes an item",
        "IVF8,SQ8 (chosen) nprobe 2 1 k 0.9910 0.375 2.500 1,325 0.5",
        "IVF8,SQ8 nprobe 2 4 k 0.9500",
        "Flat - 1 k 1.0000 1.500",
        "brand = A&B 12.5% 0.8750 0.750",
    ):
        assert words in shown, words
    assert shown.count("(chosen)") == 1
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert page == index_page(FACTS, FILTERS, NEXT, "shop & more: the index"), "the same for the same facts"


def test_chosen_point_has_a_ring() -> None:
    ring = re.compile(r"stroke: #[0-9a-f]{6}")
    (drawn, _) = re.findall(r"<svg.*?</svg>", index_page(FACTS, [], None, "t"), flags=re.DOTALL)
    assert "fill: none" in drawn
    assert len(set(ring.findall(drawn))) >= 3  # two families and the target


@pytest.mark.parametrize("filters", [[], FILTERS])
def test_one_alone_needs_no_curve(filters: list[dict[str, Any]]) -> None:
    facts = {**FACTS, "kind": "exact", "factory": "Flat", "search": {}, "tried": TRIED[:1], "reason": "exact search"}
    page = index_page(facts, filters, None, "t")
    assert page.count("<svg") == 0
    assert "Flat (chosen)" in page
    assert ("under filters" in page) == bool(filters)
