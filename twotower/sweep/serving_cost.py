"""Size and latency of a model in serving, as objectives of a sweep."""

import time

import torch

from twotower.runs.run import Run

SERVING = "serving/"
HISTORIES, LIST_LENGTH = 50, 20


def serving_cost(run: Run) -> dict[str, float]:
    """Return `serving/megabytes`, of item vectors and user tower in float32, and `serving/milliseconds` of one query.

    The time is the median of HISTORIES histories of the longest length, on one thread, with torch: it compares models,
    and depends on what else the machine does.
    """
    model, length = run.model, int(run.config.model.max_length)
    parameters = [p for name, p in model.named_parameters() if not name.startswith(("item_tower", "history_tower"))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            items = model.encode_items()
            seen = items if model.history_tower is None else model.encode_history_items()
            inputs = torch.zeros(1, length, len(model.event_inputs.names), dtype=torch.long)  # type: ignore[arg-type]
            milliseconds = []
            for draw in range(HISTORIES):
                history = torch.randint(len(items), (1, length), generator=torch.Generator().manual_seed(draw))
                begin = time.perf_counter()
                user = model.encode_history(seen[history], inputs)[:, -1]
                (user @ items.T).topk(min(LIST_LENGTH, len(items)))
                milliseconds.append(1e3 * (time.perf_counter() - begin))
    finally:
        torch.set_num_threads(threads)
    numbers = sum(p.numel() for p in parameters) + items.numel() + (0 if seen is items else seen.numel())
    return {f"{SERVING}megabytes": 4e-6 * numbers, f"{SERVING}milliseconds": sorted(milliseconds)[HISTORIES // 2]}
