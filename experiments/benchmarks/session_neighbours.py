"""Are V-SKNN and STAN what session-rec calls so, and how much faster?

    python experiments/benchmarks/session_neighbours.py .../diginetica/events.parquet

Runs both as plain loops over sets and dicts, step by step as session-rec does with the defaults of its classes
(vsknn.py, stan.py), beside ours, on the same queries: every event of a test session but its first is a target. Of
sessions of equal similarity session-rec takes whichever its sorting leaves first; ours takes the latest. The loops are
run both ways, so that a difference can be told from a mistake. STAN's sessions do not fade here, as timestamps that
are no times tell no days. Needs the columns session_id, item_id, timestamp and split.
Prints a table and, as its last line, one line of JSON.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import pairwise
from math import exp, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from twotower.evaluation.baselines.session_neighbours import STAN, VSKNN
from twotower.metrics.ranking_metrics import metric_values
from twotower.metrics.ranks import Ranks, rank

Array = npt.NDArray[Any]
NEIGHBOURS = 100
SAMPLE = {"v_sknn": 1000, "stan": 5000}
ALIKE = 1e-12  # scores that differ by less are one


class Log(NamedTuple):
    """Training sessions, and the test's."""

    sessions: dict[int, list[int]]  # items, oldest first
    ended: dict[int, int]
    tests: list[list[int]]
    num_items: int


def read(path: Path, every: int) -> Log:
    """The log, with every n-th of the test's sessions; items are numbered from 1."""
    events = pl.read_parquet(path).with_columns(pl.col("item_id").rank("dense").cast(pl.Int64))
    train, test = events.filter(pl.col("split") != "test"), events.filter(pl.col("split") == "test")
    sessions: dict[int, list[int]] = defaultdict(list)
    ended: dict[int, int] = {}
    for session, item, moment in train.select("session_id", "item_id", "timestamp").iter_rows():
        sessions[session].append(item)
        ended[session] = moment
    tests: dict[int, list[int]] = defaultdict(list)
    for session, item in test.select("session_id", "item_id").iter_rows():
        tests[session].append(item)
    return Log(dict(sessions), ended, list(tests.values())[::every], int(events["item_id"].max()))  # type: ignore[arg-type] # of integers


def loops(log: Log, kind: str, latest_first: bool) -> tuple[list[int], list[int]]:
    """How many items each target stands behind, and with how many it ties, itself included."""
    sets = {session: set(items) for session, items in log.sessions.items()}
    holders: dict[int, set[int]] = defaultdict(set)
    for session, items in sets.items():
        for item in items:
            holders[item].add(session)
    better, tied = [], []
    for items in tqdm(log.tests, f"{kind}, loops", leave=False):
        seen: list[int] = []
        relevant: set[int] = set()
        for item, target in pairwise(items):
            seen.append(item)
            relevant = relevant | holders[item]
            candidates = relevant
            if len(relevant) > SAMPLE[kind]:
                candidates = set(sorted(relevant, key=log.ended.__getitem__, reverse=True)[: SAMPLE[kind]])
            scores = _scores(log, sets, kind, seen, candidates, latest_first)
            own = scores.get(target, 0.0)
            values = np.fromiter(scores.values(), dtype=float)
            ahead = int((values > own + ALIKE).sum())
            better.append(ahead)
            tied.append(int((np.abs(values - own) <= ALIKE).sum()) if own else log.num_items - ahead)
    return better, tied


def _scores(
    log: Log, sets: dict[int, set[int]], kind: str, seen: list[int], candidates: set[int], latest_first: bool
) -> dict[int, float]:
    length, current = len(seen), set(seen)
    at = range(1, length + 1)
    weight = {i: p / length if kind == "v_sknn" else exp((p - length) / 1.02) for p, i in zip(at, seen, strict=True)}
    norm = sqrt(sum(w * w for w in weight.values()))
    near = []
    for session in candidates:
        shared = sum(weight[item] for item in current & sets[session])
        near.append((shared if kind == "v_sknn" else shared / (norm * sqrt(len(sets[session]))), session))
    near.sort(key=lambda n: (n[0], log.ended[n[1]] if latest_first else 0), reverse=True)
    scores: dict[int, float] = defaultdict(float)
    for similarity, session in near[:NEIGHBOURS]:
        if kind == "v_sknn":
            steps = next(step for step, item in enumerate(reversed(seen), start=1) if item in sets[session])
            for item in sets[session]:
                scores[item] += similarity / steps
        else:
            place = {item: p for p, item in enumerate(log.sessions[session])}
            shared_last = max(p for p, item in enumerate(log.sessions[session]) if item in current)
            for item, p in place.items():
                scores[item] += similarity * exp(-abs(p - shared_last) / 2.05)
    return scores


def ours(log: Log, kind: str) -> tuple[Array, Array]:
    """The same of our classes."""
    length = [len(items) for items in log.sessions.values()]
    item = np.concatenate([np.array(items) for items in log.sessions.values()])
    session = np.repeat(np.arange(len(length)), length)
    moment = np.repeat(np.array(list(log.ended.values())), length)
    scorer = (
        VSKNN(item, session, moment, log.num_items)
        if kind == "v_sknn"
        else STAN(item, session, moment, log.num_items, fade_days=None)
    )
    histories = [items[:end] for items in log.tests for end in range(1, len(items))]
    targets = torch.tensor([items[end] for items in log.tests for end in range(1, len(items))])
    better, tied = [], []
    for begin in range(0, len(histories), 64):
        some = histories[begin : begin + 64]
        rows = np.zeros((len(some), max(map(len, some))), dtype=np.int64)
        for row, history in zip(rows, some, strict=True):
            row[: len(history)] = history
        ranks = rank(scorer(torch.from_numpy(rows)), targets[begin : begin + 64])
        better.append(ranks.better.numpy())
        tied.append(ranks.tied.numpy())
    return np.concatenate(better), np.concatenate(tied)


def main() -> None:
    """Run all three of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path)
    parser.add_argument("--every", type=int, default=1, help="n-th session of the test (default: %(default)s)")
    options = parser.parse_args()
    log = read(options.events, options.every)
    table = Table("", "queries", "recall@20", "mrr@20", "queries/s")
    figures = []
    for kind in ("v_sknn", "stan"):
        ways = {
            "loops": lambda kind=kind: loops(log, kind, latest_first=False),
            "loops, latest first": lambda kind=kind: loops(log, kind, latest_first=True),
            "ours": lambda kind=kind: ours(log, kind),
        }
        for way, answer in ways.items():
            begin = time.perf_counter()
            better, tied = answer()
            seconds = time.perf_counter() - begin
            gains = metric_values(Ranks(torch.as_tensor(better), torch.as_tensor(tied)), [20]).mean(0).tolist()
            recall, _, mrr = gains
            speed = len(better) / seconds
            table.add_row(f"{kind}, {way}", f"{len(better):,}", f"{recall:.4f}", f"{mrr:.4f}", f"{speed:,.0f}")
            figures.append({"ranker": kind, "way": way, "recall": recall, "mrr": mrr, "queries_per_second": speed})
    Console().print(table)
    print(json.dumps({"queries": len(better), "rankers": figures}))


if __name__ == "__main__":
    main()
