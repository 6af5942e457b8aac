"""recall@20 of targets in validation by whether training had them as one: python experiments/cold_items.py RUN..."""

import sys

import numpy as np
import torch
from torch.nn import functional

from twotower.core.schema import open_prepared
from twotower.data.loader import query_loader, training_loader
from twotower.metrics.queries import histories_of, queries_of
from twotower.metrics.ranks import rank_and_list
from twotower.metrics.score_changes import history_changes
from twotower.model.pointer import item_bonuses
from twotower.runs.run import load_run

K = 20


def main(paths: list[str]) -> None:
    """A line a run: cold and warm targets, how many there are, and the share found among the first K of all items."""
    print(f"{'run':40s} {'cold':>6s} {'recall@20':>10s} {'warm':>7s} {'recall@20':>10s}")
    for path in paths:
        run = load_run(path)
        prepared = open_prepared(run.data["path"], check=False)
        length, inputs = run.config.model.max_length, [*run.config.model.inputs]
        counts = training_loader(prepared, length, 4096, seed=0, inputs=inputs).target_counts()
        with torch.no_grad():
            items = run.model.encode_items()
            table = functional.pad(run.model.encode_history_items(), (0, 0, 1, 0))
            hits, cold = [], []
            for batch in query_loader(prepared, "validation", length, 8192, inputs=inputs):
                queries = queries_of(batch)
                history = functional.embedding(batch.item_index, table)
                user, pointer = run.model.encode_positions(history, batch.inputs, batch.item_index)
                at, seen = (queries.row, queries.position), histories_of(batch, queries)
                adjust = []
                if run.model.pointer is not None and pointer is not None:
                    adjust = [history_changes(seen, run.model.pointer.temperature * item_bonuses(pointer[at], seen))]
                hits.append((rank_and_list(user[at], items, queries.target, 0, adjust)[0].better < K).numpy())
                cold.append(counts[queries.target.numpy()] == 0)
        hit, is_cold = np.concatenate(hits), np.concatenate(cold)
        shares = [hit[is_cold].mean(), hit[~is_cold].mean()]
        print(f"{path[-40:]:40s} {is_cold.sum():6d} {shares[0]:10.4f} {(~is_cold).sum():7d} {shares[1]:10.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
