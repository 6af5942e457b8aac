"""Memory and time of a step on one large table of items, by optimiser.

    python experiments/benchmarks/optimizer_memory.py                        # V = 1,000,000, D = 128, 5,000 rows a step
    python experiments/benchmarks/optimizer_memory.py --items 10000000 --cases lazy_adamw,lazy_adamw_row_wise
    python experiments/benchmarks/optimizer_memory.py --device cuda

Each case runs in a fresh process: a table [V + 1, D] with random vectors, then steps that look up other distinct rows
each, send a gradient back, clip it and update. Peak memory is that of the whole steps beyond the process without the
table. The floor of time is reading and writing of the three numbers a weight has (itself and two moments) for the rows
of a step, once, at the rate of a copy of scattered rows. Prints a table and, as its last line, all figures as JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import peak_bytes
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from twotower.model.optimizers.lazy_adamw import LazyAdamW  # noqa: E402

CASES = ("adamw", "lazy_adamw", "lazy_adamw_row_wise", "floor")
WARM_UP = 3  # steps; the first ones touch the memory of the moments for the first time


def main() -> None:
    """Run each case in a process of its own and print all."""
    options = arguments()
    if options.case:
        print(json.dumps(measure(options)))
        return
    figures = {}
    for case in options.cases.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures[case] = json.loads(done.stdout.splitlines()[-1])
    print(f"V = {options.items:,}, D = {options.dim}, {options.rows:,} rows a step, {options.device}")
    print(f"{'':<24}{'bytes / (V D), stated':>24}{'measured':>12}{'peak (GiB)':>12}{'step (ms)':>12}")
    for case, found in figures.items():
        keys = {"stated_bytes_a_weight": 24, "bytes_a_weight": 12, "peak_gib": 12, "step_ms": 12}
        cells = (f"{found[key]:.2f}" if key in found else "" for key in keys)
        print(f"{case:<24}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, keys.values(), strict=True)))
    print(json.dumps({"items": options.items, "dim": options.dim, "rows": options.rows, "device": options.device,
                      "threads": options.threads, "cases": figures}))  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="V (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="D (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=5000, help="distinct items of a step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="timed; the median counts (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Peak memory and time of one case."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    nn.Linear(1, 1, device=device)(torch.ones(1, 1, device=device)).backward()  # the libraries are none of the table's
    before = peak_bytes(options.device)
    lazy = options.case.startswith("lazy")
    table = nn.Embedding(options.items + 1, options.dim, padding_idx=0, sparse=lazy, device=device)
    random = torch.Generator().manual_seed(0)
    steps = [(torch.randperm(options.items, generator=random)[: options.rows] + 1).sort().values for _ in range(6)]
    ids = [step.to(device) for step in steps]
    gradient = torch.randn(options.rows, options.dim, device=device)
    if options.case == "floor":
        return {"step_ms": floor(table.weight.detach(), ids, gradient, options.steps)}
    if lazy:
        optimizer: torch.optim.Optimizer = LazyAdamW(table.parameters(), 1e-3, options.case.endswith("row_wise"))
    else:
        optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    seconds = []
    for step in range(WARM_UP + options.steps):
        began = now(device)
        optimizer.zero_grad()
        table(ids[step % len(ids)]).backward(gradient)
        if isinstance(optimizer, LazyAdamW):
            optimizer.clip_gradient_norm(1.0)
        else:
            torch.nn.utils.clip_grad_norm_(table.parameters(), 1.0)
        optimizer.step()
        seconds.append(now(device) - began)
    weights = options.items * options.dim
    peak = peak_bytes(options.device) - before
    stated = {"adamw": 16.0, "lazy_adamw": 12.0, "lazy_adamw_row_wise": 8 + 4 / options.dim}[options.case]
    return {
        "stated_bytes_a_weight": stated + (4 * options.rows / options.items if lazy else 0),
        "bytes_a_weight": peak / weights,
        "peak_gib": peak / (1 << 30),
        "step_ms": 1000 * statistics.median(seconds[WARM_UP:]),
    }


def floor(table: Tensor, ids: list[Tensor], rows: Tensor, steps: int) -> float:
    """Milliseconds to read and to write the rows of a step three times."""
    seconds = []
    for step in range(WARM_UP + steps):
        began = now(table.device)
        for _ in range(3):
            torch.index_select(table, 0, ids[step % len(ids)], out=rows)
            table.index_copy_(0, ids[step % len(ids)], rows)
        seconds.append(now(table.device) - began)
    return 1000 * statistics.median(seconds[WARM_UP:])


def now(device: torch.device) -> float:
    """Seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
