"""Metrics of lists that were told something of the target, beside those of the same queries that were not.

Its event type was asked for (model/objective=by_type), or its time was that of the query (model.query_time=true).
"""

from collections.abc import Mapping

COLUMNS = ("recall_at_20", "ndcg_at_20", "mrr_at_20")
SUFFIX, AT_TIME = "_asked", "_at_time"


def asked_rows(metrics: Mapping[str, float]) -> list[list[str]]:
    """Return a head and a row for each event type; nothing of a model without objectives.

    Args:
        metrics: flat, `test/purchase/recall_at_20` and `test/purchase/recall_at_20_asked`.

    >>> asked_rows({"test/buy/mrr_at_20": 0.5, "test/buy/mrr_at_20_asked": 0.75})
    [['targets', 'mrr@20 of any', 'asked for'], ['buy', '0.5000', '0.7500']]
    """
    asked = [key.removesuffix(SUFFIX).split("/") for key in metrics if key.startswith("test/") and key.endswith(SUFFIX)]
    types = dict.fromkeys(parts[1] for parts in asked)
    columns = [name for name in COLUMNS if name in {parts[2] for parts in asked}]
    if not columns:
        return []
    rows = [["targets", *(text for name in columns for text in (f"{name.replace('_at_', '@')} of any", "asked for"))]]
    for name in types:
        keys = [f"test/{name}/{column}{suffix}" for column in columns for suffix in ("", SUFFIX)]
        rows.append([name, *(f"{metrics[key]:.4f}" for key in keys)])
    return rows


def at_time_rows(metrics: Mapping[str, float]) -> list[list[str]]:
    """Return a head and a row for each time of the query; nothing of a model without it.

    Args:
        metrics: flat, `test/recall_at_20` and `test/recall_at_20_at_time`.

    >>> at_time_rows({"test/mrr_at_20": 0.5, "test/mrr_at_20_at_time": 0.75})
    [['query at the time of', 'mrr@20'], ['the newest event', '0.5000'], ['the target, known', '0.7500']]
    """
    columns = [name for name in COLUMNS if f"test/{name}{AT_TIME}" in metrics]
    if not columns:
        return []
    rows = [["query at the time of", *(name.replace("_at_", "@") for name in columns)]]
    for label, suffix in (("the newest event", ""), ("the target, known", AT_TIME)):
        rows.append([label, *(f"{metrics[f'test/{name}{suffix}']:.4f}" for name in columns)])
    return rows
