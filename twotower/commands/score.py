"""The best items for every user, in a batch: what `recommend` answers for each history, as Parquet files.

Reads events as training does: item_id, timestamp, user_id (or session_id), and the columns that the model uses. FOLDER
gets a row for each place: user_id, rank, item_id, score. After a kill the same command goes on.

    twotower score bundles/shop --events 'events/*.parquet' --out scores
    twotower score bundles/shop --events events.parquet --out scores -k 10 --exclude bought.parquet --exclude-seen
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """`twotower score BUNDLE --events PATH --out FOLDER`: write and print a summary; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle; also one that MLflow has")
    parser.add_argument("--events", required=True, type=Path, help="a file, a folder or a quoted glob of event files")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="a new folder for the scores")
    parser.add_argument("-k", type=int, default=20, help="items for each user (default: %(default)s)")
    parser.add_argument("--objective", help='an event type to ask for, or weights: {"view": 0.2, "purchase": 0.8}')
    parser.add_argument(
        "--timestamp", help="when it is asked, if the bundle has a query time: 2026-12-24T08:00, in UTC"
    )
    parser.add_argument("--exclude-seen", action="store_true", help="leave out the items of each user's history")
    table = "TABLE"
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar=table,
        help="a table of items to leave out: item_id, for all users; with user_id, for this user; may be repeated",
    )
    parser.add_argument("--include", metavar=table, help="a table of the items to choose from: item_id")
    parser.add_argument("--filters", help='what items must satisfy: {"price": {"max": 50}}')
    parser.add_argument("--max-per", help='the most items that share a value: {"brand": 2}')
    parser.add_argument(
        "--columns", nargs="*", default=[], metavar="NAME=COLUMN", help="the events' own names: user_id=customer"
    )
    parser.add_argument("--unit", default="ms", help="of numeric timestamps: s, ms, us, ns, ordinal (default: ms)")
    parser.add_argument("--threads", type=int, default=1, help="that compute (default: %(default)s)")
    options = parser.parse_args(arguments)

    from twotower.core.command_line import command
    from twotower.segments.batch_answers import Scoring
    from twotower.segments.score import score_users

    scoring = Scoring(
        k=options.k,
        objective=_value(options.objective, "--objective"),
        timestamp=_time(options.timestamp),
        exclude_seen=options.exclude_seen,
        filters=_value(options.filters, "--filters"),
        max_per=_value(options.max_per, "--max-per"),
        include=options.include,
        exclude=options.exclude,
    )
    columns = _columns(options.columns)
    report = score_users(
        options.bundle,
        options.events,
        options.out,
        scoring,
        columns=columns,
        unit=options.unit,
        threads=options.threads,
    )
    print(report)
    print("next: read the folder, as in", f"polars.read_parquet({str(options.out / '*.parquet')!r})")
    print("one user's items, and why:", command("retrieve", options.bundle, "--explain", "ITEM_ID ..."))
    return 0


def _value(text: str | None, option: str) -> Any:
    """A word as it is, an object from its JSON."""
    from twotower.serving.http_request import read_json_text

    return read_json_text(text, option) if text and text.lstrip().startswith("{") else text


def _time(text: str | None) -> Any:
    """A datetime from ISO 8601, or milliseconds."""
    from datetime import datetime

    from twotower.core.errors import UserError

    if text is None or text.isdigit():
        return text and int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"--timestamp {text}; expected a time as 2026-12-24T08:00, or milliseconds since 1970"
        ) from None


def _columns(words: Sequence[str]) -> dict[str, Any]:
    """NAME=COLUMN words; raises UserError for another one."""
    from twotower.core.errors import UserError

    for word in words:
        if "=" not in word:
            raise UserError(f"--columns {word}; expected NAME=COLUMN, as user_id=customer")
    return dict(word.split("=", 1) for word in words)
