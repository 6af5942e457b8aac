"""What figures say in words, by hand."""

from typing import Any

import pytest

from twotower.evaluation.verdicts import conclusions, verdict, with_interval

SURE, BEHIND, MAYBE = [0.1, 0.05, 0.2], [-0.1, -0.2, -0.01], [0.1, -0.05, 0.2]


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(SURE, "better"), (BEHIND, "worse"), (MAYBE, "unclear"), ([0.1, None, None], "too few sessions")],
)
def test_verdicts(difference: list[float | None], expected: str) -> None:
    assert verdict(difference) == expected


def test_an_interval_is_told_by_its_half_width() -> None:
    assert with_interval([0.5, 0.4, 0.8], ".2f") == "0.50 ±0.2000"
    assert with_interval([0.5, None, None], ".2f") == "too few sessions"


def summary(**differences: Any) -> dict[str, Any]:
    minus = {name: {"recall_at_20": recall} | rest for name, (recall, rest) in differences.items()}
    return {"model_minus": minus, "best_baseline": next(iter(minus), None), "slices": []}


def test_a_model_that_beats_all_is_praised() -> None:
    assert conclusions(summary(v_sknn=(SURE, {"mrr_at_20": MAYBE}))) == [
        ("good", "the model beats all 1 baselines in recall@20, beyond chance")
    ]
    assert conclusions(summary()) == []


def test_the_worst_comes_first() -> None:
    messages = conclusions(
        {
            **summary(stan=(MAYBE, {}), rules=(SURE, {"mrr_at_20": BEHIND, "ndcg_at_20": SURE}), v_sknn=(BEHIND, {})),
            "health": ["collapse: all the same"],
        }
    )
    assert [level for level, _ in messages] == ["error", "error", "warning", "warning"]
    texts = [text for _, text in messages]
    assert texts[0] == "not well: collapse: all the same"
    assert texts[1] == "the model does not beat v_sknn in recall@20: do not deploy it"
    assert "ahead of stan in recall@20, but that may be chance (unclear)" in texts[2]
    assert texts[3] == "rules is ahead of the model in mrr@20: -0.1000 ±0.0950"


def test_a_lead_on_the_whole_hides_no_loss_of_some() -> None:
    rows = [("hour", "3:00", 40, BEHIND), ("hour", "4:00", 50, SURE), ("user", "new", 90, BEHIND)]
    rows += [("weekday", str(k), 10 + k, BEHIND) for k in range(5)]
    slices = [{"by": b, "group": g, "queries": n, "difference": {"recall_at_20": d}} for b, g, n, d in rows]
    messages = conclusions(summary(v_sknn=(SURE, {})) | {"slices": slices})
    assert messages[0] == ("warning", "v_sknn is ahead where user is new (90 queries): -0.1000 ±0.0950")
    assert [text.split(" is ")[2].split(" ")[0] for _, text in messages[:-1]] == ["new", "3:00", "4", "3", "2"]
    assert messages[-1][0] == "good"
    assert [level for level, _ in conclusions(summary(v_sknn=(BEHIND, {})) | {"slices": slices})] == ["error"]
