"""How fast is an exact ranking over the whole catalogue, beside the matrix product alone?

    OMP_NUM_THREADS=1 python experiments/benchmarks/ranking.py

Times metrics.ranks.rank_and_list on random vectors: ranks alone, as a validation asks for them; with lists of 20, as a
test does; and with the pointer's bonus for 20 events of each history. Its floor is the product of users and items in
the same tiles, without looking at a score. Beside it whole rows of scores, compared and sorted by torch. Medians of
alternating repetitions; prints a table and, as its last line, one line of JSON.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from harness import command_line, report

from twotower.metrics.ranks import QUERIES, TILE, rank_and_list
from twotower.metrics.score_changes import history_changes

HISTORY, LISTED, REPETITIONS = 20, 20, 5


def tiled_product(user: torch.Tensor, items: torch.Tensor) -> None:
    """The scores, one tile after the other, in the same memory."""
    width = TILE // QUERIES
    memory = user.new_empty(TILE)
    for query in range(0, len(user), QUERIES):
        for item in range(0, len(items), width):
            part, tile = user[query : query + QUERIES], items[item : item + width]
            torch.mm(part, tile.T, out=memory[: len(part) * len(tile)].view(len(part), -1))


def whole_rows(user: torch.Tensor, items: torch.Tensor, target: torch.Tensor) -> None:
    """Ranks and lists as torch's own functions find them, 100 queries at a time."""
    for query in range(0, len(user), 100):
        scores = user[query : query + 100] @ items.T
        (scores > scores.gather(1, target[query : query + 100, None] - 1)).sum(1)
        scores.topk(LISTED)


def main() -> None:
    """Time all, in turn."""
    parser = command_line(__doc__)
    parser.add_argument("--items", type=int, default=43_097)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=4096)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(0)
    user = torch.randn(options.queries, options.dim, generator=draw)
    items = torch.randn(options.items, options.dim, generator=draw)
    target = torch.randint(1, options.items + 1, (options.queries,), generator=draw)
    history = torch.randint(1, options.items + 1, (options.queries, HISTORY), generator=draw)
    pointer = [history_changes(history, torch.rand(history.shape, generator=draw))]
    ways: dict[str, Callable[[], Any]] = {
        "product in tiles (floor)": lambda: tiled_product(user, items),
        "ranks": lambda: rank_and_list(user, items, target, 0),
        "ranks and lists": lambda: rank_and_list(user, items, target, LISTED),
        "ranks and lists with a pointer": lambda: rank_and_list(user, items, target, LISTED, pointer),
        "whole rows, torch's comparison and top-k": lambda: whole_rows(user, items, target),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, run in ways.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    speed = {name: options.queries / statistics.median(times) for name, times in seconds.items()}
    floor = speed["product in tiles (floor)"]
    rows = [{"way": name, "queries/s": each, "share of the floor": each / floor} for name, each in speed.items()]
    report(rows, f"{options.items:,} items, {options.dim} dimensions", items=options.items, dim=options.dim)


if __name__ == "__main__":
    main()
