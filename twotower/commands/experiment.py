"""Experiments: what another bundle would have earned, how an A/B test stands, how long one has to run.

    twotower experiment power --rate 0.03 --lift 0.05 --users-per-day 4000
    twotower experiment estimate bundles/new impressions events.parquet --types purchase
    twotower experiment read impressions events.parquet --shares old=0.5 new=0.5 --types purchase

LOG is a folder of serving.impressions, EVENTS what visitors did then: a file, a folder or a glob, as in training.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """`twotower experiment estimate|read|power ...`: print tables; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="twotower experiment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    before = actions.add_parser("estimate", help="before a test: a new bundle's value, from the log of another one")
    before.add_argument("bundle", metavar="BUNDLE", help="the new bundle's folder")
    _add_log(before, hours=24.0)
    before.add_argument("--clip", type=float, default=1000.0, help="largest weight (default: %(default)g)")
    before.set_defaults(run=_estimate)
    after = actions.add_parser("read", help="an A/B test's differences; the preference where lists were interleaved")
    _add_log(after, hours=7 * 24.0)
    after.add_argument(
        "--shares", nargs="+", default=[], metavar="BUCKET=SHARE", help="of the users; the control first"
    )
    after.add_argument(
        "--planned-users", type=int, default=0, help="of both buckets, fixed before the test: see `power`"
    )
    after.set_defaults(run=_read)
    power = actions.add_parser("power", help="users and days until a difference is seen")
    power.add_argument("--rate", type=float, help="conversion of the control; or --mean and --deviation")
    power.add_argument("--mean", type=float, help="revenue per user of the control")
    power.add_argument("--deviation", type=float, help="standard deviation of revenue between users")
    power.add_argument("--lift", type=float, required=True, help="difference to be seen, as a share: 0.05 is 5 %%")
    power.add_argument("--share", type=float, default=0.5, help="of the users in the treatment (default: %(default)g)")
    power.add_argument("--users-per-day", type=float, help="new users of both buckets")
    power.add_argument("--explained", type=float, default=0.0, help="variance that CUPED takes off, as `read` prints")
    power.set_defaults(run=_power)
    options = parser.parse_args(arguments)
    options.run(options)
    return 0


def _add_log(parser: argparse.ArgumentParser, hours: float) -> None:
    parser.add_argument("log", type=Path, metavar="LOG", help="folder of impressions")
    parser.add_argument("events", metavar="EVENTS", help="of the users or sessions that the log has as its user")
    parser.add_argument("--key", default="user_id", help="column of the log's users in EVENTS (default: %(default)s)")
    parser.add_argument("--types", nargs="+", default=[], metavar="TYPE", help="event types that count (default: all)")
    parser.add_argument("--value", metavar="COLUMN", help="of what an event is worth, such as price (default: 1 each)")
    parser.add_argument("--hours", type=float, default=hours, help="how long outcomes count (default: %(default)g)")


def _outcomes(options: argparse.Namespace) -> Any:
    from twotower.lifecycle.impression_log import read_outcome_events

    return read_outcome_events(options.events, options.key, options.types, options.value)


def _estimate(options: argparse.Namespace) -> None:
    from twotower.evaluation.terminal_tables import print_rows
    from twotower.lifecycle.experiment_tables import off_policy_table
    from twotower.lifecycle.off_policy import estimate
    from twotower.lifecycle.replay import replay
    from twotower.serving.retriever import Retriever

    retriever = Retriever.load(options.bundle)
    log, lists = replay(retriever, options.log, _outcomes(options), options.hours, options.value is not None)
    print_rows(*off_policy_table(estimate(log, lists, options.clip), options.clip))


def _read(options: argparse.Namespace) -> None:
    from twotower.core.errors import UserError
    from twotower.evaluation.terminal_tables import print_rows
    from twotower.lifecycle.ab_users import ab_users
    from twotower.lifecycle.experiment_tables import ab_test_table, preference_table
    from twotower.lifecycle.impression_log import complete, read_impressions, shown_items
    from twotower.lifecycle.preference import preference

    log, outcomes = read_impressions(options.log), _outcomes(options)
    drafted = log.filter(log["teams"].is_not_null())
    if options.shares:
        if options.planned_users < 1:
            raise UserError("an A/B test needs --planned-users, fixed before it began; `experiment power` computes it")
        shares = _shares(options.shares)
        print_rows(*ab_test_table(ab_users(log, outcomes, options.hours, [*shares]), shares, options.planned_users))
    if drafted.height:
        shown = shown_items(complete(drafted, outcomes.end, options.hours), outcomes.events, options.hours)
        votes = preference(*(shown[name].to_numpy() for name in ("user", "teams", "count")))
        print_rows(*preference_table(votes))
    elif not options.shares:
        raise UserError("no list of the log is interleaved; for an A/B test give --shares old=0.5 new=0.5")


def _shares(words: Sequence[str]) -> dict[str, float]:
    from twotower.core.errors import UserError

    try:
        shares = {name: float(share) for name, _, share in (word.rpartition("=") for word in words)}
    except ValueError:
        shares = {}
    if len(shares) < 2 or not all(name and share > 0 for name, share in shares.items()):
        raise UserError(f"--shares {' '.join(words)}: expected two or more BUCKET=SHARE, such as old=0.5 new=0.5")
    return shares


def _power(options: argparse.Namespace) -> None:
    from twotower.evaluation.terminal_tables import print_rows
    from twotower.lifecycle.experiment_tables import power_table

    base = options.rate, options.mean, options.deviation
    print_rows(*power_table(*base, options.lift, options.share, options.explained, options.users_per_day))
