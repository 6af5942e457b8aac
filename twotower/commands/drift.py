"""Compare what a model has learnt from with what came since, or two bundles: how far has the shop moved?

OLD is a run, whose training data is compared, or a prepared directory; NEW a newer run or prepared directory. What came
since are the events from the beginning of OLD's test on. Two bundles are compared by their items and answers; of a
bundle and a folder of serving.impressions it is told what requests named and the bundle does not have.

    twotower drift runs/monday runs/friday
    twotower drift bundles/monday bundles/friday
    twotower drift bundles/monday impressions

Prints a table, writes drift.html and drift.json, and ends with status 3 where something is beyond its limit.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

BEYOND = 3  # exit status


def main(arguments: Sequence[str]) -> int:
    """`twotower drift OLD NEW`: print and write what has changed; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower drift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", metavar="OLD", help="a run, a prepared directory or a bundle; also one that MLflow has")
    parser.add_argument("new", metavar="NEW", help="likewise, newer")
    parser.add_argument("--limit", type=float, default=0.21, help="most of a distance (default: %(default)s)")
    parser.add_argument(
        "--unknown", type=float, default=0.1, help="most unknown events, a share (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("drift"), help="a new folder for page and JSON (default: drift)"
    )
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", help="MLflow's (default: %(default)s)")
    parser.add_argument("--log", action="store_true", help="also log the values to OLD's MLflow run")
    options = parser.parse_args(arguments)

    import tempfile
    from contextlib import suppress

    from twotower.core.errors import UserError
    from twotower.core.files import new_directory, write_bytes, write_json
    from twotower.core.schema import TOWER_FILE, open_prepared
    from twotower.evaluation.backtest import read_run
    from twotower.evaluation.terminal_tables import print_rows
    from twotower.lifecycle.bundle_drift import bundle_drift
    from twotower.lifecycle.data_drift import data_drift, prepared_of, quality_rows, windows
    from twotower.lifecycle.drift import FAR, SHIFTED
    from twotower.lifecycle.impression_log import read_impressions
    from twotower.lifecycle.request_drift import request_drift
    from twotower.report.drift_page import HEAD, drift_cells, drift_page
    from twotower.runs.layout import ASSESSMENT_FILE
    from twotower.serving.bundle import open_bundle
    from twotower.tracking.late_metrics import log_late_metrics
    from twotower.tracking.lookup import locate

    with tempfile.TemporaryDirectory() as scratch:
        old, new = (locate(name, options.tracking_uri, Path(scratch)) for name in (options.old, options.new))
        are_bundles = [(folder / TOWER_FILE).is_file() for folder in (old, new)]
        if all(are_bundles):
            rows = bundle_drift(open_bundle(old), open_bundle(new), options.unknown)
        elif are_bundles[0] and any(new.glob("*.parquet")):
            rows = request_drift(open_bundle(old), read_impressions(new), options.unknown)
        elif any(are_bundles):
            expected = "expected two bundles, a bundle and impressions, or two of data"
            raise UserError(f"{options.old} and {options.new}: one is a bundle; {expected}")
        else:
            before, after = (open_prepared(prepared_of(folder), check=False) for folder in (old, new))
            rows = data_drift(*windows(before, after), options.limit, options.unknown)
            if (old / ASSESSMENT_FILE).is_file():
                with suppress(UserError):  # it was not tested by time
                    rows += quality_rows(read_run(old).by_day)
        if options.log:
            log_late_metrics(old, {f"drift/{row.name}": row.value for row in rows})
    cells = drift_cells([(*row, row.verdict) for row in rows])
    verdicts = {row.verdict for row in rows}
    level = "error" if FAR in verdicts else "warning" if SHIFTED in verdicts else "good"
    worst = {"error": FAR, "warning": SHIFTED}.get(level)
    named = ", ".join(row.name for row in rows if row.verdict == worst)
    words = f"{worst}: {named}" if worst else "as before"
    out = new_directory(options.out)
    write_bytes(out / "drift.html", drift_page(f"{options.old} and {options.new}", level, words, cells).encode())
    write_json(out / "drift.json", {"words": words, "rows": [{**r._asdict(), "verdict": r.verdict} for r in rows]})
    print_rows([HEAD, *cells], [words, f"page: {out / 'drift.html'}"])
    return BEYOND if level == "error" else 0
