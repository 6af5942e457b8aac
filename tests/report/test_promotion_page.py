"""The page of a promotion says what was decided and why, and escapes names of items."""

from twotower.evaluation.comparison import Comparison, Row
from twotower.report.promotion_page import change_rows, promotion_page


def test_it_shows_checks_differences_and_lists() -> None:
    row = Row("recall_at_20", "", 900, [0.5, 0.4, 0.6], [0.45, 0.4, 0.5], [0.05, 0.02, 0.08])
    none = Row("brand", "a", 3, [0.5, None, None], [0.4, None, None], [0.1, None, None])
    compared = Comparison("recall_at_20", [row], [none], [])
    checks = [("parity", True, "close"), ("size", False, "9 MB")]
    changes = change_rows({"items": "90"}, {"items": "100", "events": "7"})
    examples = [(["tea"], ["<cup>", "pot"], ["pot", "mug"])]
    page = promotion_page("shop: version 2", ("error", "refused: size"), checks, compared, examples, changes)
    for text in ("✓ parity", "✗ size", "refused: size", "+0.0500 ±0.0300", "too few sessions", "&lt;cup&gt; (new)"):
        assert text in page
    assert "pot (new)" not in page and "After tea" in page
    first = promotion_page("shop", ("good", "promoted"), checks, None, [], change_rows(None, {"items": "100"}))
    assert "All queries" not in first and ">100<" in first
