"""Print a sweep's table of trials, and write its page again: twotower sweep-report sweeps/NAME

It can be called while the sweep runs; the report then shows the trials that have ended.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its status."""
    parser = argparse.ArgumentParser(
        prog="twotower sweep-report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP_FOLDER", help="such as sweeps/NAME")
    options = parser.parse_args(arguments)
    from twotower.sweep.sweep_report import report_sweep

    report_sweep(options.sweep.resolve())
    return 0
