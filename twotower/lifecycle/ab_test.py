"""Read out an A/B test: differences of buckets per user, with intervals for one look and for one each day.

Variance is reduced by what users did before the test (CUPED, Deng et al. 2013): the part of the outcome that a linear
function of it explains is taken off in both buckets alike. Shapes: U users.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import chisquare

from twotower.core.errors import UserError
from twotower.lifecycle.group_sequential import daily_half_width, fixed_half_width

Array = npt.NDArray[Any]
FEWEST = 30  # users of a bucket, for the normal approximation
MISMATCH = 0.001  # p-value below which bucket sizes are no chance (Fabijan et al. 2019)


class Difference(NamedTuple):
    """Mean per user in two buckets, and their difference."""

    control: float
    treatment: float
    difference: float  # with CUPED that of the adjusted means
    once: float  # half width of the 95 % interval for one look, planned beforehand
    daily: float  # of the one that may be looked at every day
    explained: float  # share of the variance that CUPED took off; 0 without it

    @property
    def relative(self) -> float:
        """The difference as a share of the control's mean; NaN where that is 0."""
        return self.difference / self.control if self.control else math.nan


def difference(
    control: Array, treatment: Array, planned: int, days: float, before: tuple[Array, Array] | None = None
) -> Difference:
    """Compare an outcome per user.

    >>> random = np.random.default_rng(0)
    >>> old, new = random.normal(10, 2, 5000), random.normal(10.5, 2, 5000)
    >>> result = difference(old, new, planned=10_000, days=28)
    >>> bool(abs(result.difference - 0.5) < result.once < result.daily)
    True

    Args:
        control: [U] of the control's users.
        treatment: [U] of the treatment's users.
        planned: users of both together, at least those of now, that the test was planned for; see group_sequential.
        days: since the first user came.
        before: the same two of a figure from before the test, such as the users' revenue then.

    Raises:
        UserError: fewer than FEWEST users in a bucket.
    """
    for name, values in (("control", control), ("treatment", treatment)):
        if len(values) < FEWEST:
            raise UserError(f"the {name} has {len(values)} users with a complete outcome; at least {FEWEST} are needed")
    adjusted, explained = (control, treatment), 0.0
    if before is not None:
        centred = [b - np.concatenate(before).mean() for b in before]
        within = [np.cov(b, y) for b, y in zip(centred, adjusted, strict=True)]  # [2, 2]; no effect of the bucket in it
        size = [len(control), len(treatment)]
        pooled = np.average(within, axis=0, weights=size)
        slope = pooled[0, 1] / pooled[0, 0] if pooled[0, 0] > 0 else 0.0
        explained = float(slope * pooled[0, 1] / pooled[1, 1]) if pooled[1, 1] > 0 else 0.0
        adjusted = (control - slope * centred[0], treatment - slope * centred[1])
    error = math.sqrt(sum(float(y.var(ddof=1)) / len(y) for y in adjusted))
    users = len(control) + len(treatment)
    return Difference(
        control=float(control.mean()),
        treatment=float(treatment.mean()),
        difference=float(adjusted[1].mean() - adjusted[0].mean()),
        once=fixed_half_width(error),
        daily=daily_half_width(error, users / planned, max(days, 1.0) * planned / users),
        explained=explained,
    )


def sample_ratio(users: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the p-value of bucket sizes as far from their shares as these; below MISMATCH the test is broken.

    >>> round(sample_ratio({"old": 5100, "new": 4900}, {"old": 0.5, "new": 0.5}), 3)
    0.046
    """
    expected = np.array([shares[name] for name in users], dtype=np.float64)
    observed = np.array([*users.values()], dtype=np.float64)
    return float(chisquare(observed, expected / expected.sum() * observed.sum()).pvalue)
