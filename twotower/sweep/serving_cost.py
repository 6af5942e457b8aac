"""What a model costs where it serves, as an objective of a sweep beside its quality."""

import time

import torch

from twotower.runs.run import Run

SERVING = "serving/"
HISTORIES, LIST_LENGTH = 50, 20


def serving_cost(run: Run) -> dict[str, float]:
    """`serving/megabytes`: vectors and user tower, float32; `serving/milliseconds`: a longest history to its items.

    The time is the median of HISTORIES on one thread, with torch: for comparing models, beside whatever else the
    machine does meanwhile.
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
    return {
        f"{SERVING}megabytes": 4e-6 * numbers,
        f"{SERVING}milliseconds": sorted(milliseconds)[HISTORIES // 2],
    }
