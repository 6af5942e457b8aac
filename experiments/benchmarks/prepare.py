"""How fast events in Parquet become something to train on: twotower, RecBole and RecTools on the same events.

    python experiments/benchmarks/prepare.py --sizes 1,5,20 --recbole-python VENV/bin/python \\
        --rectools-python VENV/bin/python

Every measurement is a fresh process on two cores. Sizes grow; a peer that fails, or passes the limit of time or
memory, is asked for no larger one. Prints a table and, as its last line, all figures as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOBS = Path(__file__).with_name("contestants.py")
OURS, GOALS = "twotower", {"recbole": 20, "rectools": 5}  # how many times as fast we are to be
LEAST_EVENTS_PER_S = 1_000_000
GIB, MILLION = 2**30, 10**6
STEPS = ("read", "write .inter", "sort", "build", "sequences")


def main() -> None:
    """Measure everybody at every size, print, compare."""
    options = arguments()
    pythons = {"floor": sys.executable, OURS: sys.executable}
    pythons |= {"recbole": options.recbole_python, "rectools": options.rectools_python}
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.work) as folder:
        source = options.events or generated(Path(folder), max(options.sizes), options)
        for size in sorted(options.sizes):
            events = Path(folder, f"events-{size}")
            events.mkdir()
            taken = measure(sys.executable, "take", source, events, round(size * MILLION), options)
            if taken["outcome"] != "ok":
                sys.exit(f"{source} can't be read: {taken['outcome']}")
            for name, python in pythons.items():
                beaten = [run for run in runs if run["name"] == name and run["outcome"] != "ok"]
                if not python or beaten or (size > options.peers_up_to and name in GOALS):
                    continue
                tries = [measure(python, name, events, Path(folder), options.memory_gib, options)]
                while len(tries) < options.repeats and tries[-1]["outcome"] == "ok":
                    tries.append(measure(python, name, events, Path(folder), options.memory_gib, options))
                tries.sort(key=lambda run: run.get("seconds", float("inf")))
                runs.append({"name": name, "millions": size, **tries[len(tries) // 2]})
                print(row(runs[-1]), file=sys.stderr, flush=True)
            remove(events)
    print(table(runs))
    figures = compare(runs, options.memory_gib)
    for line in figures.pop("lines"):
        print(line)
    print(json.dumps({"cores": options.cores, "memory_gib": options.memory_gib, **figures, "runs": runs}))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path, help="folder of Parquet events; without it a marketplace is generated")
    parser.add_argument("--sizes", default="1,5,20", help="millions of events, the first ones (default: %(default)s)")
    parser.add_argument("--recbole-python", help="an interpreter that has recbole and polars")
    parser.add_argument("--rectools-python", help="an interpreter that has rectools[torch] and pyarrow")
    parser.add_argument("--peers-up-to", type=float, default=20, help="millions of events (default: %(default)s)")
    parser.add_argument("--memory-gib", type=float, default=2, help="our preparation.memory_gib (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="that a process may use (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="of each measurement, the median counts")
    parser.add_argument("--limit-s", type=float, default=600, help="seconds a process may take (default: %(default)s)")
    parser.add_argument("--limit-gib", type=float, default=20, help="memory it may hold (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="an existing folder for temporary files")
    options = parser.parse_args()
    options.sizes = [float(size) if "." in size else int(size) for size in options.sizes.split(",")]
    return options


def generated(folder: Path, millions: float, options: argparse.Namespace) -> Path:
    """A marketplace of a few more events than are needed."""
    events = folder / "marketplace" / "events"
    made = measure(sys.executable, "make", events, folder, round(millions * MILLION * 1.02), options)
    if made["outcome"] != "ok":
        sys.exit(f"no marketplace could be generated: {made['outcome']}")
    return events


def measure(
    python: str, job: str, events: Path, folder: Path, number: float, options: argparse.Namespace
) -> dict[str, Any]:
    """One job of contestants.py in a process of its own: what it printed, its total seconds, and how it ended."""
    threads = {name: str(options.cores) for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS")}
    with tempfile.TemporaryDirectory(dir=folder) as work, tempfile.TemporaryFile() as log:
        target = folder if job == "take" else Path(work)
        command = [python, "-W", "ignore", str(JOBS), job, str(events.resolve()), str(target), str(number)]
        child = subprocess.Popen(
            command, cwd=work, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **threads},
            preexec_fn=lambda: keep_to(options.cores),
        )  # fmt: skip
        outcome = watch(child, options)
        printed = child.communicate()[0].splitlines()
        if outcome == "ok" and child.returncode:
            log.seek(max(0, log.tell() - 4000))
            lines = log.read().decode(errors="replace").strip().splitlines()
            outcome = f"failed ({child.returncode}): {lines[-1] if lines else 'it said nothing'}"[:200]
    if outcome != "ok":
        return {"outcome": outcome}
    result: dict[str, Any] = json.loads(printed[-1])
    return {"outcome": "ok", "seconds": sum(result.get("steps", {}).values()), **result}


def keep_to(cores: int) -> None:
    """Let this process run on the first `cores` cores, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def watch(child: "subprocess.Popen[str]", options: argparse.Namespace) -> str:
    """Wait for a process, which is killed past a limit; memory is looked at where there is a /proc."""
    status, began = Path(f"/proc/{child.pid}/statm"), time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - began > options.limit_s:
            child.kill()
            return f"over {options.limit_s:g} s"
        held = status.read_text().split()[1:2] if status.exists() else []
        if held and int(held[0]) * os.sysconf("SC_PAGE_SIZE") > options.limit_gib * GIB:
            child.kill()
            return f"over {options.limit_gib:g} GiB"
    return "ok"


def remove(folder: Path) -> None:
    """Delete a folder of files."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def row(run: dict[str, Any]) -> str:
    """A run as a line of the table."""
    begin = f"{run['name']:<10}{run['millions']:>10g}"
    if run["outcome"] != "ok":
        return f"{begin}  {run['outcome']}"
    steps = "".join(f"{run['steps'][step]:>14.2f}" if step in run["steps"] else f"{'':>14}" for step in STEPS)
    rate, peak = run["rows"] / run["seconds"], run["peak_rss_bytes"] / GIB
    return f"{begin}{steps}{run['seconds']:>11.2f}{rate:>13,.0f}{peak:>15.2f}"


def table(runs: Sequence[dict[str, Any]]) -> str:
    """All runs, with the floor's bytes below."""
    head = f"{'':<10}{'events (M)':>10}" + "".join(f"{f'{step} (s)':>14}" for step in STEPS)
    head += f"{'total (s)':>11}{'events/s':>13}{'peak RSS (GiB)':>15}"
    return "\n".join([head, *map(row, sorted(runs, key=lambda run: (run["name"], run["millions"])))])


def compare(runs: Sequence[dict[str, Any]], memory_gib: float) -> dict[str, Any]:
    """Ours beside the floor, the peers at their largest sizes, and the knob; words in "lines", figures beside."""
    done = {(run["name"], run["millions"]): run for run in runs if run["outcome"] == "ok"}
    figures: dict[str, Any] = {"lines": []}
    lines = figures["lines"]
    for (name, size), ours in done.items():
        base = done.get(("floor", size))
        if name == OURS and base:
            lines.append(
                f"{size:g}M events: {base['bytes_read'] / MILLION:,.0f} MB of Parquet columns read, "
                f"{ours['bytes_written'] / MILLION:,.0f} MB written; {ours['seconds'] / base['seconds']:.1f} times as "
                "long as a plain read and sort in memory"
            )
    for name, goal in GOALS.items():
        size = max((size for peer, size in done if peer == name and (OURS, size) in done), default=None)
        if size is None:
            continue
        ours, peer = done[OURS, size], done[name, size]
        # "build" is the peer's data set alone; "sequences" is what its trainer then waits for.
        alone = peer["seconds"] - peer["steps"]["sequences"]
        ratio, ratio_alone = peer["seconds"] / ours["seconds"], alone / ours["seconds"]
        figures[name] = {"millions": size, "times_as_fast": ratio, "times_as_fast_without_sequences": ratio_alone}
        lines.append(
            f"{size:g}M events: {ratio:.1f} times as fast as {name} until it can train (goal {goal}: "
            f"{verdict(ratio >= goal)}); {ratio_alone:.1f} times without the peer's sequences"
        )
    ours = [run for (name, _), run in done.items() if name == OURS]
    if ours:
        largest = max(ours, key=lambda run: run["rows"])
        rate, peak = largest["rows"] / largest["seconds"], largest["peak_rss_bytes"] / GIB
        figures |= {"events_per_s": rate, "peak_rss_gib": peak, "rows": largest["rows"]}
        lines.append(
            f"{largest['rows']:,} events: {rate:,.0f} events/s (goal {LEAST_EVENTS_PER_S:,}: "
            f"{verdict(rate >= LEAST_EVENTS_PER_S)}); peak RSS {peak:.2f} GiB of {memory_gib:g} "
            f"({verdict(peak <= memory_gib)})"
        )
    return figures


def verdict(reached: bool) -> str:
    """In a word."""
    return "reached" if reached else "MISSED"


if __name__ == "__main__":
    main()
