"""Memory and time of a large catalogue in training: the full softmax, and a step of the optimiser on its table.

    python experiments/benchmarks/memory.py                          # V = 1,000,000, D = 128, 4,096 positions a step
    python experiments/benchmarks/memory.py --cases lazy_adamw,lazy_adamw_row_wise --items 10000000
    python experiments/benchmarks/memory.py --device cuda --bf16

Each case runs in a process of its own; memory is the peak beyond what the process held before. The softmax cases are
one forward and backward pass of the chunked loss and of the naive one, which keeps all logits and so runs at
--compared-items, where the gradients of both are compared, too. The optimiser cases look up distinct rows, send a
gradient back, clip it and update; their floor is to read and write the three numbers a weight has, for these rows.
Prints a table and, as its last line, one line of JSON.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from harness import GIB, command_line, peak_bytes, report, run_job
from torch import Tensor, nn

from twotower.model.losses.cross_entropy import cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.optimizers.clipping import clip_gradient_norm
from twotower.model.optimizers.lazy_adamw import LazyAdamW
from twotower.model.scoring import Scores, logits

SOFTMAX = ("chunked", "chunked_small", "naive_small", "compare_small")
OPTIMIZERS = ("adamw", "lazy_adamw", "lazy_adamw_row_wise", "floor")
WARM_UP, STEPS = 3, 20


def main() -> None:
    """Run each case in a process of its own, or the one that is named here."""
    parser = command_line(__doc__)
    parser.add_argument("--items", type=int, default=1_000_000, help="V")
    parser.add_argument("--dim", type=int, default=128, help="D")
    parser.add_argument("--positions", type=int, default=4096, help="of a step, for the softmax")
    parser.add_argument("--rows", type=int, default=5000, help="distinct items of a step, for the optimisers")
    parser.add_argument("--chunk-items", type=int, default=512, help="8192 and more on a GPU")
    parser.add_argument("--compared-items", type=int, default=50_000, help="V of the _small cases")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="the softmax's matrix products in bfloat16, by autocast")
    parser.add_argument("--cases", default=",".join([*SOFTMAX, *OPTIMIZERS]))
    parser.add_argument("--here", action="store_true", help="run one case in this process")
    options = parser.parse_args()
    if options.here:
        torch.set_num_threads(options.threads)
        measure = softmax_case if options.cases in SOFTMAX else optimizer_case
        print(json.dumps(measure(options.cases, options)))
        return
    rows = []
    for case in options.cases.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--here", "--cases", case]
        job = run_job(command, cores=options.threads)
        rows.append({"case": case, "outcome": job.outcome, **job.figures()})
    report(rows, f"D = {options.dim}, {options.device}", settings=vars(options))


def softmax_case(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of the first pass and seconds of the quicker of two; or how far the gradients differ."""
    name, _, small = case.partition("_")
    items = options.compared_items if small else options.items
    if name == "compare":
        scores, gradients = softmax_scores(items, options), {}
        for loss in ("naive", "chunked"):
            forward_backward(loss, scores, options)
            gradients[loss] = (scores.user.grad, scores.negative_vector.grad)
        pairs = zip(gradients["chunked"], gradients["naive"], strict=True)
        return {"V": items, "gradient difference": max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)}
    forward_backward(name, softmax_scores(1000, options), options)  # libraries are no part of the loss's memory
    scores = softmax_scores(items, options)
    if options.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = bytes_now(options.device)
    first = forward_backward(name, scores, options)
    peak = peak_bytes(options.device) - before
    seconds = min(first, forward_backward(name, scores, options))
    size = options.positions * options.dim
    products = 4 if name == "chunked" else 3  # the naive loss keeps its logits
    return {
        "V": items,
        "peak GiB": peak / GIB,
        "gradients GiB": 4 * (size + items * options.dim) / GIB,
        "seconds": seconds,
        "GFLOP/s": products * 2 * size * items / seconds / 1e9,
    }


def softmax_scores(items: int, options: argparse.Namespace) -> Scores:
    """Unit vectors at temperature .07; every item is a negative, and each position's target is one of them."""
    torch.manual_seed(0)
    device, positions = options.device, options.positions

    def unit(rows: int) -> Tensor:
        vectors = torch.randn(rows, options.dim, device=device)
        return vectors.div_(vectors.norm(dim=1, keepdim=True)).requires_grad_()

    user, table = unit(positions), unit(items)
    target = torch.randint(0, items, (positions,), device=device)
    log_q, sign = torch.zeros(items, device=device), torch.ones(positions, device=device)
    return Scores(user, table.detach()[target], table, log_q, target, sign, 0.07)


def forward_backward(name: str, scores: Scores, options: argparse.Namespace) -> float:
    """Seconds of one pass, whose gradients stay in scores.user and scores.negative_vector."""
    scores.user.grad = scores.negative_vector.grad = None
    began = now(options.device)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
        if name == "chunked":
            loss = softmax(scores, options.chunk_items)
        else:  # as torch's own functions compute it
            target, negative, sign = logits(scores)
            loss = cross_entropy(target, torch.logsumexp(negative, dim=1), sign)
    loss.mean().backward()
    return now(options.device) - began


def optimizer_case(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and time of a step; the floor: milliseconds to read and write a step's rows three times."""
    device = torch.device(options.device)
    nn.Linear(1, 1, device=device)(torch.ones(1, 1, device=device)).backward()  # libraries are none of the table's
    before = peak_bytes(options.device)
    lazy = case.startswith("lazy")
    table = nn.Embedding(options.items + 1, options.dim, padding_idx=0, sparse=lazy, device=device)
    random = torch.Generator().manual_seed(0)
    steps = [(torch.randperm(options.items, generator=random)[: options.rows] + 1).sort().values for _ in range(6)]
    ids = [step.to(device) for step in steps]
    gradient = torch.randn(options.rows, options.dim, device=device)
    if lazy:
        optimizer: torch.optim.Optimizer = LazyAdamW(table.parameters(), 1e-3, case.endswith("row_wise"))
    else:
        optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    weight, seconds = table.weight.detach(), []
    for step in range(WARM_UP + STEPS):  # the first ones touch the memory of the moments for the first time
        began, rows = now(options.device), ids[step % len(ids)]
        if case == "floor":
            for _ in range(3):
                torch.index_select(weight, 0, rows, out=gradient)
                weight.index_copy_(0, rows, gradient)
        else:
            optimizer.zero_grad()
            table(rows).backward(gradient)
            clip_gradient_norm(table.parameters(), 1.0)
            optimizer.step()
        seconds.append(now(options.device) - began)
    row = {"V": options.items, "seconds": statistics.median(seconds[WARM_UP:])}
    if case == "floor":
        return row
    stated = {"adamw": 16.0, "lazy_adamw": 12.0, "lazy_adamw_row_wise": 8 + 4 / options.dim}[case]
    peak = peak_bytes(options.device) - before
    return {
        **row,
        "peak GiB": peak / GIB,
        "bytes a weight": peak / (options.items * options.dim),
        "stated": stated + (4 * options.rows / options.items if lazy else 0),
    }


def bytes_now(device: str) -> int:
    """Memory that this process holds now."""
    if device != "cpu":
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def now(device: str) -> float:
    """Seconds, once the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
