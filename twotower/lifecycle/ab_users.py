"""Outcomes per user of an A/B test, from its impressions and the events that followed.

A user is in the test from the first impression on, and outcomes count for `hours` from then: for each user equally
long, and once these hours are over the figure does not change any more, so that intervals may be looked at while others
still come. What the user did before the first impression is the figure that reduces the variance. Shapes: U users.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from twotower.core.errors import UserError
from twotower.core.schema import TIMESTAMP
from twotower.core.values import TextForm
from twotower.data.text_form import ids
from twotower.lifecycle.impression_log import HOUR, USER, VALUE, Outcomes

Array = npt.NDArray[Any]
BUCKET = "bucket"


class AbUsers(NamedTuple):
    """Users of one bucket alone whose hours are over."""

    bucket: Array  # [U] names, by time of the first impression
    day: Array  # [U] of the first impression, from the start of the log on
    conversion: Array  # [U] 1 with an event, else 0
    value: Array  # [U] of all events
    before: Array  # [U] the value of the events before the first impression
    assigned: dict[str, int]  # users of each bucket, those whose hours are not over yet included
    in_several: int  # users of several buckets, left out


def ab_users(log: pl.DataFrame, outcomes: Outcomes, hours: float, buckets: list[str]) -> AbUsers:
    """Return the outcomes of all users of the test.

    Args:
        log: impressions; those of an empty bucket are no part of the test.
        outcomes: from impression_log.read_outcome_events.
        hours: how long a user's outcomes count.
        buckets: their names.

    Raises:
        UserError: impressions of other buckets, or of none.
    """
    test = log.filter(pl.col(BUCKET) != "").with_columns(ids(log.filter(pl.col(BUCKET) != "")[USER], TextForm()))
    found = sorted(test[BUCKET].unique().to_list())
    if not found or set(found) - set(buckets):
        raise UserError(f"the log has the buckets {', '.join(found) or '(none)'}; expected {', '.join(buckets)}")
    users = test.group_by(USER).agg(
        pl.col(TIMESTAMP).min().alias("first"), pl.col(BUCKET).first(), (pl.col(BUCKET).n_unique() > 1).alias("several")
    )
    single = users.filter(~pl.col("several")).sort("first", USER)
    counts = dict(single[BUCKET].value_counts().rows())
    done = single.filter(pl.col("first") + int(hours * HOUR) <= (outcomes.end or 0))
    after = (pl.col(TIMESTAMP) - pl.col("first")).alias("after")
    mine = outcomes.events.join(done.select(USER, "first"), on=USER).with_columns(after)
    inside = pl.col("after").is_between(0, int(hours * HOUR))
    sums = mine.group_by(USER).agg(
        inside.any().cast(pl.Float64).alias("conversion"),
        pl.col(VALUE).filter(inside).sum(),
        pl.col(VALUE).filter(pl.col("after") < 0).sum().alias("before"),
    )
    table = done.join(sums, on=USER, how="left", maintain_order="left").fill_null(0.0)
    return AbUsers(
        bucket=np.array(table[BUCKET].to_list(), dtype=str),
        day=(table["first"].to_numpy() - log[TIMESTAMP].min()) / (24 * HOUR),
        conversion=table["conversion"].to_numpy(),
        value=table[VALUE].to_numpy(),
        before=table["before"].to_numpy(),
        assigned={name: counts.get(name, 0) for name in buckets},
        in_several=users.height - single.height,
    )
