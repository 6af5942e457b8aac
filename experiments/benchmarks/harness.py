"""What all benchmarks share: command line, jobs in processes of their own, percentiles, tables, one JSON line.

The standard library alone, so that it also runs in the interpreters of other packages and on a bare GPU machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")  # what libraries read at their start


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the docstring's lines; name each default."""


def command_line(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as its help."""
    return argparse.ArgumentParser(description=description, formatter_class=_Formatter)


class Job(NamedTuple):
    """A finished process."""

    outcome: str  # "ok", or why there are no figures
    seconds: float
    peak_gib: float  # peak resident memory
    lines: list[str]  # of its standard output

    def figures(self) -> dict[str, Any]:
        """The JSON of its last line; {} after a failure."""
        return json.loads(self.lines[-1]) if self.outcome == "ok" else {}


def run_job(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    cores: int | None = None,
    env: Mapping[str, str] | None = None,
    limit_s: float = 3600,
) -> Job:
    """Run a process to its end, on the first `cores` cores with as many threads; it is killed after `limit_s`."""
    threads = dict.fromkeys(THREADS, str(cores)) if cores else {}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        begin = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command], cwd=cwd, stdout=out, stderr=error, text=True,
            env={**os.environ, **threads, **(env or {})}, preexec_fn=lambda: use_cores(cores),
        )  # fmt: skip
        pid = 0
        while not pid and time.perf_counter() - begin < limit_s:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if not pid:
                time.sleep(0.02)
        if not pid:
            child.kill()
            _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        lines, message = out.read().splitlines(), error.read().strip().splitlines()
    outcome = "ok"
    if not pid:
        outcome = f"stopped after {limit_s:g} s"
    elif child.returncode:
        outcome = f"failed ({child.returncode}): {message[-1] if message else 'no message'}"[:300]
    return Job(outcome, seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB, lines)


def use_cores(cores: int | None) -> None:
    """Keep this process to the first `cores` cores, where the system can do that."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def peak_bytes(device: str = "cpu") -> int:
    """Peak memory of this process: its resident set, or what torch has allocated on a GPU."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def percentiles(call: Callable[[int], object], calls: int, warm_up: int = 50) -> list[float]:
    """Median and 99th percentile of the milliseconds of call(0), call(1), ..., after a warm-up."""
    milliseconds = []
    for number in range(warm_up + calls):
        begin = time.perf_counter()
        call(number)
        milliseconds.append(1000 * (time.perf_counter() - begin))
    ordered = sorted(milliseconds[warm_up:])
    return [ordered[calls // 2], ordered[min(calls - 1, calls * 99 // 100)]]


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows of equal or different keys below a head of all keys; nested values are left to the JSON line."""
    if title:
        print(f"\n{title}")
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if not _nested(rows, name)]
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells if names else []:
        print("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip())


def report(rows: Sequence[Mapping[str, Any]], title: str = "", **facts: Any) -> None:
    """Print the table of the rows and, as the last line, all figures as JSON."""
    print_table(rows, title)
    print(json.dumps({**facts, "rows": list(rows)}, default=str), flush=True)


def _nested(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(isinstance(row.get(name), dict | list) for row in rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
