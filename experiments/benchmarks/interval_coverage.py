"""Do the intervals hold what they promise? Synthetic tests with a known true recall, drawn again and again.

    python experiments/benchmarks/interval_coverage.py

Each replication draws a test: sessions with 1 to 20 queries (geometric, mean 4), each session with its own chance of
a hit (Beta), so that queries of a session go together. The true recall is that of all queries that could be drawn.
Coverage: how often the 95 % interval of one ranker has it; 93 to 97 % is the goal. False positives: how often two
rankers of the same true recall, right on partly the same queries, are told apart; 3 to 7 %. Power: the same with a true
difference. Prints a table and, as its last line, one line of JSON.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from harness import command_line, report

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
    parser = command_line(__doc__)
    parser.add_argument("--replications", type=int, default=1000)
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--sessions", type=int, nargs="+", default=[40, 100, 400], help="of a test")
    parser.add_argument("--lead", type=float, default=0.05, help="true difference for the power")
    options = parser.parse_args()
    rows = []
    for name, (recall, alike) in CASES.items():
        for sessions in options.sessions:
            random = np.random.default_rng(0)
            covered = false = true = 0
            for replication in range(options.replications):
                hits, session = draw(random, sessions, recall, alike, 0.0)
                led, led_session = draw(random, sessions, recall, alike, min(options.lead, recall / 2))
                values = np.column_stack([hits, hits[:, 0] - hits[:, 1]])
                interval = bootstrap_means(values, session, (), options.replicates, seed=replication)
                covered += bool(interval.low[0, 0] <= recall <= interval.high[0, 0])
                false += bool(interval.low[0, 2] > 0 or interval.high[0, 2] < 0)
                lead = bootstrap_means(
                    (led[:, 0] - led[:, 1])[:, None], led_session, (), options.replicates, seed=replication
                )
                true += bool(lead.low[0, 0] > 0)
            counts = {"coverage": covered, "false positives": false, f"power at {options.lead}": true}
            shares = {key: count / options.replications for key, count in counts.items()}
            rows.append({"case": name, "sessions": sessions, **shares})
    report(rows, replications=options.replications, replicates=options.replicates)


if __name__ == "__main__":
    main()
