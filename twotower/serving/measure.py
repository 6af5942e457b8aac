"""What a bundle costs on this machine: time to load, memory, and time to answer.

    python -m twotower.serving.measure BUNDLE

One thread asks for 20 items after one golden history at a time. The last line is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CALLS = 500
WARM_UP = 20


def measure(path: str | Path) -> dict[str, float]:
    """Load and answer; for a process of its own, or imports and memory are not the bundle's.

    Returns:
        cold_start_s (from the first import to the first answer), peak_memory_mb (of the process), p50_ms and p99_ms
        (of one answer).

    Raises:
        UserError: the bundle can't be loaded.
    """
    begin = time.perf_counter()
    from twotower.core.files import read_json
    from twotower.core.schema import ITEM_ID
    from twotower.serving.manifest import GOLDEN_FILE
    from twotower.serving.retriever import Retriever

    retriever = Retriever.load(path)
    golden = read_json(retriever.bundle.file(GOLDEN_FILE), "a bundle")["histories"]
    histories = [[e[ITEM_ID] if isinstance(e, dict) else e for e in history] for history in golden]
    retriever.recommend(histories[:1])
    cold = time.perf_counter() - begin
    milliseconds: list[float] = []
    for call in range(WARM_UP + CALLS):
        start = time.perf_counter()
        retriever.recommend([histories[call % len(histories)]])
        milliseconds.append(1000 * (time.perf_counter() - start))
    ordered = sorted(milliseconds[WARM_UP:])
    return {
        "cold_start_s": round(cold, 3),
        "peak_memory_mb": round(_peak_memory(), 1),
        "p50_ms": round(ordered[CALLS // 2], 3),
        "p99_ms": round(ordered[CALLS * 99 // 100], 3),
    }


def _peak_memory() -> float:
    """Of this process, in MB; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says there counts the parent's memory at the time of the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1e3
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1e6 if sys.platform == "darwin" else 1e3)


def main(arguments: Sequence[str]) -> int:
    """Print what was measured; 0: done, 2: the user can mend it."""
    if len(arguments) != 1:
        print("usage: python -m twotower.serving.measure BUNDLE", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other take turns on a busy machine
    from twotower.core.errors import UserError

    try:
        figures = measure(arguments[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:<15}  {value:,}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
