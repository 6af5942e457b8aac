"""The tables of what objectives and the time of the query give."""

from twotower.evaluation.asked import asked_rows, at_time_rows
from twotower.evaluation.terminal_tables import table_of

METRICS = {
    f"{part}/{name}{suffix}": value
    for part in ("test", "val")
    for name, suffix, value in [
        ("recall_at_20", "", 0.5),
        ("view/recall_at_20", "", 0.25),
        ("view/recall_at_20", "_asked", 0.375),
        ("view/mrr_at_20", "", 0.125),
        ("view/mrr_at_20", "_asked", 0.0625),
        ("view/recall_at_5", "_asked", 0.1),
        ("a b/recall_at_20", "", 0.0),
        ("a b/recall_at_20", "_asked", 1.0),
        ("a b/mrr_at_20", "", 0.0),
        ("a b/mrr_at_20", "_asked", 1.0),
    ]
}


def test_each_type_has_both_values_of_each_metric_that_is_there() -> None:
    assert asked_rows(METRICS) == [
        ["targets", "recall@20 of any", "asked for", "mrr@20 of any", "asked for"],
        ["view", "0.2500", "0.3750", "0.1250", "0.0625"],
        ["a b", "0.0000", "1.0000", "0.0000", "1.0000"],
    ]


def test_models_without_objectives_have_no_table() -> None:
    plain = {name: value for name, value in METRICS.items() if not name.endswith("_asked")}
    assert asked_rows(plain) == [] and table_of(asked_rows(plain)) is None


def test_models_with_a_time_of_the_query_have_both_times() -> None:
    metrics = {"test/recall_at_20": 0.5, "test/ndcg_at_20": 0.25, "test/mrr_at_20": 0.125, "test/recall_at_5": 0.1}
    told = {"test/recall_at_20_at_time": 0.625, "test/mrr_at_20_at_time": 0.25, "test/recall_at_5_at_time": 0.5}
    assert at_time_rows({**metrics, **told}) == [
        ["query at the time of", "recall@20", "mrr@20"],
        ["the newest event", "0.5000", "0.1250"],
        ["the target, known", "0.6250", "0.2500"],
    ]
    assert at_time_rows(metrics) == [] and asked_rows({**metrics, **told}) == []
