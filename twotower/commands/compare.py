"""Compare two models: which is better, by how much, for which queries, and could it be chance.

Both must have been tested on the same data. RUN is the folder of a run or of an evaluation, or the id of an MLflow run;
`twotower evaluate BUNDLE` makes an evaluation of a bundle.
"""

import argparse
from collections.abc import Sequence

METRIC = "recall_at_20"


def main(arguments: Sequence[str]) -> int:
    """`twotower compare RUN RUN`: print metrics, slices and which run is better; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", metavar="RUN", help="a run's folder, an MLflow run id, or models:/NAME@ALIAS")
    parser.add_argument("second", metavar="OTHER", help="what to compare it with, likewise")
    parser.add_argument("--metric", default=METRIC, help="metric of slices and verdict (default: %(default)s)")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    options = parser.parse_args(arguments)

    import tempfile
    from pathlib import Path

    from twotower.evaluation.comparison import compare_runs
    from twotower.evaluation.results_file import RESULTS_FILE
    from twotower.evaluation.terminal_tables import print_comparison
    from twotower.tracking.lookup import locate

    with tempfile.TemporaryDirectory() as scratch:
        names = (options.first, options.second)
        first, second = (locate(name, options.tracking_uri, Path(scratch), file=RESULTS_FILE) for name in names)
        comparison = compare_runs(first, second, options.metric)
    print_comparison(comparison, *names)
    return 0
