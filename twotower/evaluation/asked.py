"""Metrics by event type of lists for any event and of lists that were asked for with the target's type."""

from collections.abc import Mapping

COLUMNS = ("recall_at_20", "ndcg_at_20", "mrr_at_20")
SUFFIX = "_asked"


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
