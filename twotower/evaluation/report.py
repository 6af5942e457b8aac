"""The table at the end of a run."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

COLUMNS = ("recall_at_10", "recall_at_20", "ndcg_at_20", "mrr_at_20")


def results_table(metrics: Mapping[str, float], title: str) -> Table:
    """Model, baselines and, where it is known, the ceiling: one row each, on the same queries.

    Args:
        metrics: flat results, `test/recall_at_20`, `baseline/item_knn/recall_at_20`, `ceiling/recall_at_20`.
        title: what was evaluated.
    """
    rows = _rankers(metrics)
    if any(key.startswith("ceiling/") for key in metrics):
        rows["ceiling (true distribution)"] = "ceiling"
    columns = [c for c in COLUMNS if f"test/{c}" in metrics]
    table = Table("", *(c.replace("_at_", "@") for c in columns), title=title, title_justify="left")
    for label, prefix in rows.items():
        values = [metrics.get(f"{prefix}/{column}") for column in columns]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        table.add_row(label, *cells, style="bold" if label == "model" else None)
    return table


def types_table(metrics: Mapping[str, float]) -> Table | None:
    """recall@20 by the target's event type, one column each; None where there is one type alone."""
    ending = "/recall_at_20"
    types = [
        key.split("/")[1] for key in metrics if key.startswith("test/") and key.endswith(ending) and key.count("/") == 2
    ]
    if not types:
        return None
    table = Table("recall@20 of", *types)
    for label, prefix in _rankers(metrics).items():
        values = [metrics.get(f"{prefix}/{name}{ending}") for name in types]
        table.add_row(label, *("" if value is None else f"{value:.4f}" for value in values))
    return table


def losses_to_baselines(metrics: Mapping[str, float], column: str = "recall_at_20") -> list[str]:
    """The baselines that are at least as good as the model."""
    own = metrics.get(f"test/{column}", 0.0)
    return [name for name in _names(metrics, "baseline") if metrics[f"baseline/{name}/{column}"] >= own]


def print_report(metrics: Mapping[str, float], title: str) -> None:
    """Print the table, and in red each baseline that the model does not beat."""
    console = Console()
    console.print(results_table(metrics, title))
    by_type = types_table(metrics)
    if by_type:
        console.print(by_type)
    for name in losses_to_baselines(metrics):
        console.print(
            f"the model does not beat {name} in recall@20: it has no business being deployed", style="bold red"
        )


def _rankers(metrics: Mapping[str, float]) -> dict[str, str]:
    """The model and the baselines: name -> where its metrics are."""
    return {"model": "test"} | {name: f"baseline/{name}" for name in _names(metrics, "baseline")}


def _names(metrics: Mapping[str, float], kind: str) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith(f"{kind}/")))
