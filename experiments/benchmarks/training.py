"""Training and evaluation beside public peers: speed, memory, and quality at equal marks of wall-clock time.

    python experiments/benchmarks/training.py --events EVENTS --peers DRIVERS --replay-python A/bin/python \\
        --rectools-python B/bin/python --recbole-python C/bin/python
    python experiments/benchmarks/training.py --events EVENTS --only twotower --per-mark --profile 20
    python experiments/benchmarks/training.py --marketplace 100000 20000000 --marketplace 5000000 100000000

Every training is a fresh process on as many cores as it has threads, one after the other. Arguments after `--` are
settings of train.py that ours gets on top. Prints tables and, as its last line, all figures as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prepare import keep_to, verdict

from twotower.data.synthetic import MEAN_LENGTH

JOB = Path(__file__).with_name("timed_training.py")
OURS = "twotower"
PEERS = {  # name: driver, its arguments; the rest of a driver's settings are the same for all
    "replay": ("replay_sasrec.py", ["--loss", "sampled", "--negatives", "2048"]),
    "rectools": ("rectools_sasrec.py", ["--loss", "gBCE", "--negatives", "256"]),
    "recbole": ("recbole_seq.py", []),
}
LAYERS, MAX_LENGTH = 2, 20
UNIFORM = 448  # of ours, beside about 1,600 distinct targets of a step: 2,048 shared negatives, as RePlay has
ONE_SCHEDULE, AS_SHIPPED, ALLOCATOR_SET = "one schedule", "as shipped", "allocator set"
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000"}  # glibc: keep freed memory
GOAL_SPEED, GOAL_EVALUATION, GOAL_GIB = 4, 3, 1.0  # times RePlay's speed; times the best peer's evaluation; GiB
FULL_SOFTMAX_UP_TO = 200_000  # items
START_S = 600  # that a process may take beside its training: imports, preparation, evaluations


def main() -> None:
    """Run everybody, print, compare."""
    options = arguments()
    figures: dict[str, Any] = {"threads": options.threads, "dim": options.dim}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=options.work) as folder:
        if options.events:
            runs = contest(options, Path(folder))
            print(table(runs, options.marks))
            lines, figures["contest"] = compare(runs)
            print("\n".join(lines))
            figures["runs"] = runs
        if options.profile:
            printed = job([*ours(options), "--profile", str(options.profile)], Path(folder), options, {})["printed"]
            print("\n".join(printed))
        if options.marketplace:
            figures["marketplace"] = [run for size in options.marketplace for run in marketplace(size, folder, options)]
            print(marketplace_table(figures["marketplace"]))
    print(json.dumps(figures))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--events", type=Path, help="Parquet with session_id, item_id, timestamp, split (train or test)"
    )
    parser.add_argument(
        "--peers", type=Path, help="folder of the peers' drivers: " + ", ".join(d for d, _ in PEERS.values())
    )
    for name in PEERS:
        parser.add_argument(f"--{name}-python", help=f"an interpreter that has {name}; without it, it is left out")
    parser.add_argument("--only", help=f"some of {OURS},{','.join(PEERS)}")
    parser.add_argument(
        "--marks", default="60,180,600", help="training seconds at which to test (default: %(default)s)"
    )
    parser.add_argument(
        "--per-mark", action="store_true", help="also train ours once for each mark, its schedule fitted"
    )
    parser.add_argument(
        "--allocator-s", type=float, default=30, help="seconds of the runs with the other allocator setting"
    )
    parser.add_argument("--dim", type=int, default=64, help="of user and item vectors (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="and cores (default: %(default)s)")
    parser.add_argument("--profile", type=int, default=0, help="steps of ours to show the operators of")
    parser.add_argument("--marketplace", type=int, nargs=2, action="append", metavar=("ITEMS", "EVENTS"))
    parser.add_argument(
        "--marketplace-s", type=float, default=60, help="seconds of training each (default: %(default)s)"
    )
    parser.add_argument("--marketplace-positions", type=int, default=16384, help="a step (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="an existing folder for temporary files")
    parser.add_argument("overrides", nargs="*", help="settings of train.py, for ours")
    options = parser.parse_args()
    options.marks = sorted(float(mark) for mark in options.marks.split(","))
    options.only = options.only.split(",") if options.only else [OURS, *PEERS]
    if unknown := set(options.only) - {OURS, *PEERS}:
        parser.error(f"--only names {', '.join(unknown)}; there are {OURS}, {', '.join(PEERS)}")
    if options.profile and not options.events:
        parser.error("--profile needs --events")
    return options


def ours(options: argparse.Namespace) -> list[str]:
    """The recipe for Diginetica in the size that all contestants have; its batch size is our own."""
    return [
        "experiment=diginetica",
        f"data.path={options.events.resolve()}",
        "model/user_tower=transformer",
        "model/negatives=mixture",
        f"model.dim={options.dim}",
        f"model.user_tower.layers={LAYERS}",
        f"model.max_length={MAX_LENGTH}",
        f"model.negatives.uniform={UNIFORM}",
        "trainer.accelerator=cpu",
        *options.overrides,
    ]


def contest(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Everybody as shipped to the last mark, then with the other allocator setting, for speed alone."""
    marks, short = options.marks, [min(options.allocator_s, options.marks[-1])]
    runs = []
    for name in options.only:
        if name == OURS:
            plans = [(ONE_SCHEDULE, marks, [], {})]
            plans += [(f"schedule of {mark:g} s", [mark], [], {}) for mark in marks if options.per_mark]
            plans.append((ALLOCATOR_SET, short, ["--no-evaluation"], ALLOCATOR))
        else:
            plans = [(AS_SHIPPED, marks, ["--own-recommend", "5000"], {})]
            plans.append((ALLOCATOR_SET, short, ["--eval-targets", "1"], ALLOCATOR))  # at least one is scored
        for variant, at, extra, environment in plans:
            extra = [*extra, "--marks", ",".join(f"{mark:g}" for mark in at)]
            if name == OURS:
                run = job([*ours(options), *extra], folder, options, environment)
            else:
                run = peer(name, extra, folder, options, environment)
            curve = [] if variant == ALLOCATOR_SET else run.get("curve", [])
            curve = [{"mark": mark, **point} for mark, point in zip(at, curve, strict=False)]
            runs.append({"name": name, "variant": variant, **run, "curve": curve})
            print(row(runs[-1], marks), file=sys.stderr, flush=True)
            if run["outcome"] != "ok":
                break
    return runs


def job(arguments: Sequence[str], folder: Path, options: argparse.Namespace, environment: Mapping[str, str]) -> Any:
    """One training of ours: its figures, or how it failed; "printed" holds the lines that it wrote."""
    command = [sys.executable, "-W", "ignore", str(JOB), "--threads", str(options.threads), *arguments]
    outcome, printed = run_process(command, folder, options, environment)
    return {"outcome": outcome, "printed": printed[:-1]} | (json.loads(printed[-1]) if outcome == "ok" else {})


def peer(
    name: str, extra: Sequence[str], folder: Path, options: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, Any]:
    """One training of a peer: its driver's figures, or why there are none."""
    python = getattr(options, f"{name}_python")
    if not python or not options.peers:
        return {"outcome": f"left out: give --peers and --{name}-python"}
    driver, settings = PEERS[name]
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    size = ["--dim", options.dim, "--layers", LAYERS, "--max-len", MAX_LENGTH, "--threads", options.threads]
    command = [str(Path(python).absolute()), "-W", "ignore", str((options.peers / driver).resolve())]
    command += [str(options.events.resolve()), *settings, *map(str, size), *extra, "--out", str(result)]
    outcome, _ = run_process(command, folder, options, environment)
    return {"outcome": outcome} | (json.loads(result.read_text()) if outcome == "ok" else {})


def run_process(
    command: Sequence[str], folder: Path, options: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Run in a temporary folder, on as many cores as threads: how it ended, and the lines that it printed."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    threads = {name: str(options.threads) for name in names}
    limit = START_S + max(options.marks[-1], options.marketplace_s)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            done = subprocess.run(
                command, cwd=work, env={**os.environ, **threads, **environment}, capture_output=True, text=True,
                timeout=limit, preexec_fn=lambda: keep_to(options.threads),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"over {limit:g} s", []
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return f"failed ({done.returncode}): {said[-1] if said else 'it said nothing'}"[:200], []
    return "ok", done.stdout.strip().splitlines()


def row(run: Mapping[str, Any], marks: Sequence[float]) -> str:
    """A training as a line of the table."""
    begin = f"{run['name']:<10}{run['variant']:<18}"
    if run["outcome"] != "ok":
        return f"{begin}  {run['outcome']}"
    at = {point["mark"]: point for point in run["curve"]}
    quality = [f"{at[m]['recall@20']:.4f}/{at[m]['mrr@20']:.4f}" if m in at else "" for m in marks]
    evaluated = run["evaluation"]["both_per_s"] if run["curve"] else None
    cells = [
        f"{run['positions_per_s']:>12,.0f}",
        *(f"{cell:>16}" for cell in quality),
        f"{evaluated:>12,}" if evaluated else f"{'':>12}",
        f"{run['own']['own_recommend_per_s']:>12,.0f}" if run.get("own") else f"{'':>12}",
        f"{run['prep']['ready_s']:>10.1f}",
        f"{run['peak_rss_gb']:>10.2f}",
        f"{run['others_cores']:>8.2f}",
    ]
    return begin + "".join(cells)


def table(runs: Sequence[Mapping[str, Any]], marks: Sequence[float]) -> str:
    """All trainings, in the order in which they ran."""
    quality = "".join(f"{f'r/mrr@20 {mark:g}s':>16}" for mark in marks)
    head = f"{'':<28}{'positions/s':>12}{quality}{'targets/s':>12}{'own top-20':>12}"
    head += f"{'ready s':>10}{'RSS GiB':>10}{'others':>8}"
    return "\n".join([head, *(row(run, marks) for run in runs)])


def compare(runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, Any]]:
    """Ours beside each peer, and the floor: in words, and as figures."""
    done = {(run["name"], run["variant"]): run for run in runs if run["outcome"] == "ok"}
    lines: list[str] = []
    figures: dict[str, Any] = {}
    base = done.get((OURS, ONE_SCHEDULE))
    if base is None:
        return ["nothing to compare with: ours did not run"], figures
    for (name, variant), run in done.items():
        if name == OURS:
            continue
        ratio = base["positions_per_s"] / run["positions_per_s"]
        figures.setdefault(name, {})[f"times_as_fast_as_{variant.replace(' ', '_')}"] = ratio
        goal = f" (goal {GOAL_SPEED}: {verdict(ratio >= GOAL_SPEED)})" if name == "replay" else ""
        lines.append(f"{ratio:.1f} times as many positions/s as {name}, {variant}{goal}")
    for name in {name: None for name, _ in done if name != OURS}:
        run = done.get((name, AS_SHIPPED))
        theirs = {point["mark"]: point["recall@20"] for point in run["curve"]} if run else {}
        for variant in [variant for who, variant in done if who == OURS]:
            for point in done[OURS, variant]["curve"]:
                if point["mark"] in theirs:
                    margin = point["recall@20"] - theirs[point["mark"]]
                    figures[name].setdefault("recall_margin", {})[f"{point['mark']:g} s, {variant}"] = margin
                    lines.append(
                        f"recall@20 after {point['mark']:g} s ({variant}): {point['recall@20']:.4f}, {name} "
                        f"{theirs[point['mark']]:.4f} (goal above: {verdict(margin > 0)})"
                    )
    own = [run["own"]["own_recommend_per_s"] for run in done.values() if run.get("own")]
    if own:
        figures["times_as_fast_evaluation"] = ratio = base["evaluation"]["both_per_s"] / max(own)
        lines.append(
            f"evaluation: {ratio:.1f} times as many targets/s as the best peer's own top 20 "
            f"(goal {GOAL_EVALUATION}: {verdict(ratio >= GOAL_EVALUATION)})"
        )
    peak, before = base["peak_rss_gb"], base["peak_rss_prepared_gb"]
    reached = verdict(peak <= GOAL_GIB)
    lines.append(f"peak RSS {peak:.2f} GiB, {before:.2f} of it before training (goal {GOAL_GIB:g}: {reached})")
    least = base["floor"]
    figures["share_of_floor"] = base["positions_per_s"] / least["positions_per_s"]
    lines.append(
        f"floor: {least['operations_per_position'] / 1e6:.2f} MFLOP a position ({least['negatives']:,} negatives, "
        f"{base['positions_per_batch']:,} positions a step) at {least['gflop_per_s']:.0f} GFLOP/s: "
        f"{least['positions_per_s']:,} positions/s; ours reaches {figures['share_of_floor']:.0%} of it"
    )
    return lines, figures


def marketplace(size: Sequence[int], folder: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trainings on one generated marketplace: full softmax where the catalogue allows it, and sampled."""
    items, events = size
    sessions = max(10, round(events / MEAN_LENGTH))
    settings = [
        "data=marketplace",
        f"data.items={items}",
        f"data.sessions={sessions}",
        f"data.users={max(10, sessions // 5)}",
        "data.oracle=false",
        f"prepared_root={folder}",  # kept for the next training
        "model.dim=128",
        f"model.user_tower.layers={LAYERS}",
        f"positions_per_batch={options.marketplace_positions}",
    ]
    objectives = {"sampled": ["model/negatives=mixture", "optimizer=lazy_adamw"]}
    if items <= FULL_SOFTMAX_UP_TO:
        objectives["full, chunked"] = ["model/negatives=catalogue", "model/loss=chunked_softmax"]
    time = ["--marks", f"{options.marketplace_s:g}", "--no-evaluation"]
    runs = []
    for name, objective in objectives.items():
        run = job([*settings, *objective, *options.overrides, *time], Path(folder), options, {})
        runs.append({"items": items, "objective": name, **run})
    return runs


def marketplace_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Events a second count each session's first event, too, which is no target."""
    lines = [
        f"{'items':>10}{'objective':>16}{'events':>14}{'prepared s':>12}{'positions/s':>13}{'events/s':>11}  device"
    ]
    for run in runs:
        begin = f"{run['items']:>10,}{run['objective']:>16}"
        if run["outcome"] != "ok":
            lines.append(f"{begin}  {run['outcome']}")
            continue
        figures = f"{run['events']:>14,}{run['prep']['prepared_s']:>12.1f}{run['positions_per_s']:>13,.0f}"
        lines.append(f"{begin}{figures}{run['events_per_s']:>11,}  {run['device']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
