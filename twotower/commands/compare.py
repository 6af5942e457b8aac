"""Compare two models: which is better, by how much, for which queries, and could it be chance.

Both must have been tested on the same data. RUN is the folder of a run or of an evaluation, or the id of an MLflow run;
`twotower evaluate BUNDLE` makes an evaluation of a bundle.
"""

import argparse
import sys
from collections.abc import Sequence

METRIC = "recall_at_20"


def main(arguments: Sequence[str]) -> int:
    """`twotower compare RUN RUN`: print metrics, slices and which run is better; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, or the id of an MLflow run")
    parser.add_argument("--metric", default=METRIC, help="metric of slices and verdict (default: %(default)s)")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    options = parser.parse_args(arguments)

    import tempfile
    from pathlib import Path

    from twotower.core.errors import UserError
    from twotower.evaluation.comparison import compare_runs
    from twotower.evaluation.results_file import RESULTS_FILE
    from twotower.evaluation.terminal_tables import print_comparison
    from twotower.tracking.lookup import locate

    try:
        with tempfile.TemporaryDirectory() as scratch:
            folders = {run: Path(run) for run in options.runs}
            for run in folders:
                folders[run] = locate(run, options.tracking_uri, Path(scratch), RESULTS_FILE)
                if not folders[run].is_dir():
                    raise UserError(f"{run} is neither a folder nor the id of an MLflow run")
            first, second = (folders[run] for run in options.runs)
            comparison = compare_runs(first, second, options.metric)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_comparison(comparison, *options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
