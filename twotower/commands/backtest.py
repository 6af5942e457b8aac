"""Backtest: compare runs of different dates with the baselines day by day, and show how fast a model ages.

Each run is trained on the data before a time (preparation.until) and tested on the last days (split.test_days):

    twotower train -m data=events data.path=... split.test_days=3 preparation.until=2026-01-10,2026-01-13,2026-01-16
    twotower backtest multirun/DATE/TIME

A folder stands for all runs in it. Prints the tables and writes a page.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """`twotower backtest RUN ...`: print tables and write the page; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower backtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="runs' folders, or a folder of them")
    parser.add_argument("--out", type=Path, default=Path("backtest.html"), help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)

    from twotower.core.files import write_bytes
    from twotower.evaluation.backtest import read_runs
    from twotower.evaluation.terminal_tables import print_backtest
    from twotower.report.backtest_page import backtest_page

    runs = read_runs(options.runs)
    print_backtest(runs)
    write_bytes(options.out, backtest_page(runs).encode())
    print(f"page: {options.out}")
    return 0
