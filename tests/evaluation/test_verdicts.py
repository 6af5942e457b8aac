"""What figures say in words, by hand."""

from typing import Any

import pytest

from twotower.evaluation.verdicts import conclusions, verdict, with_interval

SURE, BEHIND, MAYBE = [0.1, 0.05, 0.2], [-0.1, -0.2, -0.01], [0.1, -0.05, 0.2]


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        *[(SURE, "better"), (BEHIND, "worse"), (MAYBE, "no different"), ([0.1, None, None], "too few sessions")],
        *[([0.0, 0.0, 0.0], "equal"), ([-0.0036, -0.0132, 0.006], "no different"), ([0.0, 0.0, 0.01], "no different")],
    ],
)
def test_verdicts(difference: list[float | None], expected: str) -> None:
    assert verdict(difference) == expected


def test_an_interval_is_told_by_its_half_width() -> None:
    assert with_interval([0.5, 0.4, 0.8], ".2f") == "0.50 ±0.2000"
    assert with_interval([0.5, None, None], ".2f") == "too few sessions"
    assert with_interval([0.0, 0.0, 0.0], "+.4f") == "0" and with_interval([0.0, -0.1, 0.1], "+.1f") == "+0.0 ±0.1000"


def summary(*standing: dict[str, Any], **differences: Any) -> dict[str, Any]:
    """Differences by baseline: of recall, and of other metrics."""
    minus = {name: {"recall_at_20": recall} | rest for name, (recall, rest) in differences.items()}
    best = next(iter(minus), None)
    return {"model_minus": minus, "best_baseline": best, "slices": [], "queries": 900, "standing": list(standing)}


def of(by: str, group: str, queries: int, **differences: Any) -> dict[str, Any]:
    minus = {name: {"recall_at_20": recall} for name, recall in differences.items()}
    return {"by": by, "group": group, "queries": queries, "model_minus": minus}


def test_a_model_that_beats_all_is_praised() -> None:
    assert conclusions(summary(v_sknn=(SURE, {"mrr_at_20": MAYBE}))) == [
        ("good", "recall@20 of all queries: better than v_sknn")
    ]
    assert conclusions(summary(a=(SURE, {}), b=(SURE, {})))[0][1].endswith("better than all 2 baselines")
    assert conclusions(summary()) == []


def test_the_worst_comes_first_and_a_difference_by_chance_is_no_defeat() -> None:
    messages = conclusions(
        {
            **summary(stan=(MAYBE, {}), rules=(SURE, {"mrr_at_20": BEHIND, "ndcg_at_20": SURE}), v_sknn=(BEHIND, {})),
            "health": ["collapse: all the same"],
        }
    )
    assert messages == [
        ("error", "not well: collapse: all the same"),
        ("error", "recall@20 of all queries: better than rules, no different from stan, worse than v_sknn"),
        (
            "warning",
            "all queries: recall@20 worse than v_sknn, -0.1000 ±0.0950; mrr@20 worse than rules, -0.1000 ±0.0950",
        ),
    ]
    tiny = conclusions(summary(stan=([-0.0036, -0.0132, 0.006], {}), knn=([-0.002, -0.02, 0.016], {})))
    assert tiny == [("warning", "recall@20 of all queries: no different from all 2 baselines")]


def test_the_headline_has_the_event_types_that_weigh_more_first() -> None:
    rows = [
        of("event type", "view", 700, stan=SURE, knn=SURE),
        of("event type", "purchase", 60, stan=BEHIND, knn=[-0.3, -0.4, -0.2]),
        of("event type", "cart", 40, stan=MAYBE, knn=SURE),
        of("event type", "remove", 30, stan=BEHIND, knn=BEHIND),
        of("target", "new", 400, stan=BEHIND, knn=SURE),
        of("weighted", "weighted", 900, stan=SURE, knn=SURE),
    ]
    content = summary(*rows, stan=(SURE, {}), knn=(SURE, {}))
    weights = {"target_weights": {"purchase": 9, "cart": 3, "remove": -1}}
    (level, text), *others = conclusions(content | weights)
    assert level == "error"
    assert text == (
        "recall@20 of all queries: better than all 2 baselines; of all queries by target weight: better than all 2 "
        "baselines; of purchase targets: worse than all 2 baselines; of cart targets: better than knn, no different "
        "from stan; of view targets: better than all 2 baselines"
    )
    assert others == [
        ("warning", "purchase targets: recall@20 worse than 2 baselines, most than knn, -0.3000 ±0.1000"),
        ("warning", "new targets: recall@20 worse than stan, -0.1000 ±0.0950"),
    ]
    unweighted = conclusions(content)[0][1]
    order = [unweighted.index(f"of {name} targets") for name in ("remove", "cart", "purchase", "view")]
    assert order == sorted(order), "without weights the rarer first"


def test_targets_that_are_not_ranked_are_counted() -> None:
    ranked = {"rules": "exclude_seen", "items": 50, "impossible": 387}
    ((level, text),) = conclusions(summary() | {"ranked": ranked})
    assert level == "warning" and "387 of 900 targets (43.0%) are not ranked (exclude_seen)" in text
    assert text.endswith("recall can't exceed 0.5700")
    assert conclusions(summary() | {"ranked": ranked | {"impossible": 0}}) == []


def test_a_lead_on_the_whole_hides_no_loss_of_some() -> None:
    rows = [("hour", "3:00", 40, BEHIND), ("hour", "4:00", 50, SURE), ("user", "new", 90, BEHIND)]
    rows += [("weekday", str(k), 10 + k, BEHIND) for k in range(5)]
    slices = [{"by": b, "group": g, "queries": n, "difference": {"recall_at_20": d}} for b, g, n, d in rows]
    messages = conclusions(summary(v_sknn=(SURE, {})) | {"slices": slices})
    assert messages[0][0] == "good"
    assert messages[1] == ("warning", "v_sknn is ahead where user is new (90 queries): -0.1000 ±0.0950")
    assert [text.split(" is ")[2].split(" ")[0] for _, text in messages[1:]] == ["new", "3:00", "4", "3", "2"]
    lost = conclusions(summary(v_sknn=(BEHIND, {})) | {"slices": slices})
    assert [level for level, _ in lost] == ["error", "warning"]
