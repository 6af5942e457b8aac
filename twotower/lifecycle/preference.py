"""Read out interleaved lists: which of two rankings do visitors prefer?

Each session is a vote for the ranking whose items had more outcomes; sessions that are even have no vote. Chance alone
gives each ranking half of the votes, so the test is exact (sign test; Chapelle et al. 2012). Shapes: E shown items.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Array = npt.NDArray[Any]


class Preference(NamedTuple):
    """Votes of sessions."""

    first: int
    second: int
    even: int
    share: float  # of the votes that the second has; NaN without votes
    low: float  # of its 95 % interval (Clopper & Pearson 1934)
    high: float
    p_value: float  # of a share of one half


def preference(session: Array, team: Array, outcome: Array) -> Preference:
    """Count the votes.

    >>> votes = preference(np.repeat(np.arange(10), 2), np.tile([0, 1], 10), np.tile([0, 1], 10))
    >>> votes.second, round(votes.p_value, 4)
    (10, 0.002)

    Args:
        session: [E] any codes; of a user where one should have one vote.
        team: [E] 0 where the first ranking picked the item, 1 for the second.
        outcome: [E] above 0 where the shown item had one.
    """
    number = np.unique(session, return_inverse=True)[1]
    lead = np.bincount(number, (outcome > 0) * np.where(team == 1, 1, -1))
    first, second = int((lead < 0).sum()), int((lead > 0).sum())
    if first + second == 0:
        return Preference(0, 0, len(lead), np.nan, np.nan, np.nan, 1.0)
    test = binomtest(second, first + second)
    low, high = test.proportion_ci(0.95)
    share = second / (first + second)
    return Preference(first, second, len(lead) - first - second, share, float(low), float(high), float(test.pvalue))
