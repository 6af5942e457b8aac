"""Do the intervals hold what they promise? Synthetic tests with a known true recall, drawn again and again.

    python experiments/benchmarks/interval_coverage.py

Each replication draws a test: sessions with 1 to 20 queries (geometric, mean 4), each session with its own chance of
a hit (Beta), so that queries of a session go together. The true recall is that of all queries that could be drawn.
Coverage: how often the 95 % interval of one ranker has it. False positives: how often two rankers of the same true
recall, right on partly the same queries, are told apart. Power: the same with a true difference. Prints a table and,
as its last line, one line of JSON.
"""

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from twotower.evaluation.intervals import bootstrap_means

Array = npt.NDArray[Any]
LONGEST, MEAN_LENGTH = 20, 4
# What shops look like: recall, and how different sessions are (the Beta's two parameters add up to this).
CASES = {"recall .5, sessions alike": (0.5, 20.0), "recall .5, sessions differ": (0.5, 1.0), "recall .1": (0.1, 1.0)}


def draw(random: np.random.Generator, sessions: int, recall: float, alike: float, lead: float) -> tuple[Array, Array]:
    """[Q, 2] hits of two rankers, and [Q] their sessions.

    A session's length tells nothing of its chance, so that the mean over queries is `recall`; the second ranker's
    chance is smaller by `lead`. Half of the queries are decided by one draw for both.
    """
    length = np.minimum(random.geometric(1 / MEAN_LENGTH, sessions), LONGEST)
    session = np.repeat(np.arange(sessions), length)
    chance = random.beta(recall * alike, (1 - recall) * alike, sessions)[session]
    one, other = random.random((2, len(session)))
    other = np.where(random.random(len(session)) < 0.5, one, other)
    return np.column_stack([one < chance, other < chance - lead * chance / recall]).astype(float), session


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--sessions", default="40,100,400", help="of a test (default: %(default)s)")
    parser.add_argument("--lead", type=float, default=0.05, help="true difference for the power (default: %(default)s)")
    options = parser.parse_args()
    table = Table("case", "sessions", "coverage (93-97 %)", "false positives (3-7 %)", f"power at {options.lead}")
    figures = []
    for name, (recall, alike) in CASES.items():
        for sessions in map(int, options.sessions.split(",")):
            random = np.random.default_rng(0)
            covered = false = true = 0
            for replication in tqdm(range(options.replications), f"{name}, {sessions} sessions", leave=False):
                hits, session = draw(random, sessions, recall, alike, 0.0)
                led, its = draw(random, sessions, recall, alike, min(options.lead, recall / 2))
                values = np.column_stack([hits, hits[:, 0] - hits[:, 1]])
                found = bootstrap_means(values, session, (), options.replicates, seed=replication)
                covered += bool(found.low[0, 0] <= recall <= found.high[0, 0])
                false += bool(found.low[0, 2] > 0 or found.high[0, 2] < 0)
                led_by = bootstrap_means(
                    (led[:, 0] - led[:, 1])[:, None], its, (), options.replicates, seed=replication
                )
                true += bool(led_by.low[0, 0] > 0)
            shares = [count / options.replications for count in (covered, false, true)]
            table.add_row(name, str(sessions), *(f"{100 * s:.1f} %" for s in shares))
            case = dict(zip(("coverage", "false_positives", "power"), shares, strict=True))
            figures.append({"case": name, "sessions": sessions, **case})
    Console().print(table)
    print(json.dumps({"replications": options.replications, "replicates": options.replicates, "cases": figures}))


if __name__ == "__main__":
    main()
