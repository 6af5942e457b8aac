"""Full softmax over a large catalogue: memory and time of the chunked loss beside the naive one.

    python experiments/benchmarks/softmax_memory.py --items 1000000 --dim 128 --positions 4096

One forward and backward pass of each loss runs in a process of its own. Memory is what it takes above parameters and
inputs (users and items): peak resident set on a CPU, peak allocation on a GPU. Gradients are compared at
--compared-items, where the naive loss fits. Prints a table and, as its last line, one line of JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import peak_bytes

from twotower.model.losses.cross_entropy import cross_entropy
from twotower.model.losses.softmax import softmax
from twotower.model.scoring import Scores, logits

GIB = 2**30


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--chunk-items", type=int, default=None, help="default: 512 on a CPU, 8192 on a GPU")
    parser.add_argument("--compared-items", type=int, default=50_000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16, by autocast")
    parser.add_argument("--job", choices=["chunked", "naive", "compare"], help="run one job here, without the table")
    arguments = parser.parse_args()
    arguments.chunk_items = arguments.chunk_items or (512 if arguments.device == "cpu" else 8192)
    return arguments


def scores_of(items: int, arguments: argparse.Namespace) -> Scores:
    """Unit vectors at temperature .07; every item is a negative, and each position's target is one of them."""
    torch.manual_seed(0)
    device = arguments.device

    def unit(rows: int) -> torch.Tensor:
        vectors = torch.randn(rows, arguments.dim, device=device)
        return vectors.div_(vectors.norm(dim=1, keepdim=True)).requires_grad_()

    user, table = unit(arguments.positions), unit(items)
    target = torch.randint(0, items, (arguments.positions,), device=device)
    ones = torch.ones(arguments.positions, device=device)
    return Scores(user, table.detach()[target], table, torch.zeros(items, device=device), target, ones, 0.07)


def bytes_now(device: str) -> int:
    if device == "cpu":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return torch.cuda.memory_allocated()


def naive(scores: Scores) -> torch.Tensor:
    """The same loss as torch's own functions compute it, [P]."""
    target, negative, sign = logits(scores)
    return cross_entropy(target, torch.logsumexp(negative, dim=1), sign)


def forward_backward(name: str, scores: Scores, arguments: argparse.Namespace) -> float:
    """Seconds of one pass, whose gradients stay in scores.user and scores.negative_vector."""
    scores.user.grad = scores.negative_vector.grad = None
    began = time.perf_counter()
    with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.bf16):
        loss = softmax(scores, arguments.chunk_items) if name == "chunked" else naive(scores)
    loss.mean().backward()
    if arguments.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """The job in this process: peak memory of the first pass, seconds of the quicker of two."""
    warm = scores_of(1000, arguments)  # libraries and threads are no part of the loss's memory
    forward_backward(name, warm, arguments)
    del warm
    scores = scores_of(arguments.items, arguments)
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = bytes_now(arguments.device)
    first = forward_backward(name, scores, arguments)
    peak = peak_bytes(arguments.device) - before
    return {"peak_bytes": peak, "seconds": min(first, forward_backward(name, scores, arguments))}


def compare(arguments: argparse.Namespace) -> dict[str, float]:
    """Largest difference of a gradient's element, relative to the largest element of the naive gradient."""
    scores = scores_of(arguments.compared_items, arguments)
    gradients = {}
    for name in ("naive", "chunked"):
        forward_backward(name, scores, arguments)
        gradients[name] = (scores.user.grad, scores.negative_vector.grad)
    return {
        part: ((ours - theirs).abs().max() / theirs.abs().max()).item()
        for part, ours, theirs in zip(("user", "items"), gradients["chunked"], gradients["naive"], strict=True)
    }


def in_a_process(job: str, arguments: argparse.Namespace, items: int) -> dict[str, float] | None:
    """The job's figures; None where it ran out of memory."""
    command = [sys.executable, __file__, "--job", job, "--items", str(items)]
    for name in ("dim", "positions", "chunk_items", "compared_items", "device"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run([*command, *(["--bf16"] if arguments.bf16 else [])], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> None:
    arguments = parse()
    if arguments.job:
        print(json.dumps(compare(arguments) if arguments.job == "compare" else measure(arguments.job, arguments)))
        return
    items, small = arguments.items, arguments.compared_items
    rows = [("chunked", items), ("chunked", small), ("naive", small)]
    figures = {f"{name}_{count}": in_a_process(name, arguments, count) for name, count in rows}
    difference = in_a_process("compare", arguments, small)

    def floor(count: int) -> tuple[float, float]:
        """Floating-point operations of the four products, and bytes of the two gradients."""
        size = arguments.positions * arguments.dim
        return 4 * 2.0 * size * count, 4.0 * (size + count * arguments.dim)

    place = torch.cuda.get_device_name() if arguments.device != "cpu" else f"{torch.get_num_threads()} threads"
    print(f"D = {arguments.dim}, {arguments.positions:,} positions, chunks of {arguments.chunk_items} items, {place}")
    print(f"{'loss':8} {'items':>10} {'peak GiB':>9} {'gradients GiB':>14} {'seconds':>8} {'GFLOP':>8} {'GFLOP/s':>8}")
    for name, count in rows:
        result, (flop, size) = figures[f"{name}_{count}"], floor(count)
        flop *= 1 if name == "chunked" else 3 / 4  # the naive loss keeps its logits
        told = f"{'out of memory':>9}"
        if result:
            told = f"{result['peak_bytes'] / GIB:9.3f} {size / GIB:14.3f} {result['seconds']:8.2f} {flop / 1e9:8.0f}"
            told += f" {flop / 1e9 / result['seconds']:8.0f}"
        print(f"{name:8} {count:10,} {told}")
    print(f"largest difference of a gradient from the naive one at {small:,} items, relative: {difference}")
    settings = {key: value for key, value in vars(arguments).items() if key != "job"}
    print(json.dumps({**settings, "place": place, "figures": figures, "gradient_difference": difference}))


if __name__ == "__main__":
    main()
