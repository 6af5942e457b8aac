"""What a promotion shows of two bundles: lists by name beside each other, and the data behind them."""

from pathlib import Path

import pytest
from model_bundle import write_shop_bundle

from twotower.lifecycle.side_by_side import EXAMPLES, ITEMS, data_facts, lists_side_by_side
from twotower.serving.bundle import Bundle, open_bundle
from twotower.serving.retriever import Retriever


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two bundles with the same items, whose ids are texts in one and numbers in the other."""
    folder: Path = tmp_path_factory.mktemp("bundles")
    one, other = (open_bundle(write_shop_bundle(folder / kind.__name__, kind)) for kind in (str, int))
    return one, other


def test_lists_have_names_where_items_do_and_answer_the_same_histories(bundles: tuple[Bundle, Bundle]) -> None:
    one, other = bundles
    examples = lists_side_by_side(one, one)
    assert 1 <= len(examples) <= EXAMPLES
    answers = Retriever(one).recommend([["103", "105"]], ITEMS).ids[0]
    for history, candidate, champion in examples:
        assert candidate == champion and len(candidate) == ITEMS and history
        assert not set(answers) & set(candidate), "names, not ids"
    # A champion that knows the histories' items as numbers finds them all the same.
    assert [(e[0], e[1]) for e in lists_side_by_side(one, other)] == [(e[0], e[1]) for e in examples]


def test_facts_of_the_data(bundles: tuple[Bundle, Bundle]) -> None:
    one, _ = bundles
    ids = one.item_ids.to_pylist()
    assert data_facts({}, one, ids[1:]) == {"items": str(len(ids)), "of these not in the other": "1"}
    split = {"test_start": 1_767_225_600_000, "validation_start": 1_767_139_200_000}
    manifest = {"rows": {"kept": 1234}, "split": split, "sessions": {"count": 56}, "timestamp_unit": "ms"}
    manifest |= {"event_types": ["cart", "view"], "fingerprint": "f"}
    facts = data_facts(manifest, one)
    assert facts["events"] == "1,234" and facts["sessions"] == "56" and facts["event types"] == "cart, view"
    assert facts["test from"] == "2026-01-01 00:00" and facts["validation from"] == "2025-12-31 00:00"
    without_times = data_facts({**manifest, "timestamp_unit": "ordinal"}, one)
    assert "test from" not in without_times
