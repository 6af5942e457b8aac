"""Measure a bundle on this machine: time to load, memory, and time of an answer.

    twotower measure BUNDLE

One thread asks for 20 items after one golden history at a time. The last line is JSON.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.core.errors import printing_user_errors

CALLS = 500
WARM_UP = 20


def measure(path: str | Path) -> dict[str, float]:
    """Load a bundle and time answers; for a process of its own, so that imports and memory are the bundle's.

    Returns:
        cold_start_s (seconds from the first import to the first answer), peak_memory_mb (of the process, 1e6 bytes),
        p50_ms and p99_ms (milliseconds of one answer).

    Raises:
        UserError: the bundle can't be opened.
    """
    begin = time.perf_counter()
    from twotower.core.files import read_json
    from twotower.serving.bundle_format import GOLDEN_FILE
    from twotower.serving.golden_answers import item_of
    from twotower.serving.retriever import Retriever

    retriever = Retriever.load(path)
    golden = read_json(retriever.bundle.file(GOLDEN_FILE), "a bundle")["histories"]
    histories = [[item_of(event) for event in history] for history in golden]
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
    """Peak memory of this process in MB; NaN where the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage includes the parent's memory at the time of the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1e3
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (1e6 if sys.platform == "darwin" else 1e3)


@printing_user_errors
def main(arguments: Sequence[str]) -> int:
    """Print the measurements, last as JSON; returns 0, or 2 for a mistake that the user can correct."""
    if len(arguments) != 1:
        print("usage: twotower measure BUNDLE", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads wait for each other on a busy machine

    figures = measure(arguments[0])
    for name, value in figures.items():
        print(f"{name:<15}  {value:,}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
